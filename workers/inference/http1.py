"""A small HTTP/1.1 server with a bound on everything, for the address of one LLM worker.

Problem: a worker answers a handful of routes, one of which is a stream of thousands of tokens that are to leave as they
come and to wait for their reader. A framework brings 30 MB, half a second of start and a task that is woken for each
piece. So a connection is a protocol of the event loop: the parser gives a whole request, the answer writes straight
into the transport and says whether its reader is slow, or gone.

    a head         32 KiB and 100 headers, else 431; whole within 10 s, else the connection closes
    a body         256 KiB, else 413; whole within 30 s
    silence        30 s before a request
    pipelining     what comes behind a request waits, up to 64 KiB
    a reader       who takes nothing for 30 s is given up; of a stream 300 s, a server that passes one on 600 s
    connections    512
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote

import httptools

from hive.errors import BadRequest, BodyTooLarge, HeadersTooLarge, HiveError, InternalError, InvalidFields
from hive.net.request_target import split_target
from hive.net.stall import StallTimer
from hive.serving.endpoint import PASSED_ON_BY
from hive.wire.api import error_type
from hive.wire.encoding import encode_json
from workers.inference.ports import SEND_BUFFER_BYTES

log = logging.getLogger("workers.inference.http1")

#: Bytes of a head, the number of headers, and bytes of a body.
MAX_HEAD_BYTES: Final = 32_768
MAX_HEADERS: Final = 100
MAX_BODY_BYTES: Final = 262_144
#: Seconds for a whole head, for a whole body, of silence, and that a reader may take nothing.
HEAD_TIMEOUT_S: Final = 10.0
BODY_TIMEOUT_S: Final = 30.0
SILENCE_S: Final = 30.0
STALL_TIMEOUT_S: Final = 30.0
#: The same of the reader of a stream, of which the kernel tells only now and then that it has taken something.
STREAM_STALL_S: Final = 300.0
#: The same of a server that passes an answer on: it gives up its own client, and has taken for that one what lasts a
#: slow one for minutes.
PASSED_ON_STALL_S: Final = 600.0
#: Bytes that may come behind a request that is being answered.
MAX_BEHIND_BYTES: Final = 65_536
MAX_CONNECTIONS: Final = 512
#: Seconds between two looks whether answers have left, at the end.
FLUSH_LOOK_S: Final = 0.02
#: Bytes of a request as it comes, with the frames of its chunks, what stands behind their sizes, and trailers: of an
#: endless one of these no callback tells.
MAX_FRAMED_BYTES: Final = 8 * MAX_BODY_BYTES
#: Seconds that a connection stays after a refusal, and bytes that it ignores meanwhile: what closes with bytes unread
#: sends a reset, which takes the answer away from a client that still sends.
LINGER_S: Final = 2.0
MAX_LINGER_BYTES: Final = 1 << 20
_LINGER_NONE: Final = struct.pack("ii", 1, 0)
_PHRASES: Final = {200: b"OK", 202: b"Accepted", 204: b"No Content"}


class HttpRequest(NamedTuple):
    """A whole request. Names of headers are in lower case; of those that came twice the last."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[bytes, bytes]
    body: bytes


#: Answers a request, at once or by and by.
App = Callable[[HttpRequest, "Response"], Awaitable[None]]


class Response:
    """The answer to one request. `on_gone` and `on_writable` are called at most as long as it has not ended."""

    def __init__(self, connection: HttpConnection, keep_alive: bool, chunks: bool) -> None:
        self._connection = connection
        self._keep_alive = keep_alive
        self._chunks = chunks
        self._head_only = False
        #: The head of a stream, which leaves with the first piece of its body, or when nothing follows at once.
        self._head = b""
        self.started = self.ended = False
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None

    @property
    def paused(self) -> bool:
        """Whether the client has not taken what it was sent: whoever writes waits for `on_writable`."""
        return self._connection.paused

    @property
    def is_gone(self) -> bool:
        """Whether the client has gone."""
        return self._connection.is_gone

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Begin a body of unknown length; without chunks the connection closes behind it."""
        self._keep_alive = self._keep_alive and self._chunks
        alive = b"keep-alive" if self._keep_alive else b"close"
        more = [(b"transfer-encoding", b"chunked")] if self._chunks else []
        self._head = _head(status, [*headers, *more, (b"connection", alive)])
        self.started = True
        asyncio.get_running_loop().call_soon(self._flush)

    def write(self, data: bytes) -> None:
        """A piece of the body."""
        self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunks else data)

    def end(self, data: bytes = b"") -> None:
        """The last piece, perhaps none."""
        if self.ended:
            return
        if self._chunks:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        self._write(data)
        self._finish()

    def cut(self) -> None:
        """End without an end: the client sees that something is missing."""
        if not self.ended:
            self._keep_alive = False
            self._flush()
            self._finish()

    def abort(self) -> None:
        """Break off, and close the connection at once."""
        self._connection.abort()

    def whole(self, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """All of an answer at once."""
        alive = b"keep-alive" if self._keep_alive else b"close"
        length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]
        head = _head(status, [*headers, *length, (b"connection", alive)])
        self.started = True
        self._write(head + (b"" if self._head_only else body))
        self._finish()

    def json(self, status: int, value: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """An answer in JSON."""
        self.whole(status, encode_json(value), ((b"content-type", b"application/json"), *headers))

    def error(self, error: HiveError) -> None:
        """An error, as everywhere in hive; with the faults of each field where there are several."""
        self.json(error.status, error_body(error), _retry_after(error))

    def _write(self, data: bytes) -> None:
        if not self.ended:
            head, self._head = self._head, b""
            self._connection.send(head + data)

    def _flush(self) -> None:
        if self._head:
            self._write(b"")

    def _finish(self) -> None:
        self.ended = True
        self.on_gone = self.on_writable = None
        self._connection.answered(self._keep_alive)


def error_body(error: HiveError) -> dict[str, Any]:
    """`{"error": {"code", "message", "details"}}`; slots stand beside the code, and faults beside the error."""
    inner: dict[str, Any] = {"code": error.code, "message": error.message}
    inner.update({name: error.details[name] for name in ("slots_total", "slots_busy") if name in error.details})
    # `type` and `param` are what clients of OpenAI read.
    inner |= {"details": error.details, "type": error_type(error.status), "param": None}
    body: dict[str, Any] = {"error": inner}
    if isinstance(error, InvalidFields):
        body["errors"] = error.faults
    return body


def _retry_after(error: HiveError) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"retry-after", b"%d" % error.details.get("retry_after_s", 1)),) if error.status in (429, 503) else ()


class Listener:
    """The connections of a worker's address."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.connections: set[HttpConnection] = set()

    async def listen(self, sock: socket.socket) -> asyncio.Server:
        """Accept on this socket, which is bound."""
        return await asyncio.get_running_loop().create_server(lambda: HttpConnection(self), sock=sock, backlog=1024)

    async def listen_local(self, sock: socket.socket) -> asyncio.Server:
        """The same on a Unix socket."""
        return await asyncio.get_running_loop().create_unix_server(
            lambda: HttpConnection(self), sock=sock, backlog=1024
        )

    async def answer(self, request: HttpRequest, response: Response) -> None:
        """Answer one request; whatever goes wrong is an error in JSON."""
        try:
            await self._app(request, response)
        except HiveError as error:
            if response.started:
                response.cut()
            else:
                response.error(error)
        except Exception:
            log.exception("a request failed")
            if response.started:
                response.cut()
            else:
                response.error(InternalError())

    async def close(self, flush_s: float) -> None:
        """Close what is open, answers that are still on their way after this time at the latest."""
        until_s = time.monotonic() + flush_s
        while time.monotonic() < until_s and any(each.is_answering for each in self.connections):  # noqa: ASYNC110
            await asyncio.sleep(FLUSH_LOOK_S)
        for connection in list(self.connections):
            connection.abort()


class HttpConnection(asyncio.Protocol):
    """One connection."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._response: Response | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall: StallTimer | None = None
        self._behind = b""
        self._refusal: HiveError | None = None
        self._waits_for = ""
        self._lingering = False
        self._ignored_bytes = 0
        self.paused = False
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._count = self._head_bytes = self._raw_bytes = 0
        self._body = bytearray()

    # -- for the answer ----------------------------------------------------------------------------------------------

    @property
    def is_gone(self) -> bool:
        """Whether nobody is there any more."""
        return self._transport is None or self._transport.is_closing()

    @property
    def is_answering(self) -> bool:
        """Whether it has something to send, or will have."""
        if self._transport is None:
            return False
        return self._response is not None or self._transport.get_write_buffer_size() > 0

    def send(self, data: bytes) -> None:
        """Send to the client."""
        if self._transport is not None:
            self._transport.write(data)

    def answered(self, keep_alive: bool) -> None:
        """The answer is out."""
        self._response = None
        if self._transport is None:
            return
        if not keep_alive:
            self._transport.close()
            self._arm(STALL_TIMEOUT_S, self.abort)
            return
        self._wait("request", SILENCE_S)
        if self._behind:
            behind, self._behind = self._behind, b""
            self._loop.call_soon(self.data_received, behind)

    def abort(self) -> None:
        """Close at once: what the client has not taken is lost."""
        if self._transport is not None:
            raw = self._transport.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            self._transport.abort()

    # -- called by the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = transport  # type: ignore[assignment]
        assert self._transport is not None
        if len(self._listener.connections) >= MAX_CONNECTIONS:
            self._transport.abort()
            return
        self._listener.connections.add(self)
        raw = self._transport.get_extra_info("socket")
        if raw is not None and raw.family == socket.AF_UNIX:
            # What a port's connections have of their listener.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        elif raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.set_write_buffer_limits(high=0)
        self._wait("request", SILENCE_S)

    def data_received(self, data: bytes) -> None:
        """A piece of a request."""
        if self._transport is None:
            return
        if self._lingering:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > MAX_LINGER_BYTES:
                self.abort()
            return
        if self._response is not None:
            self._behind += data
            if len(self._behind) > MAX_BEHIND_BYTES:
                self.abort()
            return
        if self._waits_for == "request":
            self._wait("head", HEAD_TIMEOUT_S)
        self._raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
            self._check_size()
        except httptools.HttpParserUpgrade:
            self._refuse(BadRequest("This address speaks HTTP/1.1 and nothing else."))
        except httptools.HttpParserError:
            self._refuse(self._refusal or BadRequest("The request is not valid HTTP."))

    def eof_received(self) -> None:
        """The client says no more: it has gone."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or we have closed."""
        self._transport = None
        self._listener.connections.discard(self)
        self._disarm()
        self._cancel_stall()
        response, self._response = self._response, None
        if response is not None and response.on_gone is not None:
            response.on_gone()
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        self.paused = True
        assert self._transport is not None
        self._stall = StallTimer(self._transport, self.abort, self._patience_s())

    def _patience_s(self) -> float:
        """Seconds that the reader may take nothing."""
        if self._response is None:
            return STALL_TIMEOUT_S
        return PASSED_ON_STALL_S if self._headers.get(PASSED_ON_BY[0]) == PASSED_ON_BY[1] else STREAM_STALL_S

    def resume_writing(self) -> None:
        """It has."""
        self.paused = False
        self._cancel_stall()
        if self._response is not None and self._response.on_writable is not None:
            self._response.on_writable()

    # -- called by the parser ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._reset()

    def on_url(self, url: bytes) -> None:
        """A piece of its address."""
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count += 1
        self._count_head(len(name) + len(value) + 4)
        if self._count > MAX_HEADERS:
            self._give_up(HeadersTooLarge(f"A request has at most {MAX_HEADERS} headers."))
        if (name := name.lower()) == b"host" and name in self._headers:
            self._give_up(BadRequest("A request needs one Host header."))
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._wait("body", BODY_TIMEOUT_S)
        length = self._headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            self._give_up(_body_too_large())
        if self._headers.get(b"expect", b"").lower() == b"100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._body += body
        if len(self._body) > MAX_BODY_BYTES:
            self._give_up(_body_too_large())

    def on_message_complete(self) -> None:
        """It is whole."""
        if self._response is not None:  # a second one in the same read: rare, and its client may ask again
            self._give_up(BadRequest("Send the next request when this one is answered."))
        self._disarm()
        self._waits_for = ""
        response = Response(self, self._parser.should_keep_alive(), self._parser.get_http_version() == "1.1")
        method = self._parser.get_method().decode()
        response._head_only = method == "HEAD"
        authority, target = split_target(self._url)
        self._headers |= {b"host": authority} if authority is not None and b"host" in self._headers else {}
        path, _, query = target.decode("latin-1").partition("?")
        request = HttpRequest(
            "GET" if method == "HEAD" else method,
            unquote(path),
            parse_qs(query, keep_blank_values=True, max_num_fields=32),
            self._headers,
            bytes(self._body),
        )
        self._response = response
        self._task = self._loop.create_task(self._listener.answer(request, response))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._give_up(HeadersTooLarge())

    def _check_size(self) -> None:
        """What is still on its way, by the bytes that came of it: an endless header is none to the parser."""
        if self._waits_for == "head" and self._raw_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadersTooLarge())
        elif self._waits_for == "body" and self._raw_bytes > MAX_FRAMED_BYTES:
            self._refuse(_body_too_large())

    def _give_up(self, error: HiveError) -> None:
        """Leave the parser, and answer with this."""
        self._refusal = error
        raise error

    def _refuse(self, error: HiveError) -> None:
        if self._transport is None:
            return
        if self._response is not None:
            self._disarm()
            self._transport.close()
            return
        self.send(_head_and_body(error))
        self._transport.write_eof()
        self._lingering = True
        self._arm(LINGER_S, self._transport.close)

    def _wait(self, waits_for: str, seconds: float) -> None:
        if self._waits_for != waits_for:
            self._waits_for = waits_for
            self._arm(seconds, self.abort)

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _body_too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The request body is over {MAX_BODY_BYTES // 1024} KiB.", limit_bytes=MAX_BODY_BYTES)


def _head(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, _PHRASES.get(status, b"Error"), lines)


def _head_and_body(error: HiveError) -> bytes:
    body = encode_json(error_body(error))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    return _head(error.status, headers) + body
