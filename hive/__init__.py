"""hive: model files from the Hugging Face Hub or a URL onto a shared store, once, verified and resumable, with
progress for all who watch.
"""

from hive.version import VERSION as __version__

__all__ = ["__version__"]
