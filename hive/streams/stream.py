"""One progress stream: Running -> SendingDone -> Done, driven by the fan-out.

Problem: a client may be slow, stalled or gone, and there may be ten thousand of them. The easy way, a task per client
that awaits a queue, costs a wake-up and a task switch per frame and grows a queue for every slow client. So: no queue,
no task and no waking. The fan-out calls `notify`, and the frame is written right there (writer.py). When the client has
not taken what it was sent before, nothing is written: newer events replace the topic's slot, and when it has, the slot
is looked at again. So a slow client skips frames and never the terminal, which is simply the last value.

The phases of a stream:

    joining ---start()---> running ---terminal, or close()---> sending_done ---connection closed---> done
       |                      |                                     ^                                 ^
       '------ close() -------|-------------------------------------'                                 |
                              '--- the client has gone, or was given up as stalled -------------------'

The exits, each with what the client is to make of it. `[DONE]` is said after a terminal event and nowhere else.

    why it ends                                   what is sent                        what the client does
    ------------------------------------------    --------------------------------    ---------------------------
    no such download                              404, by the route                   stops
    the server is full, or drains; Redis is away  200 with `retry: 5000`, no event    comes back later
        and it is unknown whose it is; the key
        file cannot be used
    its client has given up its share             CANCELLED and `[DONE]`              stops
    the client has seen the end already           204                                 an EventSource stops
    the download has ended                        the terminal event and `[DONE]`     stops
    the server drains while the stream runs       `retry:` of 1 to 3 seconds          comes back, elsewhere
    its key is revoked or has expired             `retry:` of 1 to 3 seconds          comes back, and is told 401
    the client has seen more than Redis shows     `retry:`, no event                  comes back, reads it anew
    the client takes nothing for 30 seconds       a reset                             comes back, if it lives
    hive failed to tell it something              a reset                             comes back
    the client has gone                           nothing                             -

A client that is sent bare frames (topic.py, sse.py) is sent no `retry:` either: its stream just ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final, Literal

from starlette.types import Receive, Scope, Send

from hive.auth.principal import Principal, principal_of
from hive.errors import RedisUnavailable, TooManyStreams
from hive.streams import sse
from hive.streams.fanout import Fanout
from hive.streams.revocation import end_dead
from hive.streams.shares import RETRY_S, Shares
from hive.streams.topic import CHUNKED, NOTHING, PLAIN, WITH_ID, Topic
from hive.streams.writer import Writer, respond
from hive.wire.events import Version

Phase = Literal["joining", "running", "sending_done", "done"]

#: Seconds between two groups of streams that a drain ends.
_DRAIN_STEP_S = 0.02
#: Milliseconds after which a client that found the server full or draining is to come back.
_BUSY_RETRY_MS = 5000
#: The first bytes of a stream by its form: how to connect again, for those who can.
_GREETINGS: Final = (b"", sse.retry(sse.RETRY_MS), b"", sse.chunk(sse.retry(sse.RETRY_MS)))
_KEEPALIVE_CHUNK: Final = sse.chunk(sse.KEEPALIVE)


class Stream:
    """The response to `GET /v1/models/download/progress`."""

    __slots__ = (
        "_closing",
        "_endpoint",
        "_floor",
        "_form",
        "_write",
        "_writer",
        "phase",
        "principal",
        "seen",
        "started",
        "topic",
    )

    def __init__(self, endpoint: StreamEndpoint, form: int, principal: Principal) -> None:
        """`form`: PLAIN or WITH_ID; whether it goes in chunks is seen when it starts."""
        self._endpoint = endpoint
        #: Who opened it: it ends when they may no more (revocation.py).
        self.principal = principal
        self._form = form
        self._closing: bytes | None = None
        self.phase: Phase = "joining"
        #: Whether a writer is responsible for its end.
        self.started = False
        self.seen: Version = NOTHING
        self.topic: Topic | None = None
        #: What the client has seen elsewhere, where this process cannot know whether it knows as much.
        self._floor: Version | None = None

    def not_before(self, version: Version) -> None:
        """Show nothing until there is something newer than this."""
        self._floor = version

    def start(self, writer: Writer, topic: Topic) -> None:
        """The first bytes, at once: how to connect again, and the present state where there is one."""
        self._writer, self._write = writer, writer.write
        self._form |= CHUNKED if writer.chunked else PLAIN
        self.topic, self.started = topic, True
        if self.phase != "joining":
            self._close()
            return
        self.phase, self.seen = "running", topic.version
        if self._floor is not None and topic.terminal:
            # Nothing newer ever comes to this topic: the client is to come back, and finds the record read anew.
            self._closing, self.phase = sse.retry(sse.RETRY_MS), "sending_done"
            self._close()
            return
        if self._floor is not None:
            self._write(writer.head + _GREETINGS[self._form])
            writer.head = b""
            return
        first = writer.head + _GREETINGS[self._form] + (topic.encoded[self._form] or topic.encode(self._form))
        writer.head = b""
        if topic.terminal:
            self._end(first)
        else:
            self._write(first)

    # -- called by the fan-out; none of these waits ------------------------------------------------------------------

    def notify(self, topic: Topic) -> None:
        """Send the topic's slot, unless it was sent, the client is behind, or the stream is over."""
        # A version is one object for as long as it is in the slot, and the slot only ever moves on.
        if self.phase != "running" or self.seen is topic.version or self._writer.paused:
            return
        self.seen = topic.version
        if self._floor is not None:
            if topic.version <= self._floor and not topic.terminal:
                return
            self._floor = None
        data = topic.encoded[self._form] or topic.encode(self._form)
        if topic.terminal:
            self._end(data)
        else:
            self._write(data)

    def admit(self, topic: Topic) -> None:
        """Nothing: it asked for its one topic itself."""

    def withdraw(self, end: Topic) -> None:
        """End with this in place of the topic, also where the client is behind."""
        self.topic = end
        self.notify(end)

    def keep_alive(self) -> None:
        """Send a comment, unless the client has not even taken what it was sent before."""
        if self.phase == "running" and not self._writer.paused:
            self._write(_KEEPALIVE_CHUNK if self._form & CHUNKED else sse.KEEPALIVE)

    def abort(self) -> None:
        """Cut the connection."""
        if self.started:
            self._writer.abort()

    def close(self, retry_ms: int) -> None:
        """End the response without `[DONE]`: the client is to connect again, elsewhere or later."""
        if self.phase not in ("joining", "running"):
            return
        self._closing = sse.retry(retry_ms)
        if self.phase == "running" and not self._writer.paused:
            self._close()
        self.phase = "sending_done"

    # -- called by the writer ----------------------------------------------------------------------------------------

    def on_writable(self) -> None:
        """The client has caught up: send what is newest."""
        if self._closing is not None:
            self._close()
        elif self.topic is not None:
            self.notify(self.topic)

    def on_stalled(self) -> None:
        """The client has taken nothing for too long, and is given up."""
        self._endpoint.stalled_total += 1

    def on_gone(self) -> None:
        """The response is over, however it ended."""
        self.phase = "done"
        self._endpoint.forget(self)

    def _end(self, data: bytes) -> None:
        self.phase = "sending_done"
        self._writer.end(data)

    def _close(self) -> None:
        assert self._closing is not None
        data, self._closing = self._closing if self._form & WITH_ID else b"", None
        self._writer.end(self._writer.head + (sse.chunk(data, last=True) if self._form & CHUNKED else data))


class StreamEndpoint:
    """Answers the progress route: 200 and a stream, 204, or an error as JSON."""

    def __init__(self, fanout: Fanout, max_streams: int, max_per_key: int = 0) -> None:
        """`max_per_key` of 0: no limit."""
        self._shares = Shares(max_per_key)
        self._fanout = fanout
        self._max_streams = max_streams
        self._open: set[Stream] = set()
        self._draining = False
        #: Streams that have ended, and how many of them because the client took nothing.
        self.ended_total = self.stalled_total = 0

    @property
    def open_streams(self) -> int:
        """How many clients are watching."""
        return len(self._open)

    async def __call__(
        self, download_id: str, asked: sse.StreamRequest, scope: Scope, receive: Receive, send: Send
    ) -> bool:
        """Serve one client. False, with nothing sent, where the id is unknown, or somebody else's.

        Returns before the stream has ended where the server hands the connection over.

        Raises:
            TooManyStreams: the key has as many as it may, and its client knows statuses.
        """
        if self._draining or len(self._open) >= self._max_streams:
            await end_at_once(send, with_retry=asked.with_ids)
            return True
        principal = principal_of(scope)
        if not self._shares.take(_holder(principal)):
            await refuse(send, asked)
            return True
        stream = Stream(self, WITH_ID if asked.with_ids else PLAIN, principal)
        self._open.add(stream)
        try:
            try:
                topic = await self._fanout.join(download_id, stream, principal)
            except RedisUnavailable:
                await end_at_once(send, with_retry=asked.with_ids)
                return True
            if topic is None:
                return False
            stream.topic = topic
            last = Version.parse(asked.last_event_id) if asked.last_event_id is not None else None
            # The client was at a replica that is ahead of this one: what is in the slot here is its past.
            if last is not None and topic.version < last:
                there = await self._fanout.read_again(topic)
                # Made again after Redis lost its data: its worker, under the same fence, is about to say more.
                behind = topic.version < last and topic.version.fence == last.fence and not topic.terminal
                if behind or not there:
                    stream.not_before(last)
            if topic.terminal and last == topic.version:
                await _no_content(send)
            else:
                await respond(scope, receive, send, stream, lambda writer: stream.start(writer, topic))
            return True
        finally:
            if not stream.started:
                self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """The stream has ended, or never began."""
        if stream in self._open:
            self._open.discard(stream)
            self._shares.give_back(_holder(stream.principal))
        self.ended_total += stream.started
        if stream.topic is not None:
            self._fanout.leave(stream.topic, stream)

    async def end_dead(self, is_alive: Callable[[Principal], bool]) -> int:
        """End the streams of principals that are not alive any more; how many."""
        return await end_dead(self._open, is_alive)

    async def drain(self, window_s: float) -> None:
        """End every stream cleanly and without `[DONE]`, spread over `window_s` seconds so that the clients do not
        all return at once.
        """
        self._draining = True
        streams = list(self._open)
        steps = max(1, min(len(streams), int(window_s / _DRAIN_STEP_S)))
        began_s = time.monotonic()
        for step in range(steps):
            for stream in streams[step::steps]:
                stream.close(sse.RETRY_MS // 2 + random.randrange(sse.RETRY_MS))
            if step < steps - 1:
                # By the clock, not by so many sleeps: each is a little longer than asked for.
                await asyncio.sleep(began_s + (step + 1) * window_s / steps - time.monotonic())


def _holder(principal: Principal) -> str:
    """Whose share a stream is: a key's. Not an address's: a balancer in front of hive has one."""
    return principal.key_id


async def refuse(send: Send, asked: sse.StreamRequest) -> None:
    """Answer whoever has too many streams open. An EventSource, which a status would end for good, is to come back.

    Raises:
        TooManyStreams: it is none.
    """
    if not asked.with_ids:
        raise TooManyStreams(retry_after_s=RETRY_S)
    await end_at_once(send, with_retry=True)


async def end_at_once(send: Send, *, with_retry: bool) -> None:
    """Any status but 200 is final for an EventSource: give an empty stream that asks to come back."""
    await send({"type": "http.response.start", "status": 200, "headers": [*sse.HEADERS, (b"connection", b"close")]})
    await send(
        {"type": "http.response.body", "body": sse.retry(_BUSY_RETRY_MS) if with_retry else b"", "more_body": False}
    )


async def _no_content(send: Send) -> None:
    """204: the client has seen the end; this is what stops an EventSource."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
