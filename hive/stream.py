"""One subscriber: Running -> SendingDone -> Done, as a lean ASGI response whose frames are driven by the fan-out.

Problem: a client may be slow, stalled or gone, and there may be ten thousand of them. The easy way, a task per client
that awaits a queue and a `StreamingResponse`, costs a wake-up and a task switch per frame and grows a queue for every
slow client. So: no queue and no waking. The fan-out calls `notify`; the frame's `send` coroutine is stepped right
there and nearly always finishes at once. When it does not, the client's buffer is full: the started send goes on in a
task of its own, and meanwhile newer events only replace the topic's slot. When it is through, the slot is looked at
again, so a slow client skips frames and never the terminal, which is simply the last value.

The request's own task waits in `receive()`: it alone notices that a client has gone, since `send()` to a closed
connection returns silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Literal

from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from hive import sse
from hive.fanout import NOTHING, Fanout, Topic
from hive.wire.events import Version

Phase = Literal["running", "sending_done", "done"]


class Stream:
    """The response to `GET /v1/models/download/progress`."""

    __slots__ = ("_blocked", "_closing", "_send", "_started", "phase", "seen", "topic")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self._blocked = False
        self._closing: bytes | None = None
        self.phase: Phase = "running"
        self.seen: Version = NOTHING
        self.topic: Topic | None = None

    async def run(self, topic: Topic, fanout: Fanout, receive: Receive) -> None:
        """Serve the topic until its end is sent, the server drains, or the client goes."""
        self.topic = topic
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": sse.HEADERS})
            self._started = True
            self._greet(topic)
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self.phase = "done"
            fanout.leave(topic, self)

    # -- called by the fan-out; none of these waits ------------------------------------------------------------------

    def notify(self, topic: Topic) -> None:
        """Send the topic's slot, unless it was sent, a send is under way, or the stream is over."""
        if not self._started or self._blocked or self.phase != "running" or topic.version <= self.seen:
            return
        self.seen = topic.version
        if topic.terminal:
            self.phase = "sending_done"
        self._write(topic.frame, last=topic.terminal)

    def keep_alive(self) -> None:
        """Send a comment, unless the client has not even taken what it was sent before."""
        if self._started and not self._blocked and self.phase == "running":
            self._write(sse.KEEPALIVE)

    def close(self, retry_ms: int) -> None:
        """End the response without `[DONE]`: the client is to connect again, elsewhere or later."""
        if self.phase != "running":
            return
        self.phase, self._closing = "sending_done", sse.retry(retry_ms)
        if self._started and not self._blocked:
            self._write(self._closing, last=True)

    def _greet(self, topic: Topic) -> None:
        """The first bytes, at once: how to reconnect, and the present state where there is one."""
        self.seen = topic.version
        if topic.terminal:
            self.phase = "sending_done"
        self._write(sse.retry(sse.RETRY_MS) + topic.frame, last=topic.terminal)

    # -- sending -----------------------------------------------------------------------------------------------------

    def _write(self, body: bytes, *, last: bool = False) -> None:
        """Step the send once: it finishes here, or goes on in a task when the client's buffer is full."""
        message: AsgiMessage = {"type": "http.response.body", "body": body, "more_body": not last}
        sending = self._send(message)
        assert isinstance(sending, Coroutine)
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return
        self._blocked = True
        task = asyncio.get_running_loop().create_task(self._finish(_Started(sending, waits_for)))
        _finishing.add(task)
        task.add_done_callback(_finishing.discard)

    async def _finish(self, rest: _Started) -> None:
        await rest
        self._blocked = False
        if self._closing is not None:
            self._write(self._closing, last=True)
        elif self.topic is not None:
            self.notify(self.topic)


#: Sends that wait for a slow client: the event loop itself holds tasks only weakly.
_finishing: set[asyncio.Task[None]] = set()


class _Started:
    """The rest of a coroutine that was stepped once by hand: hands what it waits for on to the task that awaits this."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while True:
            try:
                value = yield waits_for
            except BaseException as error:
                step: Any = (self._coroutine.throw, error)
            else:
                step = (self._coroutine.send, value)
            try:
                waits_for = step[0](step[1])
            except StopIteration:
                return


class StreamEndpoint:
    """Answers the progress route: 200 and a stream, 204, or an error as JSON."""

    def __init__(self, fanout: Fanout, max_streams: int) -> None:
        self._fanout = fanout
        self._max_streams = max_streams
        self._open: set[Stream] = set()
        self._draining = False
        self.opened_total = 0

    @property
    def open_streams(self) -> int:
        """How many clients are watching."""
        return len(self._open)

    async def __call__(
        self, download_id: str, last_event_id: str | None, scope: Scope, receive: Receive, send: Send
    ) -> bool:
        """Serve one client. False, with nothing sent, where the id is unknown."""
        stream = Stream(send)
        if self._draining or len(self._open) >= self._max_streams:
            await _end_at_once(send)
            return True
        self._open.add(stream)
        self.opened_total += 1
        try:
            topic = await self._fanout.join(download_id, stream)
            if topic is None:
                return False
            if topic.terminal and last_event_id is not None and Version.parse(last_event_id) == topic.version:
                self._fanout.leave(topic, stream)
                await _no_content(send)
                return True
            await stream.run(topic, self._fanout, receive)
            return True
        finally:
            self._open.discard(stream)

    async def drain(self, window_s: float) -> None:
        """End every stream cleanly and without `[DONE]`, spread over `window_s` seconds so that the clients do not
        all return at once.
        """
        self._draining = True
        streams = list(self._open)
        steps = max(1, min(len(streams), int(window_s / _DRAIN_STEP_S)))
        for step in range(steps):
            for index, stream in enumerate(streams[step::steps]):
                stream.close(sse.RETRY_MS // 2 + (index * 7919) % sse.RETRY_MS)
            if step < steps - 1:
                await asyncio.sleep(window_s / steps)


#: Seconds between two groups of streams that a drain ends.
_DRAIN_STEP_S = 0.02
#: Milliseconds after which a client that found the server full or draining is to come back.
_BUSY_RETRY_MS = 5000


async def _end_at_once(send: Send) -> None:
    """Any status but 200 is final for an EventSource: give an empty stream that asks to come back."""
    await send({"type": "http.response.start", "status": 200, "headers": [*sse.HEADERS, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": sse.retry(_BUSY_RETRY_MS), "more_body": False})


async def _no_content(send: Send) -> None:
    """204: the client has seen the end; this is what stops an EventSource."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
