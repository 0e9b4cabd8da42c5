"""Repositories as they are found on the Hub: true names and true sizes, to test what hive picks from them.

Their large files are listed only, unless `served_bytes` is given: then each is a made-up file of that many bytes, which
can be fetched like any other.
"""

from tests.hub.listings.gguf import many_quants, sharded_quants, unsloth
from tests.hub.listings.others import diffusers, small_files, tiny
from tests.hub.listings.transformers import sharded_safetensors, single_safetensors

__all__ = [
    "diffusers",
    "many_quants",
    "sharded_quants",
    "sharded_safetensors",
    "single_safetensors",
    "small_files",
    "tiny",
    "unsloth",
]
