"""Where the bytes of a stream go: straight into the client's connection, or through ASGI's `send`.

Problem: a stream is a few small writes a second for hours, times ten thousand. Through ASGI each write is a message, a
coroutine, the server's checks and a copy of the frame behind its chunk size; and each connection keeps a task that
waits for the client to go, an event, a parser and a scope: 11 KiB. The write to the socket is all that is needed. So
the server offers in the request's scope to hand the connection over, as it would for a WebSocket: from then on it
belongs to a `SocketWriter`, which knows a transport and nothing of HTTP but its chunks, and the request's task is over.
Bytes are framed once for all clients. Where the server makes no such offer, `AsgiWriter` does the same through `send`.

A writer holds no queue. `paused` says that the client has not taken what it was sent: whoever writes waits for
`on_writable` and then sends what is newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from starlette.types import Receive, Scope, Send

from hive.net.stall import StallTimer
from hive.streams import sse

#: The scope's extension with which a server offers the connection: a `HandOver`.
EXTENSION: Final = "hive.hand_over"
#: The one with which it is offered to who writes to the socket by itself: a `TakeOver`.
TAKE_OVER: Final = "hive.take_over"
#: The one by which a request's client is told to wait on: an `AskToWait`.
ASK_TO_WAIT: Final = "hive.ask_to_wait"
#: Seconds in which a client must take something of what it was sent, or it is given up.
STALL_TIMEOUT_S = 30.0
#: Bytes that a client may send after its request, where nothing is expected, before it is given up.
MAX_IGNORED_BYTES = 65_536
#: Closes with a reset: what the kernel still holds for a client that does not read is freed at once.
_LINGER_NONE: Final = struct.pack("ii", 1, 0)


class WriterOwner(Protocol):
    """The stream that writes."""

    def on_writable(self) -> None:
        """The client has taken what it was sent."""

    def on_stalled(self) -> None:
        """The client has taken nothing for too long: it is given up, `on_gone` follows."""

    def on_gone(self) -> None:
        """The response has ended, or the client has gone. Nothing may be written any more."""


class Writer(Protocol):
    """A response that has begun; its bytes are given as `chunked` says."""

    #: Whether the body goes in chunks of HTTP/1.1.
    chunked: bool
    #: What must precede the first bytes.
    head: bytes
    #: Whether the client has not taken what it was sent: nothing may be written now.
    paused: bool

    @property
    def write(self) -> Callable[[bytes], None]:
        """Send these bytes."""

    def end(self, data: bytes) -> None:
        """Send these bytes, the last."""

    def abort(self) -> None:
        """Cut the connection; what waits for the client is lost."""


#: Takes a request's scope and the listener; gives the writer, or None where the connection cannot be had.
HandOver = Callable[[Scope, WriterOwner], "SocketWriter | None"]


class TakenConnection(NamedTuple):
    """A connection of which nothing waits to be written: its transport, the set of those that are open, and the headers
    that every answer has.
    """

    transport: asyncio.Transport
    siblings: set[Any]
    headers: list[tuple[bytes, bytes]]


#: Takes a request's scope; gives its connection, or None where it cannot be had.
TakeOver = Callable[[Scope], TakenConnection | None]
#: Sends the client of a request `100 Continue` ahead of its answer; False where that cannot be.
AskToWait = Callable[[Scope], bool]


async def respond(
    scope: Scope, receive: Receive, send: Send, listener: WriterOwner, start: Callable[[Writer], None]
) -> None:
    """Begin a response with `start`: on the connection itself where the server hands it over, else through `send`.

    Returns at once where it was handed over, and otherwise when the response has ended.
    """
    hand_over: HandOver | None = scope.get("extensions", {}).get(EXTENSION)
    writer = hand_over(scope, listener) if hand_over is not None else None
    if writer is not None:
        start(writer)
        return
    through_send = AsgiWriter(send, listener)
    start(through_send)
    await through_send.run(receive)


class SocketWriter(asyncio.Protocol):
    """A connection of which everything but the stream has been taken away."""

    __slots__ = (
        "_ignored_bytes",
        "_listener",
        "_siblings",
        "_stall",
        "_stall_s",
        "_transport",
        "chunked",
        "head",
        "paused",
        "write",
    )

    def __init__(
        self, transport: asyncio.Transport, siblings: set[Any], listener: WriterOwner, *, head: bytes, chunked: bool
    ) -> None:
        self._transport = transport
        self._siblings = siblings
        self._listener: WriterOwner | None = listener
        self._stall: StallTimer | None = None
        self._stall_s = STALL_TIMEOUT_S
        self._ignored_bytes = 0
        self.chunked = chunked
        self.head = head
        self.paused = False
        #: The transport's own method: a frame costs no call in between.
        self.write = transport.write
        siblings.add(self)
        transport.set_protocol(self)
        # Paused with the first byte that the kernel does not take: a slow client is not to have old frames in store.
        # What an earlier answer left behind pauses at once, and it is this protocol that must hear of it.
        transport.set_write_buffer_limits(high=0)

    def wait_for_slow(self, seconds: float) -> None:
        """Give the client up after this time without a byte taken, in place of the usual one: of what it reads in
        drops the kernel tells the sender only when a good part of its buffer is free.
        """
        self._stall_s = seconds
        raw = self._transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))

    def end(self, data: bytes) -> None:
        """Send these bytes and close the connection when they are on their way."""
        self.write(data)
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection with a reset."""
        reset(self._transport)

    def shutdown(self) -> None:
        """The server stops: what is not on its way by now stays behind."""
        self._transport.abort()

    # -- called by the event loop ------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The kernel's buffer for this client is full."""
        self.paused = True
        self._stall = StallTimer(self._transport, self._stalled, self._stall_s)

    def resume_writing(self) -> None:
        """Everything has left for the kernel."""
        self.paused = False
        self._cancel_stall()
        if self._listener is not None:
            self._listener.on_writable()

    def data_received(self, data: bytes) -> None:
        """A client has nothing to say on a stream; the response told it that the connection closes after this."""
        self._ignored_bytes += len(data)
        if self._ignored_bytes > MAX_IGNORED_BYTES:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called exactly once, whoever closed."""
        self._siblings.discard(self)
        self._cancel_stall()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_gone()

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _stalled(self) -> None:
        if self._listener is not None:
            self._listener.on_stalled()
        self.abort()


def stall_timer(transport: asyncio.Transport, on_stalled: Callable[[], None]) -> StallTimer:
    """A timer for a client that takes nothing of what waits for it."""
    return StallTimer(transport, on_stalled, STALL_TIMEOUT_S)


def reset(transport: asyncio.Transport) -> None:
    """Close a connection with a reset, and forget what waits for its client."""
    with contextlib.suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    transport.abort()


class AsgiWriter:
    """The same through `send`: one slot, emptied by the request's own task."""

    __slots__ = ("_data", "_ended", "_gone", "_listener", "_send", "_wake", "chunked", "head", "paused")

    def __init__(self, send: Send, listener: WriterOwner) -> None:
        self._send = send
        self._listener = listener
        self._data = b""
        self._ended = self._gone = False
        self._wake = asyncio.Event()
        self.chunked = False
        self.head = b""
        self.paused = False

    def write(self, data: bytes) -> None:
        """Fill the slot."""
        self._data, self.paused = data, True
        self._wake.set()

    def end(self, data: bytes) -> None:
        """Fill the slot for the last time."""
        self._ended = True
        self.write(data)

    def abort(self) -> None:
        """Leave the response unfinished, for which the server closes the connection."""
        self._gone = True
        self._wake.set()

    async def run(self, receive: Receive) -> None:
        """Send what is written until the response has ended or the client has gone.

        `send()` to a client that has gone returns silently: only a pending `receive()` notices.
        """
        watch = asyncio.create_task(self._watch(receive))
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": sse.HEADERS})
            while not self._gone:
                await self._wake.wait()
                self._wake.clear()
                last = self._ended
                if self.paused and not self._gone:
                    await self._send({"type": "http.response.body", "body": self._data, "more_body": not last})
                if last:
                    return
                self.paused = False
                self._listener.on_writable()
        finally:
            watch.cancel()
            self._listener.on_gone()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._wake.set()
