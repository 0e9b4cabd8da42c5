"""The attempts of one connection: exponential backoff, and when to stop trying."""

from __future__ import annotations

from hive.errors import DownloadError
from hive.net.backoff import Backoff
from workers.transfer.limits import Limits


class Attempts:
    """The failures of one connection in a row. Full jitter: clients that failed together must not return together."""

    def __init__(self, limits: Limits) -> None:
        self._most = limits.attempts_max
        self._backoff = Backoff(limits.backoff_min_s, limits.backoff_max_s, factor=limits.backoff_factor)

    @property
    def failures(self) -> int:
        """So many in a row."""
        return self._backoff.failures

    def reset(self) -> None:
        """Bytes moved."""
        self._backoff.reset()

    def failed(self, reason: str) -> float:
        """Count a failure; gives the seconds to wait. Raises DownloadError(reason) when it was the last one."""
        wait_s = self._backoff.next_s()
        if self.failures >= self._most:
            # Without its context: the network's own errors may hold a URL.
            said = f"The download failed at attempt {self.failures}: {reason}. Start it again to resume."
            raise DownloadError(said) from None
        return wait_s
