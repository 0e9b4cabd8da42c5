"""One stream for many downloads: `GET /v1/downloads/progress`, for pages and fleets.

Problem: a browser opens six HTTP/1.1 connections to a host, and a page shows twenty downloads. So one stream carries
all that a client wants to see: the present state of each first, then every change, each with the same guarantees as a
stream of its own. It is one subscriber on many topics. When the client is slow the topics that changed are noted,
each once, and their newest state is sent when it has caught up; so what waits is bounded by the number of downloads,
and an end is never dropped.

A stream for named downloads ends with `[DONE]` when all of them have ended. One for all, or all active ones, goes on:
new downloads appear in it by themselves. "All" are those that its client may see; one that it gives up, while others go
on with it, ends there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from starlette.types import Receive, Scope, Send

from hive import errors
from hive.auth.holder import holder_of, is_unlimited
from hive.auth.principal import Principal, principal_of
from hive.downloads.tracker import DownloadTracker
from hive.redis.client import CommandThread
from hive.streams import sse
from hive.streams.fanout import Fanout
from hive.streams.revocation import end_dead
from hive.streams.shares import Shares
from hive.streams.stream import end_at_once, refuse
from hive.streams.topic import Topic
from hive.streams.writer import Writer, respond
from hive.wire.events import Version

log = logging.getLogger("hive.streams.many")

#: Downloads that one stream may name.
MAX_IDS: Final = 100
#: Downloads in the snapshot of a stream for all, the newest first.
MAX_SNAPSHOT: Final = 1000
#: Ended downloads that a stream remembers, so that it says no end twice.
MAX_ENDED: Final = 4 * MAX_SNAPSHOT
#: Streams of this kind in one process: each is told of every download.
MAX_MANY_STREAMS: Final = 500
#: How many times the share of a key this machine has where there are no keys: tabs of one person, and their scripts.
LOOPBACK_SHARES: Final = 16


class ManyStream:
    """The response. `wanted` names its downloads, None means all that there are or will be."""

    def __init__(
        self,
        endpoint: ManyEndpoint,
        wanted: frozenset[str] | None,
        principal: Principal,
        keepalive_s: float,
        *,
        with_ids: bool,
    ) -> None:
        self._endpoint = endpoint
        #: Who opened it: it ends when they may no more (revocation.py).
        self.principal = principal
        self._wanted = wanted
        self._with_ids = with_ids
        self._keepalive_s = keepalive_s
        self._seen: dict[str, Version] = {}
        self._changed: dict[str, Topic] = {}
        #: Ended, and said so; the oldest are forgotten.
        self._ended: dict[str, None] = {}
        self._writer: Writer | None = None
        self._running = False
        #: Whether its client has gone: it may still be put on a topic by what was under way then.
        self.is_gone = False
        self._closing: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._spoke_s = self._loop.time()

    @property
    def wants_all(self) -> bool:
        """Whether new downloads belong to it."""
        return self._wanted is None

    @property
    def started(self) -> bool:
        """Whether anything was sent."""
        return self._writer is not None

    def start(self, writer: Writer) -> None:
        """The first bytes, then the snapshot: every topic that it was put on until now."""
        self._writer, self._running = writer, True
        self._write(sse.retry(sse.RETRY_MS) if self._with_ids else b"")
        self._timer = self._loop.call_later(self._keepalive_s, self._tick)
        self.on_writable()

    # -- called by the fan-out; none of these waits ------------------------------------------------------------------

    def notify(self, topic: Topic) -> None:
        """Note that the topic changed, and send what can be sent."""
        if self.is_gone or topic.id in self._ended:
            self._endpoint.leave(topic, self)
            return
        if self._seen.get(topic.id) is topic.version or not topic.known:
            return
        self._changed[topic.id] = topic
        self.on_writable()

    def admit(self, topic: Topic) -> None:
        """A download that its client shares from now on, perhaps for the second time."""
        self._ended.pop(topic.id, None)
        self._seen.pop(topic.id, None)
        self.notify(topic)

    def withdraw(self, end: Topic) -> None:
        """Say this end of a download."""
        self.notify(end)

    def keep_alive(self) -> None:
        """The stream keeps its own time: one topic's silence is not the stream's."""

    def abort(self) -> None:
        """Cut the connection."""
        if self._writer is not None:
            self._writer.abort()

    def close(self, retry_ms: int) -> None:
        """End the response without `[DONE]`: the client is to connect again, elsewhere or later."""
        self._closing = sse.retry(retry_ms) if self._with_ids else b""
        self.on_writable()

    # -- called by the writer ----------------------------------------------------------------------------------------

    def on_writable(self) -> None:
        """Send what is newest of everything that changed, as long as the client takes it."""
        while self._running and self._writer is not None and not self._writer.paused:
            if self._closing is not None:
                self._end(self._closing)
            elif self._changed:
                self._send(self._changed.pop(next(iter(self._changed))))
            elif self._wanted is not None and self._wanted <= self._ended.keys():
                self._end(sse.DONE)
            else:
                return

    def on_stalled(self) -> None:
        """The client has taken nothing for too long, and is given up."""
        self._endpoint.stalled_total += 1

    def on_gone(self) -> None:
        """The response is over, however it ended."""
        self._running, self.is_gone = False, True
        if self._timer is not None:
            self._timer.cancel()
        self._endpoint.forget(self)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _send(self, topic: Topic) -> None:
        assert topic.message is not None
        self._seen[topic.id] = topic.version
        self._write((sse.frame_of_many if self._with_ids else sse.bare_of_many)(topic.id, topic.message))
        if topic.terminal:
            self._ended[topic.id] = None
            if len(self._ended) > MAX_ENDED:
                del self._ended[next(iter(self._ended))]
            self._seen.pop(topic.id, None)
            self._endpoint.leave(topic, self)

    def _write(self, data: bytes) -> None:
        assert self._writer is not None
        self._spoke_s = self._loop.time()
        head, self._writer.head = self._writer.head, b""
        self._writer.write(head + (sse.chunk(data) if self._writer.chunked else data))

    def _end(self, data: bytes) -> None:
        assert self._writer is not None
        self._running = False
        head, self._writer.head = self._writer.head, b""
        self._writer.end(head + (sse.chunk(data, last=True) if self._writer.chunked else data))

    def _tick(self) -> None:
        if not self._running or self._writer is None:
            return
        silent_s = self._loop.time() - self._spoke_s
        if silent_s >= self._keepalive_s and not self._writer.paused:
            self._write(sse.KEEPALIVE)
            silent_s = 0.0
        self._timer = self._loop.call_later(max(0.05, self._keepalive_s - silent_s), self._tick)


class ManyEndpoint:
    """Answers `GET /v1/downloads/progress`."""

    def __init__(
        self,
        fanout: Fanout,
        commands: CommandThread,
        tracker: DownloadTracker,
        keepalive_s: float,
        max_per_holder: int = 0,
    ) -> None:
        """`max_per_holder`: streams of one key or address, 0 for no limit."""
        self._shares = Shares(max_per_holder)
        self._holders: dict[ManyStream, str] = {}
        self._fanout = fanout
        self._commands = commands
        self._tracker = tracker
        self._keepalive_s = keepalive_s
        self._open: set[ManyStream] = set()
        self._draining = False
        self._refreshing: set[asyncio.Task[None]] = set()
        self._statuses: dict[ManyStream, frozenset[str] | None] = {}
        #: Streams that have ended, and how many of them because the client took nothing.
        self.ended_total = self.stalled_total = 0
        fanout.on_subscribed(self._refresh_all)

    @property
    def open_streams(self) -> int:
        """How many clients are watching."""
        return len(self._open)

    async def __call__(
        self,
        wanted: Sequence[str],
        statuses: frozenset[str] | None,
        asked: sse.StreamRequest,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Serve one client. `wanted` names downloads; without it all are meant, in the snapshot those whose status is
        in `statuses` (None: all).

        Raises:
            DownloadNotFound: a named one is unknown, or somebody else's.
            TooManyStreams: this key or address has as many as it may, and its client knows statuses.
        """
        if self._draining or len(self._open) >= MAX_MANY_STREAMS:
            await end_at_once(send, with_retry=asked.with_ids)
            return
        principal, holder = principal_of(scope), holder_of(scope)
        if not self._shares.take(holder, LOOPBACK_SHARES if is_unlimited(scope) else 1):
            await refuse(send, asked)
            return
        stream = ManyStream(self, frozenset(wanted) or None, principal, self._keepalive_s, with_ids=asked.with_ids)
        self._open.add(stream)
        self._holders[stream] = holder
        self._statuses[stream] = statuses
        try:
            if stream.wants_all:
                if statuses is not None:  # else a late echo tells of an end that the snapshot rightly leaves out
                    await self._fanout.catch_up()
                self._fanout.watch_all(stream, principal)
                with contextlib.suppress(errors.RedisUnavailable):  # the snapshot comes when Redis is back
                    await self._snapshot(stream)
            else:
                await self._join_named(stream, wanted)
        except errors.RedisUnavailable:
            stream.on_gone()
            await end_at_once(send, with_retry=asked.with_ids)
            return
        except BaseException:
            stream.on_gone()
            raise
        await respond(scope, receive, send, stream, stream.start)

    def forget(self, stream: ManyStream) -> None:
        """The stream has ended, or never began."""
        self._open.discard(stream)
        if (holder := self._holders.pop(stream, None)) is not None:
            self._shares.give_back(holder)
        self.ended_total += stream.started
        self._statuses.pop(stream, None)
        self._fanout.leave_all(stream)

    def leave(self, topic: Topic, stream: ManyStream) -> None:
        """The download has ended, and the stream has said so."""
        self._fanout.leave(topic, stream)

    async def end_dead(self, is_alive: Callable[[Principal], bool]) -> int:
        """End the streams of principals that are not alive any more; how many."""
        return await end_dead(self._open, is_alive)

    def drain(self) -> None:
        """End every stream without `[DONE]`, and begin none any more."""
        self._draining = True
        for stream in list(self._open):
            stream.close(sse.RETRY_MS)

    async def _join_named(self, stream: ManyStream, wanted: Sequence[str]) -> None:
        for download_id, topic in zip(wanted, await self._join(stream, wanted), strict=True):
            if topic is None:
                raise errors.DownloadNotFound(id=download_id)

    async def _snapshot(self, stream: ManyStream) -> None:
        """Put the stream on every download there is: oldest first, so that it reads like what happened."""
        statuses = self._statuses.get(stream)
        page = await self._commands.run(
            self._tracker.page, limit=MAX_SNAPSHOT, keep=statuses, principal=stream.principal
        )
        await self._join(stream, [record.id for record in reversed(page.records)])

    async def _join(self, stream: ManyStream, ids: Sequence[str]) -> list[Topic | None]:
        topics = await asyncio.gather(*(self._join_one(stream, download_id) for download_id in ids))
        for topic in topics:
            if topic is not None:
                stream.notify(topic)
        return list(topics)

    async def _join_one(self, stream: ManyStream, download_id: str) -> Topic | None:
        topic = await self._fanout.join(download_id, stream, stream.principal)
        if topic is not None and stream.is_gone:
            self._fanout.leave(topic, stream)
        return topic

    def _refresh_all(self) -> None:
        """The subscription was away: downloads may have begun meanwhile of which nothing was heard."""
        for stream in [stream for stream in self._open if stream.wants_all]:
            task = asyncio.get_running_loop().create_task(self._refresh(stream))
            self._refreshing.add(task)
            task.add_done_callback(self._refreshing.discard)

    async def _refresh(self, stream: ManyStream) -> None:
        with contextlib.suppress(errors.RedisUnavailable):
            await self._snapshot(stream)
