"""Log files of child processes: opened to append to, rotated by size when they are opened, read from their end.

Problem: what a child says must survive it, and its log must not grow for ever. The easy way, `logging.handlers`, needs
a process that reads the child's output and writes it on; a child that gets the file itself goes on logging when its
parent is dead. A file that a child has open cannot be rotated under it, so that happens at the next start: once beyond
a size it becomes `<name>.1`, and the one before that is gone.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import BinaryIO, Final

#: Bytes at which a log is moved aside; one old log is kept.
MAX_LOG_BYTES: Final = 4 << 20
#: Bytes of a log that are read for its last lines.
TAIL_BYTES: Final = 16_384


def open_log(path: Path) -> BinaryIO:
    """The log, to append to; another process may be writing to it. One that has grown too long is moved aside first.

    Raises:
        OSError: it cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return path.open("ab")


def tail(path: Path, lines: int, since: int = 0) -> list[str]:
    """The last lines of what was written from the byte `since` on; none where there is no such file."""
    with contextlib.suppress(OSError), path.open("rb") as log:
        log.seek(max(since, path.stat().st_size - TAIL_BYTES))
        return log.read(TAIL_BYTES).decode(errors="replace").splitlines()[-lines:]
    return []
