"""Removal with a second look, and the lock that huggingface_hub takes.

Problem: between the look that finds a content unused and its removal, somebody may have begun to use it: a worker that
finds the blob there and does not fetch it, another tool that links to it. Locks of our own would have to be kept by all
of them. So a content is first put aside under another name in its folder, then everything is looked at again, and only
what is still unused goes; the rest is put back. Whoever looked before sees it again, whoever looks in between fetches
it again, which costs time and harms nothing. What a killed collection has put aside is a temporary file, removed by a
later one; it is made young, so that a second collection leaves it to the first.

huggingface_hub links to a blob that is there under a lock on `.locks/<repository>/<blob>.lock`. That lock is held from
before the first step until after the last. The lock files stay, as with huggingface_hub itself: one that is removed
while it is waited for would have two holders.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from hive.store.dirfd import open_folder, temporary_name

#: Where huggingface_hub keeps its locks, below the cache.
LOCKS: Final = ".locks"

_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class _Put(NamedTuple):
    folder: int
    name: str
    aside: str


class Aside:
    """Files put aside; what is neither removed nor put back when the block ends is put back."""

    def __init__(self) -> None:
        self._put: dict[tuple[int, str], _Put] = {}

    def put(self, folder: int, name: str) -> bool:
        """Put a file aside; False where it is gone. Raises OSError where the store cannot be written."""
        aside = temporary_name(name)
        try:
            os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
        except FileNotFoundError:
            return False
        self._put[folder, name] = _Put(folder, name, aside)
        os.utime(aside, dir_fd=folder, follow_symlinks=False)
        return True

    def remove(self, folder: int, name: str) -> None:
        """Remove it for good. Raises OSError."""
        os.unlink(self._put[folder, name].aside, dir_fd=folder)
        del self._put[folder, name]

    def put_back(self, folder: int, name: str) -> None:
        """Give it its name again; where another has that by now, ours is the same content and goes. Raises OSError."""
        put = self._put.pop((folder, name))
        try:
            os.link(put.aside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                raise
            os.rename(put.aside, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        os.unlink(put.aside, dir_fd=folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for folder, name in list(self._put):
            with contextlib.suppress(OSError):
                self.put_back(folder, name)


@contextlib.contextmanager
def hub_lock(hub: Path, folder: str, blob: str) -> Iterator[bool]:
    """Hold huggingface_hub's lock on a blob; gives False, at once, where another tool has it.

    On a filesystem without locks the block runs without one.
    """
    with contextlib.ExitStack() as stack:
        locks = stack.enter_context(open_folder(hub, LOCKS, folder, create=True))
        file = os.open(f"{blob}.lock", _LOCK_FLAGS, 0o664, dir_fd=locks)
        stack.callback(os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                yield False
                return
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
        yield True
