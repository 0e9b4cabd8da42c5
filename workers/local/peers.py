"""MachinePeers: what a download agrees on with the other processes of its machine, through locks of the kernel."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hive.disk_errors import disk_error, disk_full
from hive.downloads.local import local_realm
from hive.settings import Settings
from hive.store.filesystem import nearest, partial_place
from hive.store.partial_lock import PartialLocks
from hive.wire.events import Event
from workers.bandwidth import BandwidthLimiter
from workers.fetch import limits_of
from workers.transfer import STAT_BLOCK_BYTES, Cooldown, Limits, LocalCooldown, data_path, free_bytes


class MachinePeers:
    """The other downloads of this machine, as `workers.coordination.Peers` wants them."""

    def __init__(self, settings: Settings, download_id: str, bandwidth: BandwidthLimiter, *, for_url: bool) -> None:
        self.cooldown: Cooldown = LocalCooldown()
        place = partial_place(settings, for_url=for_url)
        self._folder = nearest(place.path)
        self._locks = PartialLocks(place, local_realm(download_id))
        self._limits: Limits = limits_of(settings)
        self._bandwidth = bandwidth
        self._sizes: dict[Path, int] = {}

    @property
    def limited(self) -> bool:
        """Whether a limit of the bandwidth applies."""
        return self._bandwidth.limited

    def acquire(self, name: str) -> str | None:
        """The lock of a partial file: None when it is ours, else ''."""
        try:
            return None if self._locks.acquire(name) else ""
        except OSError as error:
            raise disk_error(error) from error

    def release(self, name: str) -> None:
        """Give the lock up."""
        self._locks.release(name)

    def release_all(self) -> None:
        """Give all locks up."""
        self._locks.release_all()

    def progress_of(self, download_id: str) -> Event | None:
        """Not known: the intent log has no figures of single files."""
        return None

    def take_room(self, sizes: Iterable[tuple[Path, int]]) -> None:
        """See that there is room for these files. Raises DiskFull. What others need is seen when they have allocated
        it.
        """
        self._sizes.update(sizes)
        needed = sum(max(0, size - _allocated(data_path(partial))) for partial, size in self._sizes.items())
        available = free_bytes(self._folder, self._limits) if needed else 0
        if needed > available:
            raise disk_full(self._folder, needed=needed, available=available)

    def give_room(self, partial: Path) -> None:
        """This file needs no more room."""
        self._sizes.pop(partial, None)

    def take_quota(self, files: Iterable[tuple[Path, int | None]]) -> None:
        """Nobody's: it is a command of this machine."""

    def grow_quota(self, done: int, total: int | None) -> None:
        """Nobody's."""

    def update_room(self) -> None:
        """Nothing is to be told."""


def _allocated(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_blocks * STAT_BLOCK_BYTES
    except OSError:
        return 0
