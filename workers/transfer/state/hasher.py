"""The digest of a file that is still arriving.

Problem: hashing 100 GB after the last byte adds a minute per hundred gigabytes, and hashing in the connections is
impossible since parts arrive out of order. So one thread follows the contiguous frontier and reads back what was just
written (from the page cache), and the digest is ready when the last byte is. After a resume it starts at the first
byte, while the network goes on.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from typing import Protocol

from hive.disk_errors import disk_error
from workers.transfer import threads
from workers.transfer.source import Algorithm
from workers.transfer.state.part_map import PartMap

#: Seconds between two looks whether to stop, while the frontier does not move.
STOP_POLL_S = 0.2


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class FrontierHash:
    """The digest of the file behind `fd`, as far as the map's frontier goes."""

    def __init__(self, fd: int, parts: PartMap, algorithm: Algorithm, block_bytes: int) -> None:
        self._fd = fd
        self._parts = parts
        self._algorithm = algorithm
        self._block_bytes = block_bytes
        self._hash: _Hash | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        #: Bytes hashed so far.
        self.at = 0
        #: What went wrong in the thread.
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether the whole file is hashed."""
        return self.at == self._parts.size and self._hash is not None

    def start(self) -> None:
        """Follow the frontier in a thread of its own until the end or `stop`. A second call does nothing.

        Raises:
            ResourcesExhausted: there is no thread for it.
        """
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._follow, name="transfer-hash", daemon=True)
        threads.start(self._thread)

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stop.set()
        threads.join(self._thread)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the thread, not longer than `timeout_s`; whether it has ended."""
        threads.join(self._thread, timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def catch_up(self) -> None:
        """Hash as far as the frontier goes, in this thread; raises OSError."""
        buffer = memoryview(bytearray(min(self._block_bytes, max(1, self._parts.frontier - self.at))))
        self._hash_to(self._parts.frontier, buffer)

    def hexdigest(self) -> str:
        """The digest, once `done`."""
        assert self._hash is not None
        return self._hash.hexdigest()

    def _follow(self) -> None:
        buffer = memoryview(bytearray(self._block_bytes))
        try:
            while not self.done and not self._stop.is_set():
                frontier = self._parts.wait_frontier(self.at, STOP_POLL_S)
                self._hash_to(frontier, buffer)
        except OSError as error:
            self.error = disk_error(error)
        except Exception as error:
            self.error = error

    def _hash_to(self, end: int, buffer: memoryview) -> None:
        if self._hash is None:
            self._hash = self._begin()
        while self._hash is not None and self.at < end and not self._stop.is_set():
            n_bytes = os.preadv(self._fd, [buffer[: end - self.at]], self.at)
            if n_bytes == 0:
                raise OSError(errno.EIO, "the file is shorter than what was written to it")
            self._hash.update(buffer[:n_bytes])
            self.at += n_bytes

    def _begin(self) -> _Hash | None:
        """None while the header cannot be written: git's digest begins with the size."""
        if self._algorithm == "sha256":
            return hashlib.sha256()
        if self._parts.size is None:
            return None
        return hashlib.sha1(b"blob %d\0" % self._parts.size, usedforsecurity=False)
