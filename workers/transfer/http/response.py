"""One HTTP answer: asked for, read, and given back, in a way that another thread can end at any moment."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator, Mapping

import urllib3
from requests import RequestException
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from hive.net.failures import final_failure, proxy_trouble
from hive.net.urls import Url
from workers.transfer.control import Control
from workers.transfer.http import status as http_status
from workers.transfer.http.pool import HostPool
from workers.transfer.http.sockets import Body, SocketAborter, request_scope
from workers.transfer.limits import Limits
from workers.transfer.source import Served
from workers.transfer.transport import Transient

#: Bytes of a redirect's or an error's body that are read so that the connection can be kept, and seconds for it.
DISCARD_BYTES = 64 * 1024
DISCARD_S = 2.0

#: Bytes that the kernel takes ahead of a reader who is held back by a limit. Over a way of 100 ms that still lets 2.5
#: MB/s through, and where it is less than the limit, nobody is held back and connections are added.
NARROW_BYTES = 256 * 1024


class HttpResponse:
    """An answer whose body is still on the wire, with all that has to be given back."""

    def __init__(
        self,
        raw: urllib3.BaseHTTPResponse,
        body: Body,
        aborter: SocketAborter,
        slot: threading.Semaphore,
        control: Control,
    ) -> None:
        self.raw = raw
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.body = body
        self.aborter = aborter
        self._slot: threading.Semaphore | None = slot
        self._control = control
        self._narrow = False

    @classmethod
    def get(
        cls, url: Url, headers: Mapping[str, str], pool: HostPool, limits: Limits, control: Control
    ) -> HttpResponse:
        """Ask for `url`. Raises Transient, UnsafeUrl, and the error of `control.cancel`."""
        slot = pool.take_slot(url.host, control)
        aborter = SocketAborter()
        try:
            # The waker is for the time until the headers are here; the reader of the body has one of its own.
            with control.waking(aborter.cut), request_scope(aborter, pool.network.address_check) as last_body:
                patience = urllib3.Timeout(connect=limits.connect_timeout_s, read=limits.first_byte_s or limits.stall_s)
                raw = pool.session.ask(url, headers, patience)
                body = last_body()
            assert body is not None
            body.set_timeout(limits.stall_s)
        except BaseException as error:
            aborter.let_go()
            slot.release()
            control.check()
            if isinstance(error, HTTPError | OSError | http.client.HTTPException):
                proxy = pool.network.proxy_for(url)
                final = final_failure(error, url.host, proxy)
                if final is not None:
                    raise final from None
                aborter.distrust()
                raise Transient(proxy_trouble(error, url.host, proxy) or describe_error(error)) from error
            raise
        return cls(raw, body, aborter, slot, control)

    def some(self, n_bytes: int) -> bytes:
        """At most so many bytes of the body; fewer when it breaks, or takes too long."""
        got = b""
        deadline_s = time.monotonic() + DISCARD_S
        try:
            with self._control.waking(self.aborter.cut):
                while len(got) < n_bytes and time.monotonic() < deadline_s:
                    data = self.raw.read1(n_bytes - len(got), decode_content=False)
                    if not data:
                        break
                    got += data
        except (HTTPError, OSError, http.client.HTTPException):
            pass
        return got

    def discard(self) -> None:
        """Read a short body away, so that the connection can be kept."""
        self.some(DISCARD_BYTES)
        self.close()

    def narrow(self) -> None:
        """See Narrowable.narrow. A narrow connection is not kept: the next limit may be another."""
        if not self._narrow:
            self._narrow = True
            self.aborter.narrow(NARROW_BYTES)

    def close(self) -> None:
        """Keep the connection when the body was read, else close it. Twice does no harm."""
        slot, self._slot = self._slot, None
        if slot is None:
            return
        if self.body.isclosed() and not self.body.length and not self.aborter.was_cut and not self._narrow:
            self.raw.release_conn()
        else:
            self.raw.close()
        self.aborter.let_go()
        slot.release()


class HttpStream:
    """See ByteStream."""

    def __init__(
        self,
        response: HttpResponse,
        served: Served,
        start: int,
        total: int | None,
        buffer_bytes: int,
        *,
        whole: bool,
        decode: bool,
    ) -> None:
        self.start = start
        self.whole = whole
        self.total = total
        self.validator = http_status.strong_validator(response.headers)
        self.etag: str | None = response.headers.get("etag")
        self.served = served
        self.delimited = total is not None or "transfer-encoding" in response.headers
        self._response = response
        self._buffer_bytes = buffer_bytes
        self._decode = decode

    def chunks(self) -> Iterator[memoryview]:
        """See ByteStream.chunks."""
        response = self._response
        try:
            if self._decode or response.headers.get("transfer-encoding"):
                while data := response.raw.read1(self._buffer_bytes, decode_content=self._decode):
                    yield memoryview(data)
            else:
                buffer = memoryview(bytearray(self._buffer_bytes))
                while n_bytes := response.body.read_into(buffer):
                    yield buffer[:n_bytes]
        except (HTTPError, OSError, http.client.HTTPException) as error:
            raise Transient(describe_error(error)) from error
        if response.aborter.was_cut:
            # Where the server gives no length, this looks like the file's end.
            raise Transient("the connection was given up")

    def abort(self) -> None:
        """See ByteStream.abort."""
        self._response.aborter.cut()

    def narrow(self) -> None:
        """See Narrowable.narrow."""
        self._response.narrow()

    def close(self) -> None:
        """See ByteStream.close."""
        self._response.close()


def describe_error(error: BaseException) -> str:
    """A network error in words; never its text, which may hold a URL."""
    if isinstance(error, RequestException) and error.args and isinstance(error.args[0], BaseException):
        # requests puts its own class around urllib3's.
        error = error.args[0]
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words
    cause = error.__cause__ or error.__context__ or error
    number = getattr(cause, "errno", None) or getattr(error, "errno", None)
    return os.strerror(number).lower() if isinstance(number, int) and number > 0 else "the connection broke"


_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (NameResolutionError, "the name of the server cannot be resolved"),
    (NewConnectionError, "the server cannot be reached"),
    (ConnectTimeoutError, "connecting to the server timed out"),
    (ReadTimeoutError, "the server sent nothing for too long"),
    (TimeoutError, "the server sent nothing for too long"),
    (ProxyError, "the proxy cannot be reached"),
    (SSLError, "the TLS connection failed"),
)
