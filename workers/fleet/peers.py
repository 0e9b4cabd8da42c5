"""FleetPeers: what one claimed download agrees on with all others of its fleet, through Redis."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hive.disk_errors import disk_error
from hive.downloads.tracker import DownloadTracker
from hive.store.partial_lock import PartialLocks
from hive.wire.events import Event
from workers.fleet import FleetLimits
from workers.fleet.file_lease import FileLeases
from workers.fleet.patience import until_redis_answers
from workers.fleet.quota import QuotaShare
from workers.fleet.reservation import Reservation
from workers.transfer import Control, Cooldown


class FleetPeers:
    """The fleet, as `workers.coordination.Peers` wants it; whoever asks waits while Redis is away."""

    def __init__(
        self,
        limits: FleetLimits,
        leases: FileLeases,
        reservation: Reservation,
        tracker: DownloadTracker,
        control: Control,
        locks: PartialLocks,
        quota: QuotaShare,
    ) -> None:
        self._quota = quota
        self._locks = locks
        self._limits = limits
        self._leases = leases
        self._reservation = reservation
        self._tracker = tracker
        self._control = control

    @property
    def cooldown(self) -> Cooldown:
        """Hosts that asked any worker for a rest."""
        return self._limits.cooldown

    @property
    def limited(self) -> bool:
        """Whether a limit of the bandwidth applies now."""
        return self._limits.bandwidth.limited

    def acquire(self, name: str) -> str | None:
        """The lease of a partial file: None when it is ours, else who has it."""
        owner = until_redis_answers(lambda: self._leases.acquire(name), self._control)
        if owner is None and not self._locked(name):
            self._leases.release(name)  # another hive on this store writes it; who, only its own Redis knows
            return ""
        return owner

    def release(self, name: str) -> None:
        """Give the lease up."""
        self._locks.release(name)
        self._leases.release(name)

    def _locked(self, name: str) -> bool:
        try:
            return self._locks.acquire(name)
        except OSError as error:
            raise disk_error(error) from error

    def progress_of(self, download_id: str) -> Event | None:
        """The latest event of another download."""
        record = until_redis_answers(lambda: self._tracker.read(download_id), self._control)
        return record.last_event if record is not None else None

    def take_room(self, sizes: Iterable[tuple[Path, int]]) -> None:
        """Reserve room. Raises DiskFull."""
        self._reservation.take(sizes)

    def give_room(self, partial: Path) -> None:
        """This file needs no more room."""
        self._reservation.done(partial)

    def take_quota(self, files: Iterable[tuple[Path, int | None]]) -> None:
        """Take what is missing of these files from the owner's bytes of the day. Raises QuotaExceeded."""
        self._quota.take(files)

    def grow_quota(self, done: int, total: int | None) -> None:
        """The same of a file whose size was not known."""
        self._quota.grow(done, total)

    def update_room(self) -> None:
        """Say how much is outstanding."""
        self._reservation.update()
