"""What a disk refuses, as an error that a person can act on: the system's sentence, and where.

Nobody can list what disks say, so the question is turned round: an error of the file system is one of the disk, unless
it is plainly a network's or a limit of the process itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final

from hive.errors import DiskFull, HiveError, StoreNotWritable
from hive.own_limits import limit_reached

#: What a full disk, or a full quota, says.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
#: What a person can do about it, where the system's sentence does not say so.
_WAYS_OUT: Final = {errno.EFBIG: " FAT takes 4 GiB a file; a process may have a limit too (ulimit -f)."}
#: What only a network says.
_NETWORK: Final = frozenset(
    {
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN, errno.EHOSTUNREACH),
        *(errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT),
    }
)


def is_disk_error(error: BaseException) -> bool:
    """Whether an error comes from a file system. An OSError does, unless it is plainly a network's."""
    if not isinstance(error, OSError) or error.errno is None:
        return False
    if error.filename is not None:
        return True
    # Nobody has met an error of a module that is not loaded, and loading it takes as long as a small command.
    tls_errors = (sys.modules["ssl"].SSLError,) if "ssl" in sys.modules else ()
    network = (socket.gaierror, ConnectionError, TimeoutError, *tls_errors)
    return not isinstance(error, network) and error.errno not in _NETWORK


def disk_error(error: OSError, path: Path | None = None, *, needed: int | None = None) -> HiveError:
    """What a disk refused, as an error that a person can act on: the system's sentence, and where.

    `path` is where it happened, for errors that do not say so themselves; `needed` the bytes that were to be written.
    DiskFull for a full disk or quota, ResourcesExhausted where this process has too many files open, StoreNotWritable
    for everything else that a disk may say: nobody can list it.
    """
    named = error.filename if isinstance(error.filename, str) and os.path.isabs(error.filename) else None
    where = named or (os.path.join(path, error.filename) if path and isinstance(error.filename, str) else path)
    place = f": {where}" if where else ""
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    details: dict[str, Any] = {"path": str(where)} if where else {}
    if error.errno == errno.ENOSPC and where and _is_out_of_inodes(Path(where)):
        text = f"The filesystem of the store has no inode left for another file ({reason}{place}), however many bytes."
        return DiskFull(f"{text} Remove some files and start it again to resume.", **details)
    if error.errno in FULL:
        text = f"There is not enough free space in the store ({reason}{place}). Free some and start it again to resume."
        return DiskFull(text, **details, **({} if needed is None else {"needed": needed}))
    if limit := limit_reached(error):
        return limit
    way_out = _WAYS_OUT.get(error.errno or 0, "")
    return StoreNotWritable(f"The disk of the store refuses: {reason}{place}.{way_out}", **details)


def system_error(error: BaseException) -> HiveError | None:
    """What the system refused, a limit of the process or a disk; None for an error that is a mistake of ours."""
    if isinstance(error, OSError) and is_disk_error(error):
        return disk_error(error)
    return limit_reached(error)


def _is_out_of_inodes(path: Path) -> bool:
    """Whether the filesystem of a path, which need not be there, counts inodes and has none left."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            room = os.statvfs(place)
            return room.f_files > 0 and room.f_favail == 0
    return False


def disk_full(path: Path | None, *, needed: int, available: int, reserved: int = 0) -> DiskFull:
    """Too little room, and where, if that is known: bytes that are to come, that may be taken, and that other downloads
    will take.
    """
    held = f", beside {_gigabytes(reserved)} that other downloads will take" if reserved else ""
    place = "in the store" if path is None else f"at {path}"
    figures = f"{_gigabytes(needed)} to come, {_gigabytes(available)} free{held}"
    return DiskFull(
        f"There is not enough free space {place}: {figures}. Free some and start it again to resume.",
        **({} if path is None else {"path": str(path)}),
        needed=needed,
        available=available,
        reserved=reserved,
    )


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 100_000_000 else f"{n_bytes / 1e6:.1f} MB"


def with_path(error: HiveError, path: Path) -> HiveError:
    """A disk's refusal with the path, where it does not have one yet; any other error as it is."""
    if not isinstance(error, DiskFull | StoreNotWritable) or "path" in error.details:
        return error
    return type(error)(f"{error.message} ({path})", **error.details, path=str(path))
