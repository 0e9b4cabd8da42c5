"""Opening a file by name where others may have put something else: O_NONBLOCK, O_NOFOLLOW, and a look at what it is.

Problem: a name in a folder of the store, or in a home, may be a pipe by now: whoever opens it waits for ever for the
other end, with a lock in hand or a start under way. Or it is a link that leads elsewhere, or a device. The easy way, a
look at the name before it is opened, is void a moment later. So it is opened without waiting, and what was opened is
looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

#: What `open_plain_file` fails with where something else than a plain file has the name.
NOT_PLAIN: Final = frozenset({errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO})
_NOT_PLAIN: Final = "it is no plain file"


def open_plain_file(
    path: str | Path, flags: int, mode: int = 0o600, *, folder: int | None = None, follow: bool = False
) -> int:
    """A descriptor of a plain file, opened with these flags of os.open; programs that are started do not inherit it.

    `folder`: an open one in which the path begins; `follow`: a link at the end of the path is followed.

    Raises:
        OSError: it cannot be opened, or is no plain file (its `errno` is one of `NOT_PLAIN`).
    """
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, mode, dir_fd=folder)
    except OSError as error:
        if error.errno in NOT_PLAIN:
            raise OSError(error.errno, _NOT_PLAIN, str(path)) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, _NOT_PLAIN, str(path))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
