"""One HTTP request whose answer is passed on as it comes: to an engine over a socket in a folder, or to a worker.

Problem: an answer of 2,000 tokens is 2,000 small pieces, and each should cost microseconds and wait for nobody but its
reader. A client library reads into buffers and wakes a task for each piece: 100 µs. So this is a protocol of the event
loop with a parser under it: what a read brought goes to the sink in one call, in the loop's own turn; and a sink whose
reader is slow pauses the reading, which the other side feels in its turn. Nothing is stored here.

Whoever closes the connection has cancelled the request; one whose answer is whole may be kept for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

import httptools

from hive.serving.endpoint import Endpoint
from hive.serving.kept_connections import KeptConnections

#: Seconds to connect to something on this machine, or in the next room.
CONNECT_TIMEOUT_S: Final = 5.0
#: Seconds before another try where too many connect at once.
CROWDED_PAUSE_S: Final = 0.005
#: Bytes of the headers of an answer.
MAX_HEAD_BYTES: Final = 65_536

Headers = Iterable[tuple[bytes, bytes]]


class Sink(Protocol):
    """Who gets the answer. After `on_end` or `on_failed`, one of which comes unless the request was closed, nothing
    follows.
    """

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """The answer begins. Names of headers are in lower case."""

    def on_data(self, data: bytes) -> None:
        """What has come of the body."""

    def on_end(self) -> None:
        """The answer is whole."""

    def on_failed(self, reason: str) -> None:
        """The other side went away before that, or speaks no HTTP."""


class Upstream(asyncio.Protocol):
    """One request and its answer."""

    def __init__(self, sink: Sink, on_whole: Callable[[asyncio.Transport], None] | None = None) -> None:
        """`on_whole` gets the connection when the answer is whole, where another request may follow on it."""
        self._sink: Sink | None = sink
        self._on_whole = on_whole
        #: Whether the connection has had another request before, and nothing of an answer to this one has come.
        self.may_be_stale = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._parts: list[bytes] = []
        self._whole = False
        #: Whether nothing came behind the answer, and the connection stays open.
        self._is_alone = False

    # -- for whoever asks --------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no more until `resume`."""
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def close(self) -> None:
        """Give the request up: the other side sees the connection close, and the sink hears nothing any more."""
        self._sink = None
        if self._transport is not None:
            self._transport.abort()

    # -- called by the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """A piece of the answer."""
        self.may_be_stale = False
        if self._sink is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"what it answers is no HTTP: {error}")
            return
        self._hand_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has closed, or we have."""
        self._fail("the connection was closed before the answer was whole")

    # -- called by the parser ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins, or something that nobody asked for."""
        if self._whole:
            self._is_alone = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the answer."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes <= MAX_HEAD_BYTES:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is there."""
        status = self._parser.get_status_code()
        if self._head_bytes > MAX_HEAD_BYTES:
            self._fail("its headers are too long")
        elif status >= 200 and self._sink is not None:
            self._sink.on_head(status, self._headers)
        else:
            self._headers = {}

    def on_body(self, body: bytes) -> None:
        """A piece of the body, of which one read may bring many."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._is_alone = not self._whole and self._parser.should_keep_alive()
        self._whole = self._whole or self._parser.get_status_code() >= 200

    def _hand_on(self) -> None:
        if self._parts and self._sink is not None:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = []
            self._sink.on_data(data)
        if self._whole and self._sink is not None:
            sink = self._sink
            self._let_go()
            sink.on_end()

    def _let_go(self) -> None:
        """Leave the connection to the next request, or close it."""
        transport = self._transport
        if transport is None or self._on_whole is None or transport.is_closing() or not self._is_alone:
            self.close()
            return
        self.resume()
        self._sink = self._transport = None
        self._on_whole(transport)

    def _fail(self, reason: str) -> None:
        sink = self._sink
        self.close()
        if sink is not None:
            sink.on_failed(reason)


async def send(
    target: Endpoint,
    method: str,
    path: str,
    headers: Headers,
    body: bytes,
    sink: Sink,
    timeout_s: float = CONNECT_TIMEOUT_S,
    kept: KeptConnections | None = None,
) -> Upstream:
    """Ask; the answer goes to the sink. With `kept` on one of those connections, if there is one, which may be stale;
    and a new one is kept after the answer.

    Raises:
        OSError: nobody listens there, or not in time.
    """
    upstream = Upstream(sink, functools.partial(kept.keep, target) if kept is not None else None)
    transport: asyncio.WriteTransport | None = kept.take(target) if kept is not None else None
    if transport is not None:
        transport.set_protocol(upstream)
        upstream.connection_made(transport)
        upstream.may_be_stale = True
    else:
        async with asyncio.timeout(timeout_s):
            transport = await _connect(target, upstream)
    transport.write(request_head(target, method, path, headers, len(body), keep=kept is not None) + body)
    return upstream


async def _connect(target: Endpoint, upstream: Upstream) -> asyncio.WriteTransport:
    loop = asyncio.get_running_loop()
    while target.path:
        try:
            transport, _ = await loop.create_unix_connection(lambda: upstream, target.path)
            return transport
        except BlockingIOError:
            # As many wait to be accepted as may: such a socket says so at once, where one of TCP would let us wait.
            await asyncio.sleep(CROWDED_PAUSE_S)
        except OSError:
            if not target.port:
                raise
            break  # it is on another machine, or no socket could be made
    transport, _ = await loop.create_connection(lambda: upstream, target.host, target.port)
    return transport


def request_head(
    target: Endpoint, method: str, path: str, headers: Headers, body_bytes: int, *, keep: bool = False
) -> bytes:
    """The head of a request, after whose answer the connection closes, or is kept."""
    connection = b"keep-alive" if keep else b"close"
    own = ((b"host", target.name.encode()), (b"content-length", b"%d" % body_bytes), (b"connection", connection))
    lines = b"".join(b"%b: %b\r\n" % header for header in (*own, *headers))
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), path.encode(), lines)


class FetchedAnswer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class WholeAnswer:
    """A sink that keeps the answer, within a bound."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._status = 0
        self._headers: Mapping[bytes, bytes] = {}
        self._body = bytearray()
        self.done: asyncio.Future[FetchedAnswer] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """The answer begins."""
        self._status, self._headers = status, headers

    def on_data(self, data: bytes) -> None:
        """More of it."""
        self._body += data
        if len(self._body) > self._max_bytes:
            self.on_failed("the answer is too long")

    def on_end(self) -> None:
        """All of it."""
        if not self.done.done():
            self.done.set_result(FetchedAnswer(self._status, self._headers, bytes(self._body)))

    def on_failed(self, reason: str) -> None:
        """No more of it."""
        if not self.done.done():
            self.done.set_exception(ConnectionError(reason))


async def fetch(
    target: Endpoint,
    method: str,
    path: str,
    *,
    headers: Headers = (),
    body: bytes = b"",
    timeout_s: float,
    max_bytes: int,
) -> FetchedAnswer:
    """A whole answer of so many bytes at most, within this time.

    Raises:
        OSError: there was none; TimeoutError is one of them.
    """
    sink = WholeAnswer(max_bytes)
    upstream: Upstream | None = None
    try:
        async with asyncio.timeout(timeout_s):
            upstream = await send(target, method, path, headers, body, sink, timeout_s)
            return await sink.done
    finally:
        if upstream is not None:
            upstream.close()
        if sink.done.done() and not sink.done.cancelled():
            with contextlib.suppress(Exception):
                sink.done.exception()
