"""Two-phase delete: into the trash, a second look, and only then away; and the lock that huggingface_hub takes.

Problem: between the look that finds a content unused and its removal, somebody may have begun to use it: a worker that
finds the blob there and does not fetch it, another tool that links to it. Locks of our own would have to be kept by all
of them. So a content first goes to the trash, another name in its folder, then everything is looked at again, and only
what is still unused goes; the rest is restored. Whoever looked before sees it again, whoever looks in between fetches
it again, which costs time and harms nothing. What a killed collection has left in the trash is a temporary file,
removed by a later one; it is made young, so that a second collection leaves it to the first.

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
from typing import Final, Self

from hive.plain_file import open_plain_file
from hive.store.dirfd import open_folder, temporary_name

#: Where huggingface_hub keeps its locks, below the cache.
LOCKS: Final = ".locks"


class Trash:
    """Files in the trash; what is neither removed nor restored when the block ends is restored."""

    def __init__(self) -> None:
        #: Folder and name -> the name in the trash.
        self._trashed: dict[tuple[int, str], str] = {}

    def put(self, folder: int, name: str) -> bool:
        """Put a file into the trash; False where it is gone. Raises OSError where the store cannot be written."""
        trashed = temporary_name(name)
        try:
            os.rename(name, trashed, src_dir_fd=folder, dst_dir_fd=folder)
        except FileNotFoundError:
            return False
        self._trashed[folder, name] = trashed
        os.utime(trashed, dir_fd=folder, follow_symlinks=False)
        return True

    def remove(self, folder: int, name: str) -> None:
        """Remove it for good. Raises OSError."""
        os.unlink(self._trashed[folder, name], dir_fd=folder)
        del self._trashed[folder, name]

    def restore(self, folder: int, name: str) -> None:
        """Give it its name again; where another has that by now, ours is the same content and goes. Raises OSError."""
        trashed = self._trashed.pop((folder, name))
        try:
            os.link(trashed, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            pass
        except OSError:
            # No hard links here, whatever this filesystem calls it; a disk that is broken refuses the rename too.
            os.rename(trashed, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        os.unlink(trashed, dir_fd=folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for folder, name in list(self._trashed):
            with contextlib.suppress(OSError):
                self.restore(folder, name)


@contextlib.contextmanager
def hub_lock(hub: Path, folder: str, blob: str) -> Iterator[bool]:
    """Hold huggingface_hub's lock on a blob; gives False, at once, where another tool has it.

    On a filesystem without locks the block runs without one.
    """
    with contextlib.ExitStack() as stack:
        locks = stack.enter_context(open_folder(hub, LOCKS, folder, create=True))
        file = open_plain_file(f"{blob}.lock", os.O_RDWR | os.O_CREAT, 0o664, folder=locks)
        stack.callback(os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                yield False
                return
        yield True
