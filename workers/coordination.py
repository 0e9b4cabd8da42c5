"""What a download needs of those who run it: somebody to tell how far it is, and an agreement with all others.

A worker agrees with its fleet through Redis (workers.fleet), a command that downloads by itself with the other
processes of its machine through the kernel (workers.local). Resolving, fetching and publishing are the same for both,
and know only these two.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from hive.wire.events import ActiveStatus, Event
from workers.transfer import Cooldown


class ProgressListener(Protocol):
    """Hears where the download is. Safe from any thread; never blocks."""

    def status(self, status: ActiveStatus, message: str | None = None) -> None:
        """What it does now."""

    def plan(self, *, bytes_total: int, files_total: int, files_done: int, bytes_done: int) -> None:
        """What there is to do, and how much of it was on disk already."""

    def file(self, path: str, bytes_done: int, bytes_total: int) -> None:
        """One file got further. Bytes count when written."""

    def file_done(self, path: str, size: int, refetched: int = 0) -> None:
        """One file is verified and published."""


class Peers(Protocol):
    """The other downloads: who writes which partial file, who needs how much room, which hosts rest."""

    @property
    def cooldown(self) -> Cooldown:
        """Hosts that asked for a rest."""

    @property
    def limited(self) -> bool:
        """Whether a limit of the bandwidth applies now."""

    def acquire(self, name: str) -> str | None:
        """None when the partial file is ours now, else the id of the download that has it, '' where it is not known.

        Raises:
            HiveError: the download was cancelled meanwhile.
        """

    def release(self, name: str) -> None:
        """Give the partial file up."""

    def progress_of(self, download_id: str) -> Event | None:
        """How far another download is, where that can be told.

        Raises:
            HiveError: the download was cancelled meanwhile.
        """

    def take_room(self, sizes: Iterable[tuple[Path, int]]) -> None:
        """Reserve room for these partial files with their sizes.

        Raises:
            DiskFull: they do not fit beside what others have reserved.
            HiveError: the download was cancelled meanwhile.
        """

    def give_room(self, partial: Path) -> None:
        """This file is published: it needs no more room."""

    def take_quota(self, files: Iterable[tuple[Path, int | None]]) -> None:
        """Take what is missing of these partial files from the bytes that the download's owner may receive on a day;
        their sizes, None where their server does not say. They are not gone through where nobody counts.

        Raises:
            QuotaExceeded: that is more than is left.
            HiveError: the download was cancelled meanwhile.
        """

    def grow_quota(self, done: int, total: int | None) -> None:
        """How far a file is whose size was not known, and the size where it is known now. Where more comes than is left
        the download is cancelled, as QuotaExceeded.
        """

    def update_room(self) -> None:
        """Say how much room is still outstanding, every few seconds at most."""
