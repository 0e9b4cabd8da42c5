"""Request coalescing: small files of one commit that are asked for in the same moment come in one download.

Problem: a tool that fetches a repository asks for its files one by one, eight at a time. The easy way, a download for
each, costs a tenth of a second each for its queue, its claim and its listing: two hundred files of 20 KB took 19 s in
place of 1 s, and the list of downloads is full of them. So the first request for a small file waits a moment for others
of the same commit and caller, and asks for all of them together. A large file is a download of its own, as ever: its
bytes flow while they come.

Where such a download fails one file may be to blame, so for a while each of that commit is asked for alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from hive.downloads.provisioner import Provisioned

#: Bytes up to which a file is a small one.
SMALL_BYTES: Final = 4 << 20
#: Seconds that the first one waits for others, and files of one download.
WINDOW_S: Final = 0.03
MAX_FILES: Final = 64
#: Seconds for which files are asked for alone after a failure, and commits of which that is remembered.
ALONE_S: Final = 60.0
MAX_ALONE: Final = 1_000

#: Whose files: the repository, the commit, and what tells callers apart.
BatchKey = tuple[str, str, bytes, str]
#: Asks for these paths.
AskFor = Callable[[tuple[str, ...]], Awaitable[Provisioned]]


class _Batch:
    def __init__(self) -> None:
        self.paths: dict[str, None] = {}
        self.full = asyncio.Event()
        self.task: asyncio.Task[Provisioned] | None = None


class SmallFiles:
    """The small files that wait for each other. It belongs to the event loop."""

    def __init__(self) -> None:
        self._open: dict[BatchKey, _Batch] = {}
        self._alone: OrderedDict[BatchKey, float] = OrderedDict()

    async def request(self, key: BatchKey, path: str, ask: AskFor) -> Provisioned:
        """What a request for this file, with those that come in the same moment, leads to. `ask` is the first one's.
        Raises what that does.
        """
        if time.monotonic() < self._alone.get(key, 0.0):
            return await ask((path,))
        batch = self._open.get(key)
        if batch is None or batch.task is None:
            batch = self._open[key] = _Batch()
            batch.task = asyncio.create_task(self._later(key, batch, ask))
            batch.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        batch.paths[path] = None
        if len(batch.paths) >= MAX_FILES:
            self._close(key, batch)
        return await asyncio.shield(batch.task)

    def failed(self, key: BatchKey) -> None:
        """A download of several has failed."""
        self._alone[key] = time.monotonic() + ALONE_S
        self._alone.move_to_end(key)
        while len(self._alone) > MAX_ALONE:
            self._alone.popitem(last=False)

    async def _later(self, key: BatchKey, batch: _Batch, ask: AskFor) -> Provisioned:
        try:
            async with asyncio.timeout(WINDOW_S):
                await batch.full.wait()
        except TimeoutError:
            self._close(key, batch)
        return await ask(tuple(batch.paths))

    def _close(self, key: BatchKey, batch: _Batch) -> None:
        """Nobody joins this one any more."""
        if self._open.get(key) is batch:
            del self._open[key]
        batch.full.set()
