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
        OSError: it cannot be read. PermissionError: others can read or change it; its text says what to do.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & _FORBIDDEN and _keeps_modes(path.parent, mode):
            text = f"others can read or change it ({mode & 0o777:o}): chmod 600"
            raise PermissionError(errno.EACCES, text, str(path))
        return file.read(MAX_BYTES).strip()


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
