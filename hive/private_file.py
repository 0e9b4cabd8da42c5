"""A private file, written whole: a temporary file of mode 0600 beside it, flushed to the disk, then renamed.

Problem: what holds keys is read while it is written, and a machine may stop half-way. The easy way, to open the file
and write, shows half of it, or nothing, and a mode that is set afterwards comes too late. So the content is there,
private and on the disk, before it gets the name.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def private_file_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A new file with this content in the folder of `path`, for this user alone, which the block is to rename. What it
    has not renamed is removed.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
