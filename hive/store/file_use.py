"""A shared lock of the kernel (flock) on the files of a model in memory, which whoever removes files looks for.

Problem: an engine reads its model for hours, and whoever deletes or collects may know nothing of it: a command without
a server, a server of another hive on the same store. The easy way, to ask Redis, asks only one's own hive. So the
process that looks after the engine holds a shared lock on the very files, and a file is in use while it cannot be
locked for oneself. The lock ends with its process, however that dies; nothing is written, nothing is left behind.

Where the filesystem has no locks nothing is seen to be in use, as before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

#: Seconds for which a lock is tried: who looks holds it for an instant. And seconds between two tries.
HOLD_TIMEOUT_S: Final = 1.0
RETRY_S: Final = 0.005

_TAKEN: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN})
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class FileUse:
    """Files that are in use until `close`."""

    def __init__(self) -> None:
        self._files: list[int] = []

    def hold(self, paths: Iterable[Path]) -> Self:
        """Use these files, too. Raises OSError where one cannot be opened."""
        for path in paths:
            file = os.open(path, _FLAGS)
            self._files.append(file)
            deadline_s = time.monotonic() + HOLD_TIMEOUT_S
            while _is_taken(file, fcntl.LOCK_SH) and time.monotonic() < deadline_s:
                time.sleep(RETRY_S)
        return self

    def close(self) -> None:
        """They are not in use any more, by us."""
        while self._files:
            os.close(self._files.pop())


def is_in_use(path: str | Path, folder: int | None = None) -> bool:
    """Whether a process uses this file, whose path may begin at an open folder; False where it is not there."""
    with contextlib.suppress(OSError):
        file = os.open(path, _FLAGS, dir_fd=folder)
        try:
            return _is_taken(file, fcntl.LOCK_EX)
        finally:
            os.close(file)
    return False


def _is_taken(file: int, kind: int) -> bool:
    """Try to lock it; whether another one's lock is in the way."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _TAKEN
    return False
