"""The history checker: those who watch a download, and what they must have seen when it is over.

A viewer does what docs/progress.md tells clients: it connects again, with Last-Event-ID, to whichever replica is next,
and gives a silent connection up. Its witness (tests/support/witness.py) judges each frame; here is judged what only all
of them together show: one end each, the same, and the right bytes on the disk behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hive.errors import DownloadNotFound
from hive.wire import events
from hive.wire.events import Complete, Downloading, Error, Event, Version
from tests.chaos.proxy import LoopThread
from tests.hub.content import Content
from tests.support.witness import Connection, Witness, watch

#: Seconds in which a replica must answer before a viewer tries the next.
ANSWER_S = 8.0
#: Seconds without a frame after which a viewer gives a connection up: several times the keep-alive of the tests.
SILENCE_S = 6.0
#: Seconds between two looks at a connection for silence.
LOOK_S = 0.25
#: Milliseconds before the next try where no `retry:` was heard.
RETRY_MS = 500
#: Seconds before the next try, at most.
MAX_RETRY_S = 2.0
#: Bytes hashed at a time.
HASH_BLOCK_BYTES = 1 << 20


class Viewer:
    """A client of one download that stays to its end."""

    def __init__(
        self, urls: Callable[[], Sequence[str]], first: int, download_id: str, may_be_lost: Callable[[], bool]
    ) -> None:
        self.witness = Witness(self._look)
        #: Monotonic seconds of the present connection's begin and of its latest frame.
        self.connected_s = self.served_s = 0.0
        #: The replica that serves it now, or served it last.
        self.replica = first
        self.wrong: list[str] = []
        self._urls = urls
        self._id = download_id
        self._may_be_lost = may_be_lost
        self._most_bytes = 0
        self._given_up = False

    async def run(self) -> None:
        """Watch, over as many connections as it takes."""
        visit = self.replica
        while self.witness.terminal is None and not self._given_up:
            urls = self._urls()
            self.replica, visit = visit % len(urls), visit + 1
            try:
                async with asyncio.timeout(ANSWER_S):
                    last_id = self.witness.last_event_id
                    connection = await watch(urls[self.replica], self._id, self.witness, last_event_id=last_id)
            except TimeoutError:
                continue
            try:
                await self._stay(connection)
            finally:
                connection.leave()
            if self.witness.terminal is None:
                await asyncio.sleep(self._retry_s())

    def judge(self) -> list[str]:
        """What was wrong."""
        wrong = self.wrong + self.witness.wrong
        if self.witness.terminal is None:
            wrong.append(f"a client never saw the end; the last it saw: {self.witness.last!r}")
        elif self.witness.done != 1:
            wrong.append(f"a client got {self.witness.done} [DONE]")
        return wrong

    async def _stay(self, connection: Connection) -> None:
        status = connection.answered.result()
        if status == 200:
            await self._read(connection)
        elif status == 404 and self._may_be_lost():
            return
        elif status:
            self.wrong.append(f"answered {status}: {connection.body[:200]!r}")
            self._given_up = True

    async def _read(self, connection: Connection) -> None:
        self.connected_s = time.monotonic()
        heard, heard_s = -1, self.connected_s
        while not connection.over.done():
            now_s, now = time.monotonic(), self._frames()
            if now != heard:
                heard, heard_s = now, now_s
                self.served_s = now_s
            elif now_s - heard_s > SILENCE_S:
                return
            await asyncio.wait({connection.over}, timeout=LOOK_S)

    def _frames(self) -> int:
        witness = self.witness
        return len(witness.seen) + witness.comments + len(witness.retries_ms)

    def _retry_s(self) -> float:
        retries = self.witness.retries_ms
        return min((retries[-1] if retries else RETRY_MS) / 1000, MAX_RETRY_S)

    def _look(self, version: Version, event: Event) -> str | None:
        if isinstance(event, Downloading):
            back, self._most_bytes = event.bytes_downloaded < self._most_bytes, event.bytes_downloaded
            return f"progress went back: {event!r}" if back and not self._may_be_lost() else None
        if isinstance(event, Error) and event.code == DownloadNotFound.code:
            return f"a known id was said to be unknown: {event!r}"
        return None


class Watch:
    """All who watch one download, on replicas in turn."""

    def __init__(
        self,
        thread: LoopThread,
        urls: Callable[[], Sequence[str]],
        download_id: str,
        *,
        viewers: int = 3,
        only: int | None = None,
        may_be_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        """`only`: all begin at this replica."""
        self.id = download_id
        first = [number if only is None else only for number in range(viewers)]
        self.viewers = [Viewer(urls, number, download_id, may_be_lost) for number in first]
        self._tasks = [thread.spawn(viewer.run()) for viewer in self.viewers]

    @property
    def last(self) -> Event | None:
        """The latest event that anybody has seen."""
        seen = [viewer.witness for viewer in self.viewers if viewer.witness.seen]
        return max(seen, key=lambda witness: witness.seen[-1]).last if seen else None

    @property
    def status(self) -> str:
        """The latest status; empty before the first event."""
        return (self.last.status or "") if self.last is not None else ""

    @property
    def attempt(self) -> int:
        """The latest attempt; 0 before the first event."""
        return (self.last.attempt or 0) if self.last is not None else 0

    @property
    def bytes_done(self) -> int:
        """The bytes that were shown last."""
        return self.last.bytes_downloaded if isinstance(self.last, Downloading) else 0

    @property
    def over(self) -> bool:
        """Whether every viewer is done."""
        return all(task.done() for task in self._tasks)

    def leave(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()

    def judge(self) -> list[str]:
        """What was wrong, when it is over."""
        wrong = [problem for viewer in self.viewers for problem in viewer.judge()]
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                wrong.append(f"a client failed: {error!r}")
        ends = {
            (witness.terminal, events.encode(witness.last))
            for witness in (viewer.witness for viewer in self.viewers)
            if witness.terminal is not None and witness.last is not None
        }
        if len(ends) > 1:
            wrong.append(f"clients saw different ends: {sorted(map(str, ends))}")
        return [f"{self.id}: {problem}" for problem in wrong]


def judge_files(complete: Complete, contents: Mapping[str, Content]) -> list[str]:
    """What is wrong with the files behind a `complete`."""
    place = Path(complete.local_path)
    paths = {name: place / name if place.is_dir() else place for name in contents}
    return [
        f"complete, but {path} does not hold the bytes of {name}"
        for name, path in paths.items()
        if not path.is_file() or digest(path) != contents[name].sha256()
    ]


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()
