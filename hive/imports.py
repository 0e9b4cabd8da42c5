"""Imports without garbage collection: a collection looks in vain at what is being imported, for none of it goes.

Problem: some 90,000 objects come with the server's modules, and the collector looks at them again and again while they
come: a fifth of the time. The easy way, raising its thresholds, is for the whole life of the process. So it rests for
as long as an import takes, and what has come then is left out of it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """The collector rests in this block, and never looks at what was made in it; where it rests already, it goes on."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # It would begin with all of it.
            gc.freeze()
            gc.enable()
