"""The few things that the standard library does not offer for files of a terabyte, and disk errors as hive's own."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from hive.disk_errors import disk_error, disk_full
from hive.plain_file import open_plain_file
from workers.transfer.limits import Limits

#: Bytes. Unit of st_blocks, whatever the filesystem's own block is.
STAT_BLOCK_BYTES = 512

#: Permissions of new files, before the umask: the store is shared.
FILE_MODE = 0o664

_CANNOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def open_data(path: Path) -> int:
    """A descriptor for reading and writing; the file is made when it is not there, and no link is followed."""
    return open_plain_file(path, os.O_RDWR | os.O_CREAT, FILE_MODE)


def reserve(fd: int, size: int, limits: Limits) -> None:
    """Make sure that `size` bytes fit: allocate what the file does not have yet. Raises DiskFull, StoreNotWritable.

    fallocate(2) is called directly, since os.posix_fallocate writes zeros where the filesystem cannot allocate: minutes
    for 100 GB. There the file is only given its length.
    """
    status = os.fstat(fd)
    check_room(fd, size - status.st_blocks * STAT_BLOCK_BYTES, limits)
    if status.st_size >= size and status.st_blocks * STAT_BLOCK_BYTES >= size:
        return
    with translated(needed=size):
        try:
            _fallocate(fd, size)
        except OSError as error:
            if error.errno not in _CANNOT_ALLOCATE:
                raise
            if status.st_size < size:
                os.ftruncate(fd, size)


def check_room(fd: int, needed: int, limits: Limits) -> None:
    """Raise DiskFull when `needed` more bytes would eat into what has to stay free."""
    if needed <= 0:
        return
    available = free_bytes(fd, limits)
    if needed > available:
        raise disk_full(None, needed=needed, available=available)


def free_bytes(place: int | Path, limits: Limits) -> int:
    """Bytes that may be taken from the filesystem of a descriptor or a folder: what is free, less what has to stay
    so.
    """
    room = os.statvfs(place)
    kept = min(int(room.f_blocks * room.f_frsize * limits.keep_free_fraction), limits.keep_free_max_bytes)
    return max(0, room.f_bavail * room.f_frsize - kept)


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """pwrite until everything is written; raises OSError."""
    while data:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written


def sync_data(fd: int) -> None:
    """fdatasync, or fsync where the system has no other; raises OSError."""
    getattr(os, "fdatasync", os.fsync)(fd)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def translated(needed: int | None = None) -> Iterator[None]:
    """Inside the block an OSError of the disk becomes the HiveError a person can act on."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, needed=needed) from error


def _fallocate(fd: int, size: int) -> None:
    call = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while call(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


_libc = ctypes.CDLL(None, use_errno=True)
