"""Locks on partial files, on the disk itself: between two hives that share a store, or a hive and a lone command.

Problem: within one hive a lease in Redis says who writes a partial file. Two hives have two Redis and one store, and
nothing keeps them from writing the same file at once. The easy way, an exclusively created lock file, stays for ever
when its process is killed. So the file is locked with flock(2), which the kernel gives up with the process, also over
NFS. A lock file is removed by its holder; whoever has locked a file that is not the named one any more tries again.

A lock is held for a *realm*, whoever shares one agreement already (a hive's Redis): among those the lease decides, and
a lock that a stopped or dying process of the same realm still has is no obstacle.

Where the filesystem has no locks, the file is a note with an age: fresh for a minute after it was last touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from typing import Final

from hive.disk_errors import FULL
from hive.errors import StoreMissing
from hive.plain_file import open_plain_file
from hive.store.dirfd import open_folder, remove_file, temporary_name
from hive.store.filesystem import Place
from hive.store.layout import LOCK_ENDING

#: Longest name of a realm that is read, in bytes.
MAX_REALM_BYTES: Final = 64
#: Seconds between two touches of a note, and after which one does not count any more.
TOUCH_S: Final = 10.0
STALE_S: Final = 60.0
#: How often a lock file that was removed by its holder just then is opened again.
MAX_OPENINGS: Final = 16

#: What flock says where somebody else has the lock; anything else means that there are no locks.
_TAKEN: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class PartialLocks:
    """The locks of one process in one folder of partial files. Safe from several threads."""

    def __init__(self, place: Place, realm: str) -> None:
        self._place = place
        self._realm = realm.encode()[:MAX_REALM_BYTES]
        self._lock = threading.Lock()
        #: Name of the lock file -> its descriptor; -1 where it is a note.
        self._held: dict[str, int] = {}
        self._stop = threading.Event()
        self._toucher: threading.Thread | None = None

    def acquire(self, name: str) -> bool:
        """Whether the partial file of this name is ours to write now. Raises OSError where the disk refuses."""
        lock = name + LOCK_ENDING
        with self._lock:
            if lock in self._held:
                return True
            with open_folder(self._place.root, *self._place.names, create=True) as folder:
                for _ in range(MAX_OPENINGS):
                    file = open_plain_file(lock, os.O_RDWR | os.O_CREAT, 0o666, folder=folder)
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except OSError as error:
                        owner, touched_s = os.pread(file, MAX_REALM_BYTES, 0), os.fstat(file).st_mtime
                        os.close(file)
                        if error.errno in _TAKEN:
                            return owner == self._realm
                        return self._note(folder, lock, owner, touched_s)
                    if self._is_named(folder, lock, file):
                        self._held[lock] = file
                        self._sign(file)
                        return True
                    os.close(file)
            return False

    def release(self, name: str) -> None:
        """Give it up; nothing where it is not held. Never raises."""
        with self._lock:
            self._release(name + LOCK_ENDING)

    def release_all(self) -> None:
        """Give up all that are held. Never raises."""
        self._stop.set()
        with self._lock:
            for lock in list(self._held):
                self._release(lock)

    def _release(self, lock: str) -> None:
        """The file goes before the lock does: afterwards it may be another's."""
        file = self._held.pop(lock, None)
        if file is None:
            return
        with (
            contextlib.suppress(OSError, StoreMissing),
            open_folder(self._place.root, *self._place.names) as folder,
        ):
            if file < 0 or self._is_named(folder, lock, file):
                remove_file(folder, lock)
        if file >= 0:
            with contextlib.suppress(OSError):
                os.close(file)

    def _sign(self, file: int) -> None:
        """Say whose it is. On a full disk it is a lock all the same: whoever makes room there needs it, and to those
        who do not see that it is theirs it is another's.
        """
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, self._realm, 0)
        except OSError as error:
            if error.errno not in FULL:
                raise

    @staticmethod
    def _is_named(folder: int, lock: str, file: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(lock, dir_fd=folder, follow_symlinks=False), os.fstat(file))
        return False

    # -- without locks -----------------------------------------------------------------------------------------------

    def _note(self, folder: int, lock: str, owner: bytes, touched_s: float) -> bool:
        if owner not in (b"", self._realm) and time.time() - touched_s < STALE_S:
            return False
        temporary = temporary_name(lock)
        with os.fdopen(open_plain_file(temporary, os.O_RDWR | os.O_CREAT, 0o666, folder=folder), "wb") as file:
            file.write(self._realm)
        os.replace(temporary, lock, src_dir_fd=folder, dst_dir_fd=folder)
        self._held[lock] = -1
        if self._toucher is None:
            self._toucher = threading.Thread(target=self._touch, name="partial-locks", daemon=True)
            self._toucher.start()
        return True

    def _touch(self) -> None:
        while not self._stop.wait(TOUCH_S):
            with (
                self._lock,
                contextlib.suppress(OSError, StoreMissing),
                open_folder(self._place.root, *self._place.names) as folder,
            ):
                for lock in [lock for lock, file in self._held.items() if file < 0]:
                    with contextlib.suppress(FileNotFoundError):  # the others are ours all the same
                        os.utime(lock, dir_fd=folder)
