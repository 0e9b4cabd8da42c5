"""MachineLine: the limit of the bandwidth for the processes of one machine that share no Redis.

The same queue in time as the fleet's (workers.fleet.bandwidth): a moment at which the line is free, which whoever wants
to accept bytes moves on. Here it stands in a file, under a lock of the kernel, by the clock that all processes of a
machine share.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from pathlib import Path
from typing import Final

from hive.plain_file import open_plain_file
from hive.store.dirfd import open_folder
from hive.store.layout import LOCKS
from workers.bandwidth import SHARE_S, Gcra

#: Seconds by which the line may be booked ahead; more is a clock that began anew.
BOOKED_MAX_S: Final = 600.0
_NAME: Final = "bandwidth"
_MOMENT: Final = struct.Struct("<d")


class MachineLine:
    """This process' place in the machine's queue; see `workers.bandwidth.Line`. Not for threads."""

    #: The limit is a setting here and does not change.
    changes = 0

    def __init__(self, store: Path, bytes_per_second: int) -> None:
        """0: no limit."""
        self._store = store
        self._limit = bytes_per_second
        self._file: int | None = None
        self._own = Gcra()

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._limit > 0

    @property
    def share(self) -> int | None:
        """The whole of it: how many others there are is not known."""
        return self._limit or None

    def look(self) -> None:
        """Nothing changes."""

    def book(self, n_bytes: int) -> tuple[bool, float]:
        """The moment (monotonic) from which these bytes may be accepted, 0.0 for now."""
        if not self._limit:
            return True, 0.0
        try:
            return True, self._book(n_bytes)
        except OSError:
            return True, self._own.book(n_bytes, self._limit)

    def _book(self, n_bytes: int) -> float:
        if self._file is None:
            with open_folder(self._store, LOCKS, create=True) as folder:
                self._file = open_plain_file(_NAME, os.O_RDWR | os.O_CREAT, 0o666, folder=folder)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            now_s, free_s = time.monotonic(), 0.0
            with contextlib.suppress(struct.error):
                free_s = _MOMENT.unpack(os.pread(self._file, _MOMENT.size, 0))[0]
            if not now_s - SHARE_S <= free_s <= now_s + BOOKED_MAX_S:
                free_s = now_s - SHARE_S
            os.pwrite(self._file, _MOMENT.pack(free_s + n_bytes / self._limit), 0)
            return free_s
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
