"""A request passed on to an LLM worker, and its answer back, unread.

An event stream goes straight into the client's connection where the server hands that over, as progress streams do;
anything else is one answer, kept within a bound and sent as a whole. A client that goes away closes the worker's
connection, which frees its slot; a slow one slows the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from starlette.types import Receive, Scope, Send

from hive import errors, serving_errors
from hive.api.json import BOM, body_too_large, error_response, max_body_bytes
from hive.auth.principal import principal_of
from hive.serving.endpoint import PASSED_ON_BY, Endpoint
from hive.serving.kept_connections import KeptConnections
from hive.serving.relay import Relay
from hive.serving.upstream import Headers
from hive.streams import sse
from hive.streams.revocation import Opened
from hive.streams.writer import EXTENSION, HandOver, SocketWriter

#: Bytes of an answer that is no stream, or of one whose connection could not be had: some thousand vectors.
MAX_WHOLE_BYTES: Final = 16 << 20
#: Seconds in which the reader of a stream must take something: every token counts, and one who takes ten a second seems
#: to take nothing for half a minute.
SLOW_READER_S: Final = 300.0
#: What of a request goes on to the worker.
PASSED_ON: Final = frozenset({b"content-type", b"accept", b"x-request-deadline", b"x-deadline"})


async def read_whole(scope: Scope, receive: Receive) -> bytes:
    """The request's body.

    Raises:
        BodyTooLarge: it is too long.
        BadRequest: the client went away.
    """
    body, limit = bytearray(), max_body_bytes(scope["path"])
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise errors.BadRequest("The request broke off.")
        body += message.get("body", b"")
        if len(body) > limit:
            raise body_too_large(scope["path"])
        if not message.get("more_body"):
            return bytes(body.removeprefix(BOM))


async def pass_on(
    target: Endpoint,
    headers: Headers,
    body: bytes,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    is_last: bool,
    opened: set[Opened],
    kept: KeptConnections,
) -> bool:
    """Ask the worker, and answer the client. False, with nothing sent, where the worker has no free slot and it is not
    the last that could be asked. `opened` has the answer for as long as it is on its way.

    Raises:
        InferenceFailed: the worker does not answer.
    """
    answer = PassedAnswer(scope, send)
    relay = Relay(answer, kept)
    answer.stop = relay.stop
    own = [(name, value) for name, value in scope["headers"] if name in PASSED_ON]
    asking = asyncio.create_task(
        relay.run(target, scope["method"], scope["path"], (*own, PASSED_ON_BY, *headers), body)
    )
    watching = asyncio.create_task(_until_gone(receive))
    opened.add(answer)
    try:
        await answer.settled(asking, watching)
        if watching.done() and not answer.is_handed_over:
            relay.stop()
        await asking
    finally:
        opened.discard(answer)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await watching
    if answer.is_revoked and not answer.is_handed_over:
        await error_response(errors.InvalidApiKey())(scope, receive, send)
        return True
    if answer.is_too_long:
        text = f"The answer is over {MAX_WHOLE_BYTES >> 20} MiB. Ask for a stream, or for less at once."
        error = serving_errors.InferenceFailed(text, limit_bytes=MAX_WHOLE_BYTES)
        await error_response(error)(scope, receive, send)
        return True
    if relay.failure and not watching.done():
        raise serving_errors.InferenceFailed(f"The worker does not answer: {relay.failure}.")
    if answer.is_handed_over or relay.outcome == "gone":
        return True
    if answer.status == 503 and not is_last:
        return False
    await answer.send_whole(relay.outcome == "end")
    return True


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class PassedAnswer:
    """Where the relay writes. It is a stream on the client's own connection, or one that is kept whole."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._writer: SocketWriter | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        #: The head of a stream, which leaves with the first piece of its body, or when nothing follows at once.
        self._head = b""
        self._begun = asyncio.Event()
        self.principal = principal_of(scope)
        self.status = 0
        #: Whether it was given up because it does not end.
        self.is_too_long = False
        #: Whether its key ended before it did.
        self.is_revoked = False
        self.stop: Callable[[], None] = lambda: None
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None

    @property
    def is_handed_over(self) -> bool:
        """Whether the client's connection is the answer's own."""
        return self._writer is not None

    def close(self, retry_ms: int) -> None:
        """Its key counts no more: a stream is cut, and in place of a whole answer stands an error."""
        self.is_revoked = True
        self.stop()

    async def settled(self, asking: asyncio.Task[None], watching: asyncio.Task[None]) -> None:
        """Return when the answer is over, has its own connection, or the client has gone."""
        begun = asyncio.create_task(self._begun.wait())
        try:
            await asyncio.wait([asking, watching, begun], return_when=asyncio.FIRST_COMPLETED)
            if self._writer is None and not asking.done() and not watching.done():
                await asyncio.wait([asking, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()

    # -- called by the relay -----------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether the client has not taken what it was sent."""
        return self._writer is not None and self._writer.paused

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The worker answers."""
        self.status, self._headers = status, headers
        is_stream = any(name == b"content-type" and value.startswith(sse.MEDIA_TYPE) for name, value in headers)
        hand_over: HandOver | None = self._scope.get("extensions", {}).get(EXTENSION)
        if status == 200 and is_stream and hand_over is not None:
            self._writer = hand_over(self._scope, _Client(self))
            if self._writer is not None:
                self._writer.wait_for_slow(SLOW_READER_S)
                self._head = self._writer.head
                asyncio.get_running_loop().call_soon(self._flush)
        self._begun.set()

    def write(self, data: bytes) -> None:
        """A piece of the body."""
        if self._writer is not None:
            head, self._head = self._head, b""
            self._writer.write(head + (sse.chunk(data) if self._writer.chunked else data))
            return
        if len(self._body) + len(data) > MAX_WHOLE_BYTES:
            self.is_too_long = True
            self._body.clear()
            self.stop()
            return
        self._body += data

    def end(self) -> None:
        """All of it."""
        if self._writer is not None:
            self._flush()
            self._writer.end(sse.chunk(b"", last=True) if self._writer.chunked else b"")

    def cut(self) -> None:
        """The worker went away in the middle: the client must see that something is missing."""
        self._head = b""
        if self._writer is not None:
            self._writer.shutdown()

    def _flush(self) -> None:
        if self._head and self._writer is not None:
            head, self._head = self._head, b""
            self._writer.write(head)

    async def send_whole(self, complete: bool) -> None:
        """Send what was kept."""
        if not complete:
            raise serving_errors.InferenceFailed("The worker went away in the middle of its answer.")
        length = (b"content-length", b"%d" % len(self._body))
        await self._send({"type": "http.response.start", "status": self.status, "headers": [*self._headers, length]})
        await self._send({"type": "http.response.body", "body": bytes(self._body)})


class _Client:
    """The client's connection, as it tells what became of it."""

    def __init__(self, answer: PassedAnswer) -> None:
        self._answer = answer

    def on_writable(self) -> None:
        """It has taken what it was sent."""
        if self._answer.on_writable is not None:
            self._answer.on_writable()

    def on_stalled(self) -> None:
        """It has taken nothing for too long; `on_gone` follows."""

    def on_gone(self) -> None:
        """It is closed."""
        if self._answer.on_gone is not None:
            self._answer.on_gone()
