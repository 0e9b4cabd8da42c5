"""Locks of the kernel (flock) on files of the store: who works on what, among processes that share no Redis.

Problem: two commands of one machine may want the same download, or the same partial file, and neither may go on when
the other has died without a word. The easy way, a pid file, lies after a crash and when pids are used again. A lock of
the kernel ends with its process however that dies. What the file says (who holds it) counts only while it is held.

The file goes with its lock, so a folder of locks does not grow. Hence the look after each lock whether the file is
still the one of that name: another process may have removed it between the open and the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from hive.errors import StoreMissing
from hive.plain_file import open_plain_file
from hive.store.dirfd import open_folder, remove_file
from hive.store.layout import LOCKS

#: Seconds that taking a lock waits: a reader holds it for an instant to see whether it is free.
ACQUIRE_TIMEOUT_S: Final = 0.1
#: Seconds between two tries.
RETRY_S: Final = 0.005
#: Bytes of a note that are read.
MAX_NOTE_BYTES: Final = 256


class FileLock:
    """The lock of one name in a store (`<store>/hive`), free until `acquire`. Not for threads."""

    def __init__(self, store: Path, name: str) -> None:
        self._store = store
        self._name = name
        self._file: int | None = None

    def acquire(self, note: str) -> bool:
        """Take the lock and say in it who has it; False where another one holds it.

        Raises:
            OSError: the store cannot be written.
        """
        deadline_s = time.monotonic() + ACQUIRE_TIMEOUT_S
        with open_folder(self._store, LOCKS, create=True) as folder:
            while True:
                with contextlib.ExitStack() as unless_held:
                    file = open_plain_file(self._name, os.O_RDWR | os.O_CREAT, 0o666, folder=folder)
                    unless_held.callback(os.close, file)
                    locked = _try_lock(file, fcntl.LOCK_EX)
                    if locked and _is_named(file, folder, self._name):
                        data = note.encode()[:MAX_NOTE_BYTES]
                        os.pwrite(file, data, 0)
                        os.ftruncate(file, len(data))
                        unless_held.pop_all()
                        self._file = file
                        return True
                if not locked:
                    if time.monotonic() >= deadline_s:
                        return False
                    time.sleep(RETRY_S)

    def release(self) -> None:
        """Give it back. Does nothing where it is not held."""
        if self._file is not None:
            with contextlib.suppress(OSError, StoreMissing), open_folder(self._store, LOCKS) as folder:
                remove_file(folder, self._name)
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


def holder_of(store: Path, name: str) -> str | None:
    """What the holder of this lock has noted; None where nobody holds it."""
    with contextlib.suppress(OSError), open_folder(store, LOCKS, missing_ok=True) as folder:
        if folder is None:
            return None
        file = open_plain_file(name, os.O_RDONLY, folder=folder)
        try:
            if _try_lock(file, fcntl.LOCK_SH):
                return None
            return os.pread(file, MAX_NOTE_BYTES, 0).decode(errors="replace")
        finally:
            os.close(file)
    return None


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(file: int, folder: int, name: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.stat(name, dir_fd=folder, follow_symlinks=False))
    return False
