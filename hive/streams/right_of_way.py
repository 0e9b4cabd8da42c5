"""Right of way: while subscribers are told something, files wait.

Problem: telling a thousand subscribers takes ten milliseconds of a core, and threads that send files want the same core
at that moment: it takes twice as long, and each event is as much later. The easy way, a lower priority for the threads,
changes nothing: they work inside the kernel, and hold the interpreter's lock for a moment at each return. So they ask
before each call, which is a fraction of a millisecond, and stand still while somebody is told. Not for long: where
there is always somebody, files go on slowly.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from typing import Final

#: Seconds that a call for a file waits at most.
MAX_WAIT_S: Final = 0.02


class RightOfWay:
    """The way of one process. The event loop has it, and threads give it."""

    def __init__(self) -> None:
        self._is_free = threading.Event()
        self._is_free.set()

    @contextlib.contextmanager
    def taken(self) -> Generator[None]:
        """Inside the block others wait. For the event loop."""
        self._is_free.clear()
        try:
            yield
        finally:
            self._is_free.set()

    def give(self) -> None:
        """Return when nobody has it, after `MAX_WAIT_S` at the latest. For any thread but the event loop's."""
        self._is_free.wait(MAX_WAIT_S)
