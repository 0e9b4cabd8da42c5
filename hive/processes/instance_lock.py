"""The lock on HIVE_HOME: one running hive for each home, and where to find it.

Problem: two servers on one append-only file destroy it, and `hive pull` must find the server that runs already, on
whatever port. The easy way, a pid file, lies after a crash and when pids are used again. So: a lock of the kernel
(flock), which ends with its process however that dies, on a file that says who holds it. What the file says counts only
while the lock is held.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import NamedTuple

from hive.plain_file import open_plain_file

#: Name of the file in HIVE_HOME.
LOCK_NAME = "hive.lock"
#: Seconds that taking the lock waits: a reader holds it for an instant to see whether it is free.
ACQUIRE_TIMEOUT_S = 0.5
#: Seconds between two tries.
RETRY_S = 0.02
#: Bytes of the file that are read; what we write has some 150.
MAX_LOCK_BYTES = 4096


class Holder(NamedTuple):
    """Who holds a home: pid, and address (None while it starts).

    `private` says that an older hive runs it for the time of one pull.
    """

    pid: int
    address: str | None = None
    private: bool = False


class HomeInUse(RuntimeError):
    """Another hive runs on this home; `holder` says which, where the file could be read."""

    def __init__(self, home: Path, holder: Holder | None) -> None:
        self.home = home
        self.holder = holder
        who = f" (pid {holder.pid})" if holder else ""
        where = f" at {holder.address}" if holder and holder.address else ""
        super().__init__(f"hive is running already on {home}{where}{who}.")


class InstanceLock:
    """Holds a home from `acquire` until `release` or the end of the process. Children do not inherit it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, making the home (mode 0700) where there is none.

        Raises:
            HomeInUse: when another process holds it.
            OSError: when the home cannot be made or its filesystem has no locks.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = open_plain_file(self.home / LOCK_NAME, os.O_RDWR | os.O_CREAT)
        try:
            deadline = time.monotonic() + ACQUIRE_TIMEOUT_S
            while not _try_lock(descriptor, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise HomeInUse(self.home, _parse(os.pread(descriptor, MAX_LOCK_BYTES, 0)))
                time.sleep(RETRY_S)
            _write(descriptor, Holder(os.getpid()))
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def announce(self, address: str) -> None:
        """Say where the server of this home listens.

        Call it when the server answers, not before: clients go there at once.
        """
        if self._descriptor is None:
            raise RuntimeError("the home is not locked")
        _write(self._descriptor, Holder(os.getpid(), address))

    def release(self) -> None:
        """Give the home back. Does nothing where it is not held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def holder_of(home: Path) -> Holder | None:
    """Who runs on this home now, or None where nobody does."""
    try:
        descriptor = open_plain_file(home / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        if _try_lock(descriptor, fcntl.LOCK_SH):
            return None
        return _parse(os.pread(descriptor, MAX_LOCK_BYTES, 0))
    finally:
        os.close(descriptor)


def _write(descriptor: int, holder: Holder) -> None:
    import json  # where it is used: most commands find no lock, and are over before it would be loaded

    data = json.dumps(holder._asdict()).encode()
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parse(data: bytes) -> Holder | None:
    import json

    try:
        fields = json.loads(data)
        address = fields["address"]
        return Holder(int(fields["pid"]), None if address is None else str(address), bool(fields["private"]))
    except (ValueError, KeyError, TypeError):
        return None
