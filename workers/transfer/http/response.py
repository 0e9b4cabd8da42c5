"""One HTTP answer: asked for, read, and given back, in a way that another thread can end at any moment."""

from __future__ import annotations

import contextlib
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
    InvalidHeader,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from hive.net.failures import final_failure, is_unknown_name, proxy_trouble, unknown_name
from hive.net.urls import Url
from workers.transfer.control import Control
from workers.transfer.http import status as http_status
from workers.transfer.http.pool import HostPool
from workers.transfer.http.sockets import Body, NoAnswer, SocketAborter, request_scope
from workers.transfer.limits import Limits
from workers.transfer.source import Served
from workers.transfer.transport import NameUnknown, Silent, Transient

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
        #: Seconds from the request to the head of its answer.
        self.head_s = 0.0
        self._slot: threading.Semaphore | None = slot
        self._control = control
        self._stall_s = 0.0
        #: Whether the first byte of the body is waited for, with another patience than the next ones.
        self._is_first = False
        #: Whether the kernel takes little ahead, and whether the connection is not kept.
        self._is_narrow = self._is_left = False

    @classmethod
    def get(
        cls, url: Url, headers: Mapping[str, str], pool: HostPool, limits: Limits, control: Control
    ) -> HttpResponse:
        """Ask for `url`. Raises Transient, UnsafeUrl, and the error of `control.cancel`."""
        slot = pool.take_slot(url.host, control)
        aborter = SocketAborter()
        began_s = time.monotonic()
        try:
            # The waker is for the time until the headers are here; the reader of the body has one of its own.
            with control.waking(aborter.cut), request_scope(aborter, pool.network.address_check) as last_body:
                patience = urllib3.Timeout(connect=limits.connect_timeout_s, read=limits.first_byte_s or limits.stall_s)
                raw = pool.session.ask(url, headers, patience)
                body = last_body()
            assert body is not None
            # Some send a head at once, and then nothing: the first byte is waited for as the head is, if that is less.
            body.set_timeout(min(limits.stall_s, limits.first_byte_s or limits.stall_s))
        except BaseException as error:
            aborter.let_go()
            slot.release()
            control.check()
            if isinstance(error, HTTPError | OSError | http.client.HTTPException):
                proxy = pool.network.proxy_for(url)
                final = final_failure(error, url.host, proxy, pool.network.trust)
                if final is not None:
                    raise final from None
                if is_unknown_name(error):
                    raise NameUnknown(unknown_name(url.host, proxy)) from error
                aborter.distrust()
                raise _failed(error, proxy_trouble(error, url.host, proxy)) from error
            raise
        response = cls(raw, body, aborter, slot, control)
        response.head_s, response._stall_s = time.monotonic() - began_s, limits.stall_s
        response._is_first = limits.first_byte_s is not None and limits.first_byte_s < limits.stall_s
        return response

    def has_begun(self) -> None:
        """The body's first byte is here: from now on a wait may be as long as a stall."""
        if self._is_first:
            self._is_first = False
            # Closed already where all of it has come.
            with contextlib.suppress(OSError):
                self.body.set_timeout(self._stall_s)

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

    def distrust(self) -> None:
        """The server is out of sorts: other addresses of its name come first from now on, and this connection goes."""
        self.aborter.distrust()
        self._is_left = True
        # Before its body is read: urllib3 keeps a connection as soon as the last byte of an answer is here.
        self.raw.close()

    def discard(self) -> None:
        """Read a short body away, so that the connection can be kept."""
        self.some(DISCARD_BYTES)
        self.close()

    def narrow(self) -> None:
        """See Narrowable.narrow. A narrow connection is not kept: the next limit may be another."""
        if not self._is_narrow:
            self._is_narrow = self._is_left = True
            self.aborter.narrow(NARROW_BYTES)

    def close(self) -> None:
        """Keep the connection when the body was read, else close it. Twice does no harm."""
        slot, self._slot = self._slot, None
        if slot is None:
            return
        if self.body.isclosed() and not self.body.length and not self.aborter.was_cut and not self._is_left:
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
                    response.has_begun()
                    yield memoryview(data)
            else:
                buffer = memoryview(bytearray(self._buffer_bytes))
                n_bytes = response.body.read_into(buffer)
                response.has_begun()
                while n_bytes:
                    yield buffer[:n_bytes]
                    n_bytes = response.body.read_into(buffer)
        except (HTTPError, OSError, http.client.HTTPException) as error:
            raise _failed(error) from error
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


def _failed(error: BaseException, words: str | None = None) -> Transient:
    """What a network error means for the download."""
    inner = _inner(error)
    kind = Silent if isinstance(inner, ConnectTimeoutError | ReadTimeoutError | TimeoutError) else Transient
    return kind(words or describe_error(error))


def _inner(error: BaseException) -> BaseException:
    """The error without requests' own class, which is put around urllib3's."""
    if isinstance(error, RequestException) and error.args and isinstance(error.args[0], BaseException):
        return error.args[0]
    return error


def describe_error(error: BaseException) -> str:
    """A network error in words; never its text, which may hold a URL."""
    error = _inner(error)
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words
    if isinstance(error, ProtocolError) and (said := _nonsense(error.args[-1])):
        return said
    cause = error.__cause__ or error.__context__ or error
    number = getattr(cause, "errno", None) or getattr(error, "errno", None)
    return os.strerror(number).lower() if isinstance(number, int) and number > 0 else "the connection broke"


def _nonsense(error: object) -> str | None:
    """What is wrong with an answer that is none; None where there was no answer."""
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
        return "what listens there does not speak HTTP"
    if isinstance(error, http.client.LineTooLong) or (error.__class__ is http.client.HTTPException):
        return "the headers of the answer are too long or too many"
    if isinstance(error, NoAnswer):
        return "the server announces an answer again and again, and no answer behind them comes"
    return None


_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (NameResolutionError, "the name of the server cannot be resolved"),
    (NewConnectionError, "the server cannot be reached"),
    (ConnectTimeoutError, "connecting to the server timed out"),
    (ReadTimeoutError, "the server sent nothing for too long"),
    (TimeoutError, "the server sent nothing for too long"),
    (ProxyError, "the proxy cannot be reached"),
    (SSLError, "the TLS connection failed"),
    (InvalidHeader, "the answer names several lengths, or none that is a number"),
)
