"""Log files of child processes: opened to append to, rotated by size when they are opened, read from their end.

Problem: what a child says must survive it, and its log must not grow for ever. The easy way, `logging.handlers`, needs
a process that reads the child's output and writes it on; a child that gets the file itself goes on logging when its
parent is dead. A file that a child has open cannot be rotated under it, so that happens at the next start: once beyond
a size it becomes `<name>.1`, and the one before that is gone. A `RotatedFile` is written by those who know of it, so it
is rotated the same way while they run.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from pathlib import Path
from typing import BinaryIO, Final

from hive.plain_file import open_plain_file

#: Bytes at which a log is moved aside; one old log is kept.
MAX_LOG_BYTES: Final = 4 << 20
#: Bytes at which a file that is rotated while it is written is moved aside.
MAX_ROTATED_BYTES: Final = 32 << 20
#: Bytes of a log that are read for its last lines.
TAIL_BYTES: Final = 16_384
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT

log = logging.getLogger("hive.processes.log_file")


class RotatedFile:
    """A file for its owner alone that several processes append to. Whoever sees it grown moves it to `<name>.1`."""

    def __init__(self, path: Path, max_bytes: int = MAX_ROTATED_BYTES) -> None:
        """Raises OSError where it cannot be written."""
        self._path = path
        self._max_bytes = max_bytes
        self._descriptor = self._open()

    def descriptor(self) -> int:
        """Where the next line goes: the file, or standard error where it cannot be opened any more. Not for two
        threads.
        """
        try:
            if self._is_moved():
                self._reopen()
            if os.fstat(self._descriptor).st_size > self._max_bytes:
                self._rotate()
        except OSError as error:
            log.error("a log file cannot be written", extra={"fields": {"path": str(self._path), "reason": str(error)}})
            return 2
        return self._descriptor

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def _open(self) -> int:
        descriptor = open_plain_file(self._path, _APPEND)
        try:
            os.fchmod(descriptor, 0o600)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _is_moved(self) -> bool:
        """Whether the name is another file's by now, or nobody's: another process, or logrotate, has moved ours."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True

    def _reopen(self) -> None:
        new = self._open()
        os.close(self._descriptor)
        self._descriptor = new

    def _rotate(self) -> None:
        """One of the processes moves it, the others see that it is moved."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        if not self._is_moved():
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._reopen()


def open_log(path: Path) -> BinaryIO:
    """The log, to append to; another process may be writing to it. One that has grown too long is moved aside first.

    Raises:
        OSError: it cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return os.fdopen(open_plain_file(path, _APPEND), "ab")


def tail(path: Path, lines: int, since: int = 0) -> list[str]:
    """The last lines of what was written from the byte `since` on; none where there is no such file."""
    with contextlib.suppress(OSError), os.fdopen(open_plain_file(path, os.O_RDONLY), "rb") as log:
        log.seek(max(since, os.fstat(log.fileno()).st_size - TAIL_BYTES))
        return log.read(TAIL_BYTES).decode(errors="replace").splitlines()[-lines:]
    return []
