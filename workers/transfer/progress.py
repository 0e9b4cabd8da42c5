"""What a caller hears while a file is fetched.

At most ten times a second, always from the thread that called `fetch`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from workers.transfer.limits import Limits

Status = Literal["downloading", "verifying", "retrying", "paused"]


@dataclass(frozen=True)
class Snapshot:
    """Where a fetch is."""

    #: Bytes on disk; never goes back, also when a bad part is fetched again.
    bytes_done: int
    #: None until the size is known.
    bytes_total: int | None
    #: Bytes that this call has fetched a second time.
    bytes_refetched: int
    connections: int
    status: Status
    #: Why, while retrying; holds no secret.
    message: str | None = None


OnProgress = Callable[[Snapshot], None]


class Reports:
    """Decides when to report. Used from one thread."""

    def __init__(self, on_progress: OnProgress | None, limits: Limits) -> None:
        self._on_progress = on_progress
        self._interval_s = limits.progress_interval_s
        self._last: Snapshot | None = None
        self._last_s = 0.0
        self._most_done = 0

    def due(self, status: Status) -> bool:
        """Whether `tell` would say something now; cheap, for those who would have to gather the figures."""
        if self._on_progress is None:
            return False
        changed = self._last is None or status != self._last.status
        return changed or time.monotonic() - self._last_s >= self._interval_s

    def tell(self, snapshot: Snapshot) -> None:
        """Report, unless nothing changed or the last report is too young."""
        self._most_done = max(self._most_done, snapshot.bytes_done)
        snapshot = replace(snapshot, bytes_done=self._most_done)
        if self._on_progress is None or snapshot == self._last or not self.due(snapshot.status):
            return
        self._last, self._last_s = snapshot, time.monotonic()
        self._on_progress(snapshot)
