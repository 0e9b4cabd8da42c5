"""SIGTERM in a work-horse: a flag, and whoever wants to know at once.

The handler is set before the download begins, so that a signal in the first instant is not lost.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


class Drain:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._callback: Callable[[], None] | None = None

    def install(self) -> None:
        """Handle SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self.request)

    def request(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Ask this process to stop."""
        self.requested = True
        if self._callback is not None:
            self._callback()

    def on_request(self, callback: Callable[[], None] | None) -> None:
        """Call this when asked to stop; at once where that has happened already."""
        self._callback = callback
        if callback is not None and self.requested:
            callback()


#: The one of this process.
SHUTDOWN = Drain()
