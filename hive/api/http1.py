"""One HTTP/1.1 connection: uvicorn's protocol with a bound on everything, which hands itself over to a stream.

Problem: uvicorn trusts what stands in front of it. It keeps a head of any length, parses pipelined requests while
nobody takes their answers, waits for ever for the rest of a head or body, and has no idea how many connections one
client has. hive often has nothing in front of it. So here:

    a head               32 KiB and 100 headers, else 431; whole within 10 s of its first byte, else 408
    a body               64 KiB, a prompt 256 KiB (routes read no more, and what nobody reads ends the connection), and
                         512 KiB with what frames it: chunks' sizes, their extensions, trailers; whole within 30 s
    silence              30 s before the first request, and between two
    an answer            a client that takes nothing of it for 30 s is given up, also where the connection is to close
    pipelined requests   16 wait; what comes then stays unparsed, and the connection is not read
    connections          as many as there are descriptors for. One address has some; those above must ask within 5 s and
                         are closed after the answer, and many times as many are closed at once

A request that asks for another protocol (Upgrade) gets its answer, and the connection ends: the parser takes what comes
behind such a head for something else than its body. With a body it is refused: read as a request of its own it would
be one that nobody in front of hive has seen.

Trailers are read and dropped. uvicorn adds them to the headers, and often before the application looks: then whoever
may send a body may send, behind a proxy that checks or sets a header, another one of that name.

A stream needs a socket and nothing of HTTP once its head is sent, so the protocol offers each request its connection
(streams/writer.py). From then on none of the above counts: streams have a limit of their own, and no clock runs here.

What is refused before a request reaches the application is answered like every other error: JSON, with a request id.
The connection then stays for a moment and ignores what comes, because a reset would take the answer away from a
client that still sends. So it does where the application has answered before the body was there, and is to close.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hive.api.crowd import Connections
from hive.api.gate import ANSWER_HEADERS
from hive.api.json import MAX_BODY_BYTES, body_too_large, error_reply
from hive.errors import BadRequest, HeadersTooLarge, HiveError, RequestTimeout
from hive.net.request_target import origin_form
from hive.net.stall import StallTimer
from hive.streams import sse
from hive.streams.writer import (
    ASK_TO_WAIT,
    EXTENSION,
    TAKE_OVER,
    SocketWriter,
    TakenConnection,
    WriterOwner,
    reset,
    stall_timer,
)

log = logging.getLogger("hive.api.http1")

#: Bytes that wait in user space for a slow client before its sends wait.
WRITE_HIGH_WATER_BYTES: Final = 8_192
#: Bytes of a request's line and headers, and the number of headers.
MAX_HEAD_BYTES: Final = 32_768
MAX_HEADERS: Final = 100
#: Seconds for a head from its first byte, for a body from its head, and of silence before a request.
HEAD_TIMEOUT_S: Final = 10.0
BODY_TIMEOUT_S: Final = 30.0
SILENCE_S: Final = 30.0
#: Bytes of a body as it comes: with the sizes of chunks, what stands behind them, and trailers. A client that sends
#: chunks of some bytes is strange; an endless extension or trailer, of which no callback tells, is an attack.
MAX_FRAMED_BODY_BYTES: Final = 8 * MAX_BODY_BYTES
#: The versions of HTTP that are spoken here; the parser takes others, whose framing is not what this is.
_VERSIONS: Final = frozenset({"1.0", "1.1"})
#: Requests that may wait behind the one that is being answered.
MAX_PIPELINED: Final = 16
#: Bytes that are parsed at a time: a head may be this much too long before it is noticed. While requests wait, less:
#: the fewer requests there can be in it.
SLICE_BYTES: Final = 16_384
SMALL_SLICE_BYTES: Final = 512
#: Seconds that a connection stays after a refusal, and bytes that it ignores meanwhile.
LINGER_S: Final = 2.0
MAX_LINGER_BYTES: Final = 1 << 20
#: Seconds of silence that a connection has whose address has too many.
CROWDED_SILENCE_S: Final = 5.0


class _Flow(FlowControl):
    """uvicorn's flow control, which does not resume reading while it is held."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class _AnswerTransport:
    """What uvicorn writes an answer to: the connection, which decides itself how it ends after its last answer."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class HttpProtocol(HttpToolsProtocol):
    """The connection; see above."""

    #: Shared by all connections of a process; a subclass of `serve`'s has its own.
    counted = Connections()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._stall: StallTimer | None = None
        self._unfed = b""
        self._admitted = self._in_head = self._in_body = self._feeding = self._lingering = False
        self._waits_for: Literal["", "request", "head", "body"] = "request"
        self._head_bytes = self._raw_head_bytes = self._ignored_bytes = 0
        self._body_bytes = self._raw_body_bytes = 0
        self._refusal: HiveError | None = None
        self._running: RequestResponseCycle | None = None

    # -- called by the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A small write buffer: back-pressure is to reach a response before it holds much."""
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._answers = _AnswerTransport(transport, self._end)
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        self._admitted = self.counted.admit(self._address, len(self.connections))
        if not self._admitted:
            # Without a word: any answer but a stream is final for an EventSource, and this passes.
            transport.abort()
            return
        self._arm(CROWDED_SILENCE_S if self.counted.is_crowded(self._address) else SILENCE_S, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called exactly once, unless the connection was handed over."""
        self._forget()
        self._disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, as far as its requests may wait."""
        if self._lingering:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > MAX_LINGER_BYTES:
                self.transport.abort()
            return
        self._unfed += data
        self._feed()

    def pause_writing(self) -> None:
        """The client is behind with an answer: the application writes no more."""
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        """It has taken nearly all."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_watching()

    # -- called by the parser ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A head begins; the connection is offered to its request."""
        super().on_message_begin()
        offers: dict[str, Any] = {
            EXTENSION: self._hand_over,
            TAKE_OVER: self._give_away,
            ASK_TO_WAIT: self._ask_to_wait,
        }
        self.scope["extensions"] = offers
        self._in_head = True
        self._in_body = False
        self._disarm()
        self._waits_for = ""
        self._head_bytes = self._raw_head_bytes = self._body_bytes = self._raw_body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the address."""
        self._count_head(len(url))
        if self._refusal is None:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; a trailer, which comes here too, is none."""
        if not self._in_head:
            return
        self._count_head(len(name) + len(value) + len(b": \r\n"))
        if len(self.headers) >= MAX_HEADERS:
            self._refusal = HeadersTooLarge(f"A request has at most {MAX_HEADERS} headers.")
        if self._refusal is None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is given to the application, or waits for those before it."""
        self._in_head, self._in_body = False, True
        if self._refusal is None and (why := self._misframed()):
            self._refusal = BadRequest(why)
        if self._refusal is None:
            self.url = origin_form(self.url, self.headers, self.parser.get_http_version())
            super().on_headers_complete()
            self.cycle.transport = self._answers  # type: ignore[assignment]
            # The parser leaves off at the end of a head that asks for another protocol, and does not say where it was.
            if self.counted.stopping or self.counted.is_crowded(self._address) or self.parser.should_upgrade():
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._refusal is not None:
            return
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._in_body = False
        if self._refusal is None:
            super().on_message_complete()

    # -- called by uvicorn -------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """An answer is out: what waited behind it may be parsed."""
        if self._lingering:  # it was the last one, and no request waits behind it
            return
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_taking()
        if self._unfed and not self._feeding:
            self.loop.call_soon(self._feed)

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(BadRequest("The request is not valid HTTP."))

    def timeout_keep_alive_handler(self) -> None:
        """No further request has come."""
        self._close()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: it is answered as if it had not asked for another protocol, and no line of a log is for that."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _disconnect(self) -> None:
        """Tell the request that is being answered, and let go of those that wait: uvicorn knows the last one only."""
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _feed(self) -> None:
        """Give the parser what it may have by now, a slice at a time."""
        self._feeding = True
        try:
            while self._unfed and not self._is_over():
                if len(self.pipeline) >= MAX_PIPELINED:
                    break
                size = SMALL_SLICE_BYTES if self.pipeline else SLICE_BYTES
                piece, self._unfed = self._unfed[:size], self._unfed[size:]
                super().data_received(piece)
                if not self._is_over():  # an address that is none is refused before there is anything to answer with
                    self._check_size(len(piece))
        finally:
            self._feeding = False
        if not self._is_over():
            self._hold(bool(self._unfed))
            self._watch()

    def _is_over(self) -> bool:
        return self._lingering or self.parser is None or self.transport.is_closing()

    def _watch(self) -> None:
        """Start the clock of what is not whole yet. A request that came in one piece, as nearly all do, needs none."""
        waits_for = self._missing()
        if waits_for == self._waits_for:
            return
        self._waits_for = waits_for
        if waits_for == "request":
            self._arm(SILENCE_S, self._close)  # empty lines are no request, and stop uvicorn's own clock
        elif waits_for:
            self._arm(HEAD_TIMEOUT_S if waits_for == "head" else BODY_TIMEOUT_S, self._on_late)
        else:
            self._disarm()

    def _missing(self) -> Literal["", "request", "head", "body"]:
        """What the client has yet to send; nothing while it is we who let it wait."""
        if self.flow.held:  # type: ignore[attr-defined]
            return ""
        if self._in_head or self._in_body:
            return "head" if self._in_head else "body"
        return "request" if self._running is None or self._running.response_complete else ""

    def _misframed(self) -> str:
        """Why nobody knows where this request ends; "" where it is plain. The parser sees to the rest."""
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            return "Only HTTP/1.0 and HTTP/1.1 are spoken here."
        if version == "1.0" and any(name == b"transfer-encoding" for name, _ in self.headers):
            return "HTTP/1.0 has no Transfer-Encoding."
        if self.parser.should_upgrade() and any(_announces_body(*header) for header in self.headers):
            return "Only HTTP/1.1 is spoken here: send a request with a body without Upgrade."
        return ""

    def _check_size(self, fed: int) -> None:
        """After each slice: refuse what was found to be too much, seen whole or while it still comes."""
        if self._in_head and self.parser is not None:
            self._raw_head_bytes += fed
            if self._raw_head_bytes > MAX_HEAD_BYTES + SLICE_BYTES:
                self._refusal = self._refusal or HeadersTooLarge()
        elif self._in_body:
            self._raw_body_bytes += fed
            is_too_much = self._raw_body_bytes > MAX_FRAMED_BODY_BYTES
            if self.cycle.response_complete:
                # Answered without it, and there is no end of it. Looked at here and not in the parser's midst, which
                # would go on to the next request of a connection that sends no more.
                if is_too_much or self._body_bytes > MAX_BODY_BYTES:
                    self._linger()
            elif is_too_much:
                self._refusal = self._refusal or body_too_large(self.scope["path"])
        if self._refusal is not None and not self._lingering:
            self._refuse(self._refusal)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = self._refusal or HeadersTooLarge()

    def _hold(self, held: bool) -> None:
        """Read no more, or again. What is held is not late: it is we who let it wait."""
        if held == self.flow.held:  # type: ignore[attr-defined]
            return
        self.flow.held = held  # type: ignore[attr-defined]
        if held:
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    def _close(self) -> None:
        """Close when all that was written has left."""
        self.transport.close()
        self._watch_taking()

    def _watch_taking(self) -> None:
        """Give the client up that takes nothing of what waits for it, now that no more is written."""
        self._stop_watching()
        if self.transport.get_write_buffer_size():
            self._stall = stall_timer(self.transport, self._on_stalled)

    def _on_stalled(self) -> None:
        reset(self.transport)

    def _stop_watching(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _on_late(self) -> None:
        self._refuse(RequestTimeout())

    def _refuse(self, error: HiveError) -> None:
        """Answer, unless an answer is on its way already, and end the connection."""
        if self._lingering or self.transport.is_closing():
            return
        running = self._running
        if running is None or running.response_complete or not running.response_started:
            self.transport.write(_whole_answer(error))
        self._disconnect()
        self._linger()

    def _end(self) -> None:
        """The last answer is out. What closes with bytes unread sends a reset, which may overtake that answer."""
        if self._in_head or self._in_body or self._unfed:
            self.pipeline.clear()
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Send no more, ignore what comes, and close in a moment."""
        if self._lingering or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._lingering, self._unfed = True, b""
        self.flow.held = False  # type: ignore[attr-defined]
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._arm(LINGER_S, self._close)

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        """This is no connection of HTTP any more."""
        self._disarm()
        self._stop_watching()
        if self._admitted:
            self._admitted = False
            self.counted.release(self._address)

    def _hand_over(self, scope: Scope, listener: WriterOwner) -> SocketWriter | None:
        """The connection of this request, from which everything of HTTP is taken away, as for a WebSocket.

        None where the client has gone, has sent a second request behind this one, or has yet to take the answer
        before: that client gets its stream through `send`.
        """
        if not self._let_go(scope):
            return None
        chunked = scope["http_version"] == "1.1"
        head = _stream_head(self._added_headers(scope), chunked)
        return SocketWriter(self.transport, self.connections, listener, head=head, chunked=chunked)

    def _give_away(self, scope: Scope) -> TakenConnection | None:
        """The same for who writes to the socket itself: nothing may wait to be written before."""
        if self.transport.get_write_buffer_size() or not self._let_go(scope):
            return None
        return TakenConnection(self.transport, self.connections, self._added_headers(scope))

    def _ask_to_wait(self, scope: Scope) -> bool:
        """Send `100 Continue`, which is no answer: whoever counts seconds without a byte begins anew.

        False where it could not be told from one: in HTTP/1.0, behind another answer, or after the answer began.
        """
        cycle = self.cycle
        if scope["http_version"] != "1.1" or cycle.scope is not scope or cycle.response_started or cycle.disconnected:
            return False
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            return False
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _let_go(self, scope: Scope) -> bool:
        """Whether the connection is this request's alone, and is nothing of HTTP any more."""
        cycle = self.cycle
        if cycle.scope is not scope or cycle.disconnected or self.flow.write_paused or self.transport.is_closing():
            return False
        del scope["extensions"]
        self._forget()
        self.connections.discard(self)
        self.flow.resume_reading()
        # What belongs to a connection that is not the request's any more is silent: its task ends without a word.
        cycle.disconnected = True
        self.parser = None  # type: ignore[assignment]
        return True

    def _added_headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """What every answer has."""
        added: list[tuple[bytes, bytes]] = scope.get(ANSWER_HEADERS, [])
        return [*self.server_state.default_headers, *added]


def _announces_body(name: bytes, value: bytes) -> bool:
    return name == b"transfer-encoding" or (name == b"content-length" and bool(value.strip(b"0 \t")))


def _stream_head(added: list[tuple[bytes, bytes]], chunked: bool) -> bytes:
    headers = [*added, *sse.HEADERS, (b"connection", b"close")]
    if chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    return b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"


def _whole_answer(error: HiveError) -> bytes:
    """An error as a whole answer, after which the connection closes."""
    request_id = uuid.uuid4().hex
    body = msgspec.json.encode(error_reply(error, request_id))
    lines = (
        f"HTTP/1.1 {error.status} {type(error).__name__}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        "connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
