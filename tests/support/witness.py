"""A client that watches a stream and trusts nothing: it looks at every byte, and notes what must not be.

Problem: a hundred thousand randomised trials need half a million clients that judge what they see. The easy way, an
HTTP library, costs a millisecond a request and hides what matters: whether the body ended as HTTP/1.1 says, and what
came behind the end. So: a protocol of the event loop that knows chunks and frames and no more.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from hive.errors import DownloadNotFound
from hive.wire import events
from hive.wire.api import PROGRESS_PATH
from hive.wire.events import Error, Event, Version
from tests.support.sse import Frame, parse_frame

#: Seconds to connect and to be answered with a status. Who was forgotten is never answered, so this only has to be
#: longer than a busy machine takes.
ANSWER_S = 60.0
#: Bytes of the receive buffer of a client that is to fall behind: what the kernel gives at least.
TINY_BUFFER_BYTES = 1


class Witness:
    """What one client has seen, over all its connections; `wrong` lists what must not have been."""

    def __init__(self, check: Callable[[Version, Event], str | None] = lambda version, event: None) -> None:
        self._check = check
        self.wrong: list[str] = []
        self.seen: list[Version] = []
        self.retries_ms: list[int] = []
        self.last: Event | None = None
        self.terminal: Version | None = None
        self.done = 0
        self.comments = 0
        self._floor: Version | None = None
        self._first = True

    def begin(self, *, anew: bool) -> None:
        """A connection begins. `anew`: without a Last-Event-ID, so that what was seen before binds nobody."""
        self._first = True
        if anew:
            self._floor = None

    @property
    def last_event_id(self) -> str | None:
        """What an EventSource would send when it connects again."""
        return str(self.seen[-1]) if self.seen else None

    def take(self, frame: bytes) -> None:
        """Judge one frame."""
        try:
            read = parse_frame(frame)
        except ValueError as error:
            self.wrong.append(f"a frame that is none: {error}")
            return
        if read.is_done:
            self.done += 1
            self._require(self.terminal is not None, "[DONE] without an end")
            self._require(self.done == 1, "a second [DONE]")
        elif read.is_comment:
            self.comments += 1
            self._require(self.terminal is None, "a comment after the end")
        elif read == Frame(retry_ms=read.retry_ms) and read.retry_ms is not None:
            self.retries_ms.append(read.retry_ms)
            self._require(self.terminal is None, "a retry after the end")
        elif read == Frame(id=read.id, data=read.data) and read.id is not None and read.data is not None:
            self._event(read.id, read.data)
        else:
            self.wrong.append(f"a frame that is none: {frame[:80]!r}")

    def _event(self, name: str, data: bytes) -> None:
        version, event = Version.parse(name), events.decode(data)
        if version is None:
            self.wrong.append(f"an id that is no version: {name!r} of {event!r}")
            version = Version(0, 0)
        self._require(self.terminal is None, f"an event after the end: {event!r}")
        # The first event of a connection is the present state: it may be the one that was seen before. That an id is
        # unknown has no place in the order: Redis has lost what the order was of.
        unknown = isinstance(event, Error) and event.code == DownloadNotFound.code and self._first
        if (
            self._floor is not None
            and not unknown
            and (version < self._floor or (version == self._floor and not self._first))
        ):
            where = "on another connection" if self._first else "on the same connection"
            self.wrong.append(f"a version that went back: {version} after {self._floor} {where}")
        self._floor, self._first, self.last = version, False, event
        self.seen.append(version)
        if events.is_terminal(event):
            self.terminal = version
        if problem := self._check(version, event):
            self.wrong.append(problem)

    def _require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)


class Connection(asyncio.Protocol):
    """One GET of a stream. `answered` has its status, `over` whether the body ended as HTTP/1.1 says."""

    def __init__(self, take: Callable[[bytes], None], request: bytes) -> None:
        self._take = take
        self._request = request
        self._buffer = b""
        self._text = b""
        self._in_body = False
        self._clean = False
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[int] = loop.create_future()
        self.over: asyncio.Future[bool] = loop.create_future()
        self.head = b""
        self.ended_s = 0.0
        #: Why there was no status.
        self.why = ""
        self.transport: asyncio.Transport | None = None

    @property
    def body(self) -> bytes:
        """What came and was no whole frame: the body of an answer that is no stream."""
        return self._text + self._buffer

    def leave(self) -> None:
        """Go without a word."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(self._request)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._in_body:
            self.head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            self._in_body, self._buffer = True, rest
            self.answered.set_result(int(self.head[9:12]))
        if b"transfer-encoding: chunked" in self.head.lower():  # a proxy writes it in its own way
            self._read_chunks()

    def _read_chunks(self) -> None:
        while not self._clean:
            size_text, found, rest = self._buffer.partition(b"\r\n")
            size = int(size_text, 16) if found else 0
            if not found or len(rest) < size + 2:
                return
            self._buffer, self._clean = rest[size + 2 :], size == 0
            *frames, self._text = (self._text + rest[:size]).split(b"\n\n")
            for frame in frames:
                self._take(frame)
        if self._clean and self.transport is not None:
            self.transport.close()  # a proxy keeps the connection for another request

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_s = asyncio.get_running_loop().time()
        if not self.answered.done():
            self.why = self.why or f"closed: {exc!r}"
            self.answered.set_result(0)
        if not self.over.done():
            self.over.set_result(self._clean and not self._buffer and not self._text)


async def watch(
    url: str, download_id: str, witness: Witness, *, last_event_id: str | None = None, tiny: bool = False
) -> Connection:
    """Connect and wait for the status; 0 where the server was not there, or went before it answered.

    `tiny` gives the client a receive buffer so small that it soon falls behind when it does not read.
    """
    address = urlsplit(url)
    lines = [f"GET {PROGRESS_PATH}?id={download_id} HTTP/1.1", f"Host: {address.netloc}", "Accept: text/event-stream"]
    lines += [f"Last-Event-ID: {last_event_id}"] if last_event_id else []
    witness.begin(anew=not last_event_id)
    connection = Connection(witness.take, ("\r\n".join(lines) + "\r\n\r\n").encode())
    plain = socket.socket()
    plain.setblocking(False)
    if tiny:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY_BUFFER_BYTES)
    loop = asyncio.get_running_loop()
    try:
        # Not wait_for, which in Python 3.11 forgets a cancellation that comes together with the result.
        async with asyncio.timeout(ANSWER_S):
            await loop.sock_connect(plain, (address.hostname, address.port))
            await loop.create_connection(lambda: connection, sock=plain)
            await asyncio.shield(connection.answered)
    except OSError as error:
        plain.close()
        connection.why = repr(error)
        connection.connection_lost(None)
    except BaseException:
        connection.leave()
        plain.close()
        raise
    return connection
