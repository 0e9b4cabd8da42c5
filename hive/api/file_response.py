"""The answer that is a file: its head, and the bytes by sendfile on the connection itself.

A small file is read and answered like anything else: its connection stays open for the next one. A larger one takes
its connection along (hive/doors/sendfile.py). Where that cannot be had, because a client has sent its next request
already, the file is read piece by piece.
"""

from __future__ import annotations

import contextlib
import http
import os
from collections.abc import Callable
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hive.api.services import Services
from hive.auth.holder import holder_of, is_unlimited
from hive.auth.principal import principal_of
from hive.doors.ranges import Span
from hive.doors.sendfile import FileConnection, FileSource, FileTransfer, OpenFile
from hive.errors import ServerBusy
from hive.streams.writer import TAKE_OVER, TakeOver

#: The largest file that does not take its connection along, in bytes.
MAX_WHOLE_BYTES: Final = 65_536
#: Bytes that are read at a time where the connection cannot be had.
PIECE_BYTES: Final = 262_144

Headers = list[tuple[bytes, bytes]]


class FollowedFile(Protocol):
    """A file that is still being fetched."""

    def source(self) -> FileSource:
        """Its bytes, for one reader."""

    def add_reader(self, connection: FileConnection) -> None:
        """Tell this one how far it may go, from now on and as it grows."""


def span_headers(span: Span, size: int, headers: Headers) -> Headers:
    """The headers of an answer with this span of a content of `size` bytes; `headers` may say themselves that no range
    is to be asked for.
    """
    own = [] if any(name == b"accept-ranges" for name, _ in headers) else [(b"accept-ranges", b"bytes")]
    if span.status in (200, 206):
        own.append((b"content-length", b"%d" % (span.end - span.start)))
    if span.status == 206:
        own.append((b"content-range", b"bytes %d-%d/%d" % (span.start, span.end - 1, size)))
    if span.status == 416:
        own += [(b"content-range", b"bytes */%d" % size), (b"content-length", b"0")]
    if span.status == 412:
        own.append((b"content-length", b"0"))
    return [*headers, *own]


class FileResponse(Response):
    """Bytes of a span, from a file that is there or from one that grows. With HEAD, and with nothing to send, the head
    alone.
    """

    def __init__(
        self,
        services: Services,
        span: Span,
        size: int,
        headers: Headers,
        *,
        fd: int | None = None,
        growing: FollowedFile | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`fd` is closed at the end, whatever comes; `on_end` is called then."""
        super().__init__(status_code=span.status)
        self._services, self._span, self._fd, self._growing = services, span, fd, growing
        self._on_end = on_end
        self.raw_headers = span_headers(span, size, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await self._answer(scope, send)
        finally:
            if self._fd is not None:
                os.close(self._fd)
            self._on_end()

    async def _answer(self, scope: Scope, send: Send) -> None:
        left = self._span.end - self._span.start
        if scope["method"] == "HEAD" or not left or (self._fd is None and self._growing is None):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
        elif self._fd is not None and left <= MAX_WHOLE_BYTES:
            await self._send_pieces(self._fd, send)
        elif not self._send_file(scope):
            if self._fd is None:
                raise ServerBusy("Send one request at a time on a connection where a file is still being fetched.")
            await self._send_pieces(self._fd, send)

    def _send_file(self, scope: Scope) -> bool:
        """Whether the file has its connection."""
        files, principal = self._services.files, principal_of(scope)
        take_over: TakeOver | None = scope.get("extensions", {}).get(TAKE_OVER)
        holder = "" if is_unlimited(scope) else holder_of(scope)
        files.admit(holder)
        taken = take_over(scope) if take_over is not None else None
        if taken is None:
            files.release(holder)
            return False
        head = _head(self.status_code, [*taken.headers, *self.raw_headers])
        start, end = self._span.start, self._span.end
        if self._growing is not None:
            transfer = FileTransfer(head, self._growing.source(), start, end, 0, principal)
            self._growing.add_reader(files.send(taken.transport, taken.siblings, transfer, holder))
        else:
            assert self._fd is not None
            source, self._fd = OpenFile(self._fd), None
            files.send(taken.transport, taken.siblings, FileTransfer(head, source, start, end, end, principal), holder)
        return True

    async def _send_pieces(self, fd: int, send: Send) -> None:
        at, end = self._span.start, self._span.end
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while at < end:
            data = await self._services.store_calls.run(os.pread, fd, min(PIECE_BYTES, end - at), at)
            at += len(data)
            if not data:
                raise OSError("the file is shorter than it was")
            await send({"type": "http.response.body", "body": data, "more_body": at < end})


def _head(status: int, headers: Headers) -> bytes:
    phrase = b""
    with contextlib.suppress(ValueError):
        phrase = http.HTTPStatus(status).phrase.encode()
    lines = b"".join(b"%b: %b\r\n" % header for header in (*headers, (b"connection", b"close")))
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, phrase, lines)
