"""Checksum of one content, read from its first byte to its last and compared with what it should be.

Problem: a store of terabytes is read once and never again soon, and the page cache of the machine holds what inference
servers need. The easy way, to read and forget, pushes that out. So what was read is given back to the kernel block by
block (posix_fadvise); pages that a program has mapped stay, whoever read them.

A file may be exchanged while it is read (a download publishes the right one over the wrong one): a wrong digest counts
only where the file is still the one that was opened.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from hive.store.cancellation import check_stop
from hive.store.dirfd import open_folder
from hive.store.inventory import Content, Digest
from hive.wire.maintenance import ProblemKind
from hive.wire.words import counted

#: Bytes read at a time: long enough for a disk to stream and for a hash to run without Python, short enough to stop.
BLOCK_BYTES: Final = 4 << 20
#: How often a file that was exchanged under the reader is read again.
MAX_READINGS: Final = 3

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Finding(NamedTuple):
    """What is wrong with a content."""

    kind: ProblemKind
    message: str
    expected: str | None = None
    found: str | None = None


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def check_content(content: Content, stop: threading.Event, on_bytes: Callable[[int], None]) -> Finding | None:
    """What is wrong with this content, or None. `on_bytes` is called with the bytes of each block.

    Raises:
        Stopped: `stop` was set.
    """
    finding: Finding | None = None
    for _ in range(MAX_READINGS):
        try:
            finding, same = _read(content, stop, on_bytes)
        except FileNotFoundError:
            return Finding("missing", "The file went away while the store was looked through.")
        except OSError as error:
            text = "It is a link." if error.errno == errno.ELOOP else f"It cannot be read: {error.strerror}."
            return Finding("unreadable", text)
        if finding is None or same:
            break
    return finding


def _read(content: Content, stop: threading.Event, on_bytes: Callable[[int], None]) -> tuple[Finding | None, bool]:
    """What is wrong, and whether the name still means the file that was read."""
    with open_folder(content.root, *content.names) as folder:
        file = os.open(content.name, _FLAGS, dir_fd=folder)
        try:
            before = os.fstat(file)
            if not stat.S_ISREG(before.st_mode):
                return Finding("unreadable", "This is no file."), True
            finding = _compare(file, before.st_size, content, stop, on_bytes)
            after = os.stat(content.name, dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(file)
    return finding, (before.st_ino, before.st_mtime_ns, before.st_size) == (
        after.st_ino,
        after.st_mtime_ns,
        after.st_size,
    )


def _compare(
    file: int, n_bytes: int, content: Content, stop: threading.Event, on_bytes: Callable[[int], None]
) -> Finding | None:
    if content.size not in (None, n_bytes):
        text = f"It has {counted(n_bytes, 'byte')} and should have {content.size}."
        return Finding("wrong_size", text, str(content.size), str(n_bytes))
    found = _digest(file, n_bytes, content.digest, stop, on_bytes)
    if content.digest is not None and found != content.digest.hex:
        return Finding("wrong_digest", "Its bytes are not those that were published.", content.digest.hex, found)
    return None


def _digest(
    file: int, n_bytes: int, wanted: Digest | None, stop: threading.Event, on_bytes: Callable[[int], None]
) -> str:
    """The digest of a file; without one to compare with it is read all the same, to see that it can be."""
    made = _hash(wanted, n_bytes)
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max(n_bytes, 1))))
    at = 0
    _advise(file, 0, 0, "POSIX_FADV_SEQUENTIAL")
    while count := os.preadv(file, [buffer], at):
        check_stop(stop)
        made.update(buffer[:count])
        _advise(file, at, count, "POSIX_FADV_DONTNEED")
        at += count
        on_bytes(count)
    return made.hexdigest()


def _hash(wanted: Digest | None, n_bytes: int) -> _Hash:
    if wanted is not None and wanted.algorithm == "git-sha1":
        return hashlib.sha1(b"blob %d\0" % n_bytes, usedforsecurity=False)
    return hashlib.sha256()


def _advise(file: int, at: int, count: int, advice: str) -> None:
    """Tell the kernel, where the system has such a call."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, at, count, getattr(os, advice))
