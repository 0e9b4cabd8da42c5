"""Where a download is: the figures of its files, added up, as the event that shows them.

Whoever speaks for a download (a worker to Redis, a command to its terminal) is told of one file after the other, and
must say one thing of the whole. What was shown never shrinks: a part that is fetched again counts when it has passed
where it was.
"""

from __future__ import annotations

import msgspec

from hive.wire.events import BYTES_PER_MB, MAX_FILES_IN_EVENT, ActiveStatus, Downloading, FileProgress, shorten, shown
from hive.wire.jobs import Priority
from workers.speed import Meter


class Figures(msgspec.Struct):
    """What is known of the whole."""

    status: ActiveStatus = "resolving"
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0
    bytes_refetched: int = 0
    message: str | None = None


class Tally:
    """The figures of one download. Not for threads: whoever has one locks around it."""

    def __init__(self, *, attempt: int = 1, bytes_floor: int = 0, priority: Priority = "normal") -> None:
        """`bytes_floor` is what earlier attempts have shown."""
        self.figures = Figures()
        #: Bytes of the plan's files that were on disk before this attempt; None before there is a plan.
        self.found: int | None = None
        self._attempt = attempt
        self._priority = priority
        self._bytes_floor = bytes_floor
        self._files: dict[str, FileProgress] = {}
        self._done_bytes = 0
        self._meter = Meter()

    def status(self, status: ActiveStatus, message: str | None = None) -> bool:
        """A new status; whether it is another than before."""
        if (status, message) == (self.figures.status, self.figures.message):
            return False
        self.figures.status, self.figures.message = status, message and shorten(message)
        return True

    def plan(self, *, bytes_total: int, files_total: int, files_done: int, bytes_done: int) -> None:
        """What there is to do, and how much of it was on disk already."""
        self.figures.bytes_total, self.figures.files_total = bytes_total, files_total
        self.figures.files_done, self._done_bytes = files_done, bytes_done
        self.found = bytes_done

    def file(self, path: str, bytes_done: int, bytes_total: int) -> None:
        """One file got further. Bytes count when written."""
        self._files[path] = FileProgress(path, bytes_done, bytes_total)

    def file_done(self, path: str, size: int, refetched: int = 0) -> None:
        """One file is verified and published."""
        self._files.pop(path, None)
        self._done_bytes += size
        self.figures.files_done += 1
        self.figures.bytes_refetched += refetched

    def event(self) -> Downloading:
        """The event that says where the download is now."""
        figures = self.figures
        done = self._done_bytes + sum(file.bytes_downloaded for file in self._files.values())
        done = self._bytes_floor = max(done, self._bytes_floor)
        total = figures.bytes_total or self._done_bytes + sum(file.bytes_total for file in self._files.values())
        if total:
            done = min(done, total)
        self._meter.update(done)
        speed = self._meter.bytes_per_second if figures.status in ("downloading", "verifying") else 0
        return Downloading(
            bytes_downloaded=done,
            bytes_total=total,
            speed_mbps=round(speed / BYTES_PER_MB, 2),
            status=figures.status,
            bytes_per_second=speed,
            eta_seconds=self._meter.eta_seconds(total - done) if total else None,
            files_done=figures.files_done,
            files_total=figures.files_total,
            files=tuple(self._files.values())[:MAX_FILES_IN_EVENT],
            bytes_refetched=figures.bytes_refetched,
            attempt=self._attempt,
            priority=shown(self._priority),
            message=figures.message,
        )
