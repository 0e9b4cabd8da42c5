"""Reservations: room on the disk that a download will need and has not taken yet.

Problem: a download of forty shards is refused by the thirtieth when the disk is full, after hours; and two that each
fit both begin, where together they do not. The easy way, to allocate every file at once, takes the room of a whole
download for as long as it runs, and some filesystems cannot allocate ahead at all. So each download says in Redis how
many bytes it will still take, and one that would not fit beside the others is refused before its first byte. What is
allocated already is seen in the free space itself, so the number shrinks as files are begun. The entry of a download
counts for as long as that one has a lease.

While Redis is away only the free space counts.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from redis.exceptions import RedisError

from hive.disk_errors import disk_full
from hive.errors import DiskFull
from hive.redis.client import RedisClient
from hive.redis.lua import Script, load
from hive.wire import keys
from workers.transfer import STAT_BLOCK_BYTES, Control, Limits, data_path, free_bytes

log = logging.getLogger("workers.fleet.reservation")

#: Seconds between two looks at what has been allocated meanwhile.
UPDATE_INTERVAL_S = 2.0
#: Seconds for which a download that does not fit looks again, and between two looks: longer than the others take to
#: say what they have allocated.
PATIENCE_S, LOOK_INTERVAL_S = 3.0, 0.25


class Reservation:
    """The room of one download. Not for threads, but `update` may be called from any: an update too many is none."""

    def __init__(self, client: RedisClient, download_id: str, store: Path, limits: Limits, control: Control) -> None:
        """`store`: a folder on the filesystem in question. `control` ends a wait for room."""
        self._redis = client
        self._control = control
        self._id = download_id
        self._store = store
        self._limits = limits
        self._reserve = Script(client, load("workers.fleet", "reserve"))
        self._sizes: dict[Path, int] = {}
        self._said = 0
        self._next_s = 0.0

    def take(self, sizes: Iterable[tuple[Path, int]]) -> None:
        """Reserve room for these partial files with their sizes, besides those taken before.

        What another one has allocated just now it says a little later, so a refusal is looked at for some seconds.

        Raises:
            DiskFull: they do not fit beside what other downloads have reserved.
            HiveError: what `control` was cancelled with.
        """
        self._sizes.update(sizes)
        if not self._sizes:
            return
        give_up_s = time.monotonic() + PATIENCE_S
        while (refused := self._refused()) is not None:
            if time.monotonic() >= give_up_s:
                raise refused
            self._control.sleep(LOOK_INTERVAL_S)

    def done(self, partial: Path) -> None:
        """This file is published: it needs no more room."""
        self._sizes.pop(partial, None)

    def update(self) -> None:
        """Say how much is still outstanding, every few seconds at most."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + UPDATE_INTERVAL_S
        outstanding = self._outstanding()
        if outstanding != self._said:
            try:
                self._redis.hset(keys.RESERVED, self._id, outstanding)
                self._said = outstanding
            except RedisError as error:
                log.debug("the reservation stays as it was", extra={"fields": {"reason": str(error)}})

    def release(self) -> None:
        """Give it back. A Redis that is away forgets it with the lease."""
        try:
            self._redis.hdel(keys.RESERVED, self._id)
        except RedisError as error:
            log.debug("the reservation ends with the lease", extra={"fields": {"reason": str(error)}})

    def _refused(self) -> DiskFull | None:
        """Reserve what is outstanding; why not, where it does not fit."""
        needed, free = self._outstanding(), free_bytes(self._store, self._limits)
        try:
            fits, others = self._reserve(
                reservations=keys.RESERVED, leases=keys.LEASES, id=self._id, needed=needed, free=free
            )
        except RedisError as error:
            log.warning("nothing is reserved while Redis is away", extra={"fields": {"reason": str(error)}})
            fits, others = needed <= free or needed == 0, 0
        self._said = needed
        return None if fits else _full(self._store, needed, free, int(others))

    def _outstanding(self) -> int:
        return sum(max(0, size - _allocated(data_path(partial))) for partial, size in list(self._sizes.items()))


def _full(store: Path, needed: int, free: int, others: int) -> DiskFull:
    return disk_full(store, needed=needed, available=max(0, free - others), reserved=others)


def _allocated(path: Path) -> int:
    """Bytes that the file takes on the disk."""
    try:
        return os.stat(path, follow_symlinks=False).st_blocks * STAT_BLOCK_BYTES
    except OSError:
        return 0
