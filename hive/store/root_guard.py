"""Root guard: the folders that a store consists of are those that this process began with, or nothing is done there.

Problem: a mount goes away and leaves an empty folder under the same path. Whoever looks there finds that all models are
gone, and whoever writes there makes a second store that nobody sees. The easy way, to look before each piece of work,
leaves a gap, and is forgotten in one of a hundred places. But all of them begin by opening one of two folders by its
path (hive.store.dirfd), so that is where it is seen to: device and inode of what was opened are compared with those
noted. Another folder is the store all the same where it has the store's id: it was mounted again, or its filesystem
has no lasting inode numbers. A process that has noted nothing, or a store without an id, is not guarded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import Final, NamedTuple

from hive.errors import StoreMissing
from hive.plain_file import open_plain_file

#: What the system says where this process is at a limit, and not the store.
_OWN_LIMITS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
#: Bytes of an id file that are read: an id and some blank space.
_ID_BYTES: Final = 64
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _Store(NamedTuple):
    """What is guarded: where the id lies, what it is, and a folder of the cache where that is a disk of its own."""

    home: Path
    id_name: str
    id: bytes
    cache: Path
    #: The name of a folder that the cache has to have; "" where it lies on the disk of the id.
    cache_mark: str


class RootGuard:
    """The roots of this process' store. Safe from several threads, and inherited by fork."""

    def __init__(self) -> None:
        self._store: _Store | None = None
        self._numbers: dict[Path, tuple[int, int]] = {}
        self._lock = threading.Lock()

    @property
    def store_id(self) -> str | None:
        """The id of the store that is guarded; None where none is."""
        return None if self._store is None else self._store.id.decode()

    def watch(self, home: Path, id_name: str, store_id: str, cache: Path, cache_mark: str) -> None:
        """Guard the folder `home`, in which a file has the id, and `cache`, from now on.

        `cache_mark`: a folder that is in the cache where that is another filesystem; it need not be there.
        """
        numbers = {}
        for root in (home, cache):
            with contextlib.suppress(OSError):
                numbers[root] = _number(root)
        apart = home in numbers and cache in numbers and numbers[home][0] != numbers[cache][0]
        mark = cache_mark if apart and (cache / cache_mark).is_dir() else ""
        # Not around the above: a filesystem that does not answer would hold the lock, in forked processes too.
        with self._lock:
            self._store = _Store(home, id_name, store_id.encode(), cache, mark)
            self._numbers = numbers

    def forget(self) -> None:
        """Guard nothing."""
        with self._lock:
            self._store, self._numbers = None, {}

    def check(self, root: Path, folder: int | None) -> None:
        """Whether `folder` (None where nothing is there) is this root.

        Raises:
            StoreMissing: it is another one.
        """
        store = self._store
        if store is None or root not in (store.home, store.cache):
            return
        found = None if folder is None else (os.fstat(folder).st_dev, os.fstat(folder).st_ino)
        if found is not None and found == self._numbers.get(root):
            return
        if not (_has_id(store, folder if root == store.home else None) and _has_mark(store, root, folder)):
            raise StoreMissing(
                f"The store is not at {root} any more: its mount is missing, or it was removed. hive goes on when it "
                "is back; where you removed it, restart hive.",
                path=str(root),
            )
        if found is not None:
            with self._lock:
                self._numbers[root] = found

    def translate(self, root: Path, error: OSError) -> None:
        """What became of opening a root.

        Raises:
            StoreMissing: this root is guarded, and cannot be opened although it could.
        """
        store = self._store
        if store is None or root not in self._numbers or error.errno in _OWN_LIMITS:
            return
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StoreMissing(
            f"The store at {root} cannot be reached any more: {reason}. hive goes on when it can.", path=str(root)
        ) from error


def _number(root: Path) -> tuple[int, int]:
    found = os.stat(root)
    return found.st_dev, found.st_ino


def _has_id(store: _Store, folder: int | None) -> bool:
    """Whether the folder, or where none is given what lies at the path, has the store's id."""
    with contextlib.suppress(OSError):
        own = os.open(store.home, _FOLDER_FLAGS) if folder is None else os.dup(folder)
        try:
            file = open_plain_file(store.id_name, os.O_RDONLY, folder=own)
        finally:
            os.close(own)
        try:
            return os.read(file, _ID_BYTES).strip() == store.id
        finally:
            os.close(file)
    return False


def _has_mark(store: _Store, root: Path, folder: int | None) -> bool:
    """Whether a cache on a disk of its own is that disk."""
    if root != store.cache or not store.cache_mark:
        return True
    if folder is None:
        return False
    with contextlib.suppress(OSError):
        os.stat(store.cache_mark, dir_fd=folder, follow_symlinks=False)
        return True
    return False


#: The one of this process.
GUARD: Final = RootGuard()
