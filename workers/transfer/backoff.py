"""When to try again, how long to wait, and when to stop trying."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Mapping

from hive.errors import DownloadError, DownloadTimeout
from hive.net.retry_after import parse_retry_after
from workers.transfer.limits import Limits

#: The draft's header as the Hub sends it: `"resolvers";r=0;t=55`, t being the seconds until the window ends.
_RATE_LIMIT_RESET = re.compile(r"\bt\s*=\s*(\d{1,6})")
_RATE_LIMIT_LEFT = re.compile(r"\br\s*=\s*(\d{1,9})")


class Backoff:
    """The failures of one connection in a row. Full jitter: clients that failed together must not return together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.attempts = 0

    def reset(self) -> None:
        """Bytes moved."""
        self.attempts = 0

    def failed(self, reason: str) -> float:
        """Count a failure; gives the seconds to wait. Raises DownloadError(reason) when it was the last one."""
        self.attempts += 1
        if self.attempts >= self._limits.attempts_max:
            # Without its context: the network's own errors may hold a URL.
            said = f"The download failed after {self.attempts} attempts: {reason}. Start it again to resume."
            raise DownloadError(said) from None
        bound = self._limits.backoff_min_s * self._limits.backoff_factor ** (self.attempts - 1)
        return random.uniform(0, min(bound, self._limits.backoff_max_s))


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


def retry_after_s(headers: Mapping[str, str], limits: Limits) -> float | None:
    """The seconds that an answer asks to wait (Retry-After as seconds or date, or the RateLimit reset), capped.

    None without.
    """
    seconds = parse_retry_after(headers.get("retry-after"))
    if seconds is None:
        seconds = _rate_limit_reset(headers)
    return None if seconds is None else min(max(seconds, 0.0), limits.retry_after_max_s)


def _rate_limit_reset(headers: Mapping[str, str]) -> float | None:
    standard = headers.get("ratelimit", "")
    left, reset = _RATE_LIMIT_LEFT.search(standard), _RATE_LIMIT_RESET.search(standard)
    if reset and (left is None or left[1] == "0"):
        return float(reset[1])
    older = headers.get("ratelimit-reset") or headers.get("x-ratelimit-reset") or ""
    return float(older[:9]) if older.strip().isdecimal() else None
