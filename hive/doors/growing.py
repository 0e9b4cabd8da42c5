"""A file that is still being fetched, for whoever reads it meanwhile: followed at its frontier, and judged at its end.

Problem: clients give up after ten seconds without a byte, and a file of gigabytes takes longer. The easy way, to hand
bytes on as they come, hands on wrong ones, and a client that checks sizes alone, as most do, is content with them. So
what is on the disk without a gap is read here once more and hashed, for all readers of this process; they get what was
hashed, but never the last 64 KiB before the digest is right. Where it is wrong their connections are closed short and
the digest is marked, in all servers (hive/downloads/wrong_digests.py): for an hour a request for the rest is answered
with all of it. Nobody ends with wrong bytes.

A server that has handed out bytes may be gone before they are judged. So whoever gives up bytes notes it on the disk
before (hive/store/given_up.py), and what was given up since a file was first looked at is wrong as well.

The digest is our own, of the bytes that were handed out: what a worker has found, on whatever machine, is not asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from hive.doors.sendfile import FileConnection
from hive.downloads.threads import Threads
from hive.downloads.wrong_digests import WRONG_TTL_S, WrongDigests
from hive.errors import HiveError, ServerBusy, StoreMissing
from hive.store.blobs import find_repo_blob, open_blob
from hive.store.frontier import JournalTail, open_partial
from hive.store.given_up import given_up
from hive.store.layout import own_partial_key, partial_key, repo_of

#: Bytes at the end that wait for the digest.
HELD_BACK_BYTES: Final = 65_536
#: Digests that were wrong and that this process remembers by itself.
MAX_WRONG: Final = 1_000
#: Files that are followed at a time.
MAX_FOLLOWED: Final = 128
#: Threads that read and hash, and looks that wait for one.
HASH_THREADS: Final = 2
#: Bytes that are read at a time, and in one look: readers get them behind it.
BLOCK_BYTES: Final = 1 << 20
LOOK_BYTES: Final = 8 << 20
#: Seconds until the next look where the last one has seen all that there was: the first after one that brought
#: something, twice as many after each that did not, and the second at most. On a fast line a reader who is told late
#: stands still meanwhile; on a slow one nothing is gained by looking often.
QUICK_LOOK_S: Final = 0.01
LOOK_S: Final = 0.05
#: Seconds between two questions how the download stands.
ASK_S: Final = 0.5
#: Seconds that a download has from its last byte to its end.
PUBLISH_S: Final = 60.0

#: How the download of it stands: None while it goes on, else whether it has brought the file; and what is to be done
#: when it has.
Standing = Callable[[], Awaitable[bool | None]]
WhenBrought = Callable[[], Awaitable[None]]


class GrowingFile:
    """One content under way, in the repository folder `folder` below `hub` once it is there."""

    def __init__(self, hub: Path, hive: Path, folder: str, etag: str, size: int, download_id: str) -> None:
        self._hub, self._hive, self._folder = hub, hive, folder
        self.etag, self.size = etag, size
        is_sha256 = len(etag) == 64
        self._hash = hashlib.sha256() if is_sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        algorithm = "sha256" if is_sha256 else "git-sha1"
        key, own = partial_key(algorithm, etag), own_partial_key(algorithm, etag, repo_of(folder) or "")
        #: One place for a large content, where it is restricted one of its repository; a small one has its download's.
        self._names = (key, own, f"{key}.{download_id}", f"{own}.{download_id}")
        #: When bytes of it were given up last before it was looked at; None before that.
        self._given_up: int | None = None
        self._tail: JournalTail | None = None
        self._fds: list[int] = []
        self._inode = -1
        self._is_whole = False
        self._hashed = 0
        #: Whether more is there than the last look has read.
        self.has_more = False
        self.limit = 0
        self.is_wrong = False
        self.failed = False
        self.readers: set[FileConnection] = set()
        self._lock = threading.Lock()
        self._sources = 0
        self._closed = False
        #: Set with each change.
        self.changed = asyncio.Event()

    @property
    def looked(self) -> int:
        """Bytes that were read and hashed."""
        return self._hashed

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.is_wrong or self.failed or self.limit >= self.size

    # -- for one reader ----------------------------------------------------------------------------------------------

    @property
    def fd(self) -> int:
        """Where the bytes are now. Raises OSError where nothing is there any more."""
        try:
            return self._fds[-1]
        except IndexError:
            raise FileNotFoundError(self.etag) from None

    def source(self) -> GrowingFile:
        """Its bytes, for one more reader."""
        with self._lock:
            self._sources += 1
        return self

    def close(self) -> None:
        """One reader less."""
        with self._lock:
            self._sources -= 1
        self._close_unused()

    def add_reader(self, connection: FileConnection) -> None:
        """Tell this one how far it may go."""
        self.readers.add(connection)
        connection.ended.add_done_callback(lambda _: self.readers.discard(connection))
        self.tell(connection)

    def tell(self, connection: FileConnection) -> None:
        """How far it may go now, or that nothing more comes."""
        if self.is_wrong or self.failed:
            connection.cut()
        else:
            connection.extend(self.limit)

    def done(self) -> None:
        """It is followed no more."""
        self._closed = True
        self._close_unused()

    def _close_unused(self) -> None:
        with self._lock:
            fds, self._fds = (self._fds, []) if self._closed and self._sources <= 0 else ([], self._fds)
        for fd in fds:
            os.close(fd)

    # -- in a thread -------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read and hash what has come. Raises OSError."""
        if self._given_up is None:
            self._given_up = given_up(self._hive, self.etag)
        end = self._find()
        until = min(end, self._hashed + LOOK_BYTES, self.size)
        self.has_more = until < min(end, self.size)
        while self._hashed < until:
            data = os.pread(self.fd, min(BLOCK_BYTES, until - self._hashed), self._hashed)
            if not data:
                break
            self._hash.update(data)
            self._hashed += len(data)
        if self._hashed < self.size:
            self.limit = max(self.limit, min(self._hashed, self.size - HELD_BACK_BYTES), 0)
        elif self._hash.hexdigest() == self.etag and given_up(self._hive, self.etag) == self._given_up:
            self.limit = self.size
        else:
            self.is_wrong = True

    def _find(self) -> int:
        """How much of it is there, with its descriptor as the last one."""
        place = None if self._is_whole else find_repo_blob(self._hub, self._folder, self.etag)
        if place is not None:
            fd, _ = open_blob(place)
            self._take(fd)
            self._is_whole = True
        if self._is_whole:
            return self.size
        if self._tail is None:
            for name in self._names:
                if (part := open_partial(self._hive, name)) is not None:
                    self._take(part)
                    self._tail = JournalTail(self._hive, name)
                    break
        return self._tail.frontier() if self._tail is not None else 0

    def _take(self, fd: int) -> None:
        """Read from this one from now on, where it is another file."""
        inode = os.fstat(fd).st_ino
        if self._fds and inode == self._inode:
            os.close(fd)
        else:
            self._fds.append(fd)
            self._inode = inode


class GrowingFiles:
    """The files that are followed in this process, and the digests that were wrong. It belongs to the event loop."""

    def __init__(self, hub: Path, hive: Path, marks: WrongDigests) -> None:
        self._hub, self._hive, self._marks = hub, hive, marks
        self._files: dict[tuple[str, str], GrowingFile] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wrong: OrderedDict[str, float] = OrderedDict()
        self._threads = Threads("follow", HASH_THREADS, MAX_FOLLOWED)

    def close(self) -> None:
        """Follow nothing any more."""
        for task in list(self._tasks):
            task.cancel()
        self._threads.close()

    async def was_wrong(self, etag: str) -> bool:
        """Whether bytes under this digest, which this server or another has handed out, were wrong lately, or given up;
        also where nobody can say.
        """
        if time.monotonic() < self._wrong.get(etag, 0.0) or await self._marks.is_marked(etag):
            return True
        try:
            return await self._threads.run(given_up, self._hive, etag) > 0
        except (OSError, ServerBusy):
            return True

    def follow(
        self,
        folder: str,
        etag: str,
        size: int,
        download_id: str,
        standing: Standing,
        when_brought: WhenBrought,
    ) -> GrowingFile:
        """The file, followed from now on to its end, also where nobody reads it any more: who comes back for the rest
        has bytes that are not judged yet. Raises ServerBusy where too many are.
        """
        key = (folder, etag)
        found = self._files.get(key)
        if found is not None and not found.is_over:
            return found
        if len(self._files) >= MAX_FOLLOWED:
            raise ServerBusy("As many files as may be are followed while they are fetched. Try again in a moment.")
        made = self._files[key] = GrowingFile(self._hub, self._hive, folder, etag, size, download_id)
        task = asyncio.create_task(self._run(key, made, standing, when_brought))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return made

    async def _run(
        self, key: tuple[str, str], file: GrowingFile, standing: Standing, when_brought: WhenBrought
    ) -> None:
        try:
            await self._until_over(file, standing)
        finally:
            if self._files.get(key) is file:
                del self._files[key]
            if not file.is_over:
                file.failed = True
            if file.failed and file.limit:
                self._remember(file.etag)  # what was handed out was never found right
            self._tell(file)
            file.done()
        if file.limit >= file.size:
            await _wait_for_end(standing)
            await when_brought()

    async def _until_over(self, file: GrowingFile, standing: Standing) -> None:
        loop = asyncio.get_running_loop()
        asked_s, ended, wait_s = 0.0, False, LOOK_S
        while True:
            before = file.looked
            with contextlib.suppress(OSError, ServerBusy, StoreMissing):
                await self._threads.run(file.look)
            if file.is_wrong:
                await self._mark(file.etag)
            if file.looked != before or file.is_over:
                self._tell(file)
            if file.is_over:
                return
            if ended and file.looked == before:
                if file.limit:
                    await self._mark(file.etag)
                return  # it has ended, one way or the other, and has not brought this
            if file.has_more and file.looked != before:
                continue
            if loop.time() - asked_s >= ASK_S:
                asked_s = loop.time()
                with contextlib.suppress(HiveError):
                    ended = await standing() is not None
            wait_s = until_next_look(wait_s, brought=file.looked != before)
            await asyncio.sleep(wait_s)

    def _tell(self, file: GrowingFile) -> None:
        file.changed.set()
        file.changed = asyncio.Event()
        for connection in list(file.readers):
            file.tell(connection)

    async def _mark(self, etag: str) -> None:
        """Before anybody is cut off: who comes back for the rest may come at once."""
        self._remember(etag)
        await self._marks.mark(etag)

    def _remember(self, etag: str) -> None:
        self._wrong[etag] = time.monotonic() + WRONG_TTL_S
        self._wrong.move_to_end(etag)
        while len(self._wrong) > MAX_WRONG:
            self._wrong.popitem(last=False)


def until_next_look(waited_s: float, *, brought: bool) -> float:
    """Seconds from a look to the next one; `waited_s` is what was waited before it, `brought` whether it saw bytes."""
    return QUICK_LOOK_S if brought else min(2 * waited_s, LOOK_S)


async def _wait_for_end(standing: Standing) -> None:
    """Return when the download has ended: its links come after its bytes."""
    until_s = time.monotonic() + PUBLISH_S
    while time.monotonic() < until_s:
        with contextlib.suppress(HiveError):
            if await standing() is not None:
                return
        await asyncio.sleep(ASK_S)
