"""The file of the secret key, read: a key that others can read or change is none.

Whoever reads it opens what is sealed, and passes for the server that a token is sent to; whoever may change it knows
the next one. So its mode is looked at each time, as ssh does. The group may read: an orchestrator hands secrets to a
container's group. Where a filesystem has no modes (exFAT, some shares) all files look alike, and the folder is what
keeps others out: that is told from a file which is made with a mode and does not have it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

#: What nobody but the owner may do: others anything, the group anything but read.
_FORBIDDEN: Final = 0o037
#: Bytes of a file that are read: a key has 44.
MAX_BYTES: Final = 4096


def read_key_file(path: Path) -> bytes:
    """The key in the file, without white space around it; b"" for an empty one.

    Raises:
        OSError: it cannot be read, or is no plain file: a pipe would keep whoever reads it waiting for ever.
            PermissionError: others can read or change it; its text says what to do.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        if not is_of_owner(status, path.parent):
            text = f"it belongs to another user (uid {status.st_uid}), who can change it: chown {os.geteuid()}"
            raise PermissionError(errno.EACCES, text, str(path))
        if status.st_mode & _FORBIDDEN and _keeps_modes(path.parent, status.st_mode):
            text = f"others can read or change it ({status.st_mode & 0o777:o}): chmod 600"
            raise PermissionError(errno.EACCES, text, str(path))
        return file.read(MAX_BYTES).strip()


def is_of_owner(status: os.stat_result, folder: Path) -> bool:
    """Whether a secret's file belongs to this user, to root, or to the folder's owner: who owns the folder may put any
    file there, so theirs is as good. Root works on the files of a service's user that way.
    """
    return status.st_uid in (0, os.geteuid(), os.stat(folder).st_uid)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def is_private(status: os.stat_result) -> bool:
    """Whether nobody reads a secret's file but who should: its owner, or where that is somebody else (an orchestrator
    that mounts secrets as root's, mode 0440) also the group that lets this process in.
    """
    forbidden = 0o077 if status.st_uid == os.geteuid() else 0o037
    return not status.st_mode & forbidden


def _keeps_modes(folder: Path, mode: int) -> bool:
    """Whether a file there has the mode that it is made with. Where none can be made the one at hand counts."""
    name = folder / f".mode.{os.urandom(8).hex()}"
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return True
    try:
        return os.fstat(descriptor).st_mode & _FORBIDDEN != mode & _FORBIDDEN
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(name)
