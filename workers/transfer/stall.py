"""Stall detection: whether bytes move, and when to give up because they do not."""

from __future__ import annotations

import threading
import time

from hive.errors import DownloadTimeout
from workers.transfer.limits import Limits


class StallDetector:
    """Whether bytes move, for one connection or for a whole file. Safe from any thread.

    Problem: a source that sends a byte a second keeps every read alive. So bytes count as progress only once enough of
    them have come for the lowest rate that is still a download; the clock goes on until then.
    """

    def __init__(self, window_s: float, limits: Limits) -> None:
        """`window_s`: the longest time without progress."""
        self._window_s = window_s
        self._enough = max(1, int(window_s * limits.min_bytes_per_s))
        self._lock = threading.Lock()
        self._bytes = 0
        self._last_s = time.monotonic()
        self.count = 0

    def add(self, n_bytes: int) -> None:
        """So many bytes came."""
        with self._lock:
            self._bytes += n_bytes
            if self._bytes >= self._enough:
                self._restart()

    def restart(self) -> None:
        """Something else counts as progress: a complete part, a new connection."""
        with self._lock:
            self._restart()

    def excuse(self, seconds: float) -> None:
        """For so long nothing could move, and nobody is to blame (a pause, a limit of the caller's)."""
        with self._lock:
            self._last_s = min(self._last_s + seconds, time.monotonic())

    @property
    def idle_s(self) -> float:
        """Seconds since the last progress."""
        return time.monotonic() - self._last_s

    @property
    def stalled(self) -> bool:
        """Whether the window is over."""
        return self.idle_s > self._window_s

    def check(self, reason: str | None) -> None:
        """Raise DownloadTimeout when the window is over."""
        if self.stalled:
            why = f" The last answer: {reason}." if reason else ""
            raise DownloadTimeout(f"No byte arrived for {self._window_s:.0f} seconds.{why} Start it again to resume.")

    def _restart(self) -> None:
        self._bytes = 0
        self._last_s = time.monotonic()
        self.count += 1
