"""A file that somebody has named, read after a non-blocking open: bounded in bytes and time, whatever the name means.

Problem: a setting may name anything. A pipe that nobody writes to keeps a plain `open` waiting for ever, a device has
no end, and a wrong name may be 100 GB of weights. The easy way, to refuse all but plain files, breaks
`--token-file <(pass show hub)`, where a shell hands over a pipe. So the file is opened without waiting, looked at, and
a pipe is read for as long as somebody may still write to it, and no longer.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

#: Seconds that somebody has to open a pipe for writing; and to write and close it, who may be asked for a passphrase.
WRITER_WAIT_S: Final = 5.0
WRITTEN_WAIT_S: Final = 60.0
#: Seconds between two looks whether somebody has opened a pipe, which nothing tells.
_LOOK_S: Final = 0.1
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_given_file(
    path: str | Path, max_bytes: int, check: Callable[[os.stat_result], None] = lambda _status: None
) -> bytes:
    """All that the file or pipe holds. `check` may refuse what it is, by its own error, before anything is read.

    Raises:
        OSError: it cannot be read, holds more, is neither, or is a pipe that nobody writes to. `strerror` says which.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        check(status)
        if stat.S_ISFIFO(status.st_mode):
            data = _read_pipe(descriptor, max_bytes)
        else:
            _check_plain(status.st_mode)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    _check_size(len(data), max_bytes)
    return data


def check_given_file(path: str | Path, max_bytes: int) -> None:
    """See that a library which opens this name itself comes to an end.

    Raises:
        OSError: it cannot be read, is no plain file, or holds more bytes. `strerror` says which.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    _check_plain(status.st_mode)
    _check_size(status.st_size, max_bytes)


def _read_pipe(descriptor: int, max_bytes: int) -> bytes:
    poll, began_s, data, has_writer = select.poll(), time.monotonic(), bytearray(), False
    poll.register(descriptor, select.POLLIN)
    while len(data) <= max_bytes:
        try:
            # Nothing: no pipe end is open for writing, any more or yet.
            received = os.read(descriptor, max_bytes + 1 - len(data))
        except BlockingIOError:
            has_writer = True
        else:
            data += received
            if received:
                continue
            if data or has_writer:
                break
        if time.monotonic() - began_s > (WRITTEN_WAIT_S if has_writer else WRITER_WAIT_S):
            raise TimeoutError(errno.ETIMEDOUT, "it is a pipe, and nobody writes to it")
        has_writer = has_writer or any(event & select.POLLHUP for _, event in poll.poll(_LOOK_S * 1000))
    return bytes(data)


def _check_plain(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe, and no plain file")


def _check_size(n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise OSError(errno.EFBIG, f"it holds more than {max_bytes} bytes")
