"""Ranged HTTP: finds the location, follows redirects by hand, and believes no answer that it has not checked.

Redirects are followed here, one request at a time, because the headers of a location (Authorization among them) belong
to its origin and to no other, and because the last URL of the chain is worth keeping: the parts after the first ask it
directly. It is kept until it expires or is refused; then the way is gone again from the start.
"""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from hive.errors import DownloadError, HiveError, HubUnavailable, SourceChanged
from workers.transfer import answers
from workers.transfer.control import Control
from workers.transfer.limits import Limits
from workers.transfer.network import Body, Lifeline, requesting
from workers.transfer.pool import HostPool
from workers.transfer.source import Location, Source
from workers.transfer.transport import ContentChanged, Known, RangesRefused, Throttled, Transient
from workers.transfer.urls import Url, expired, next_hop, parse_url, signed_url_expiry

#: Bytes of a redirect's or an error's body that are read so that the connection can be kept.
DISCARD_BYTES = 64 * 1024

#: Seconds that a host is left alone after "too many requests" without a time.
DEFAULT_REST_S = 1.0


@dataclass
class _Place:
    """A location, and where its redirects ended."""

    url: Url
    headers: Mapping[str, str]
    expires_at: float | None
    #: Whether the URL itself is the credential: then a refusal may only mean that it is too old.
    signed: bool
    #: Whether it served once: then a refusal may only mean that it is too old.
    used: bool = False


class _Refused(Exception):
    """A refusal that a fresh location may cure; `error` is raised when it does not."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class HttpTransport:
    """The bytes of one source over HTTP. Safe from any thread."""

    name = "http"

    def __init__(self, source: Source, pool: HostPool, limits: Limits) -> None:
        self._source = source
        self._pool = pool
        self._limits = limits
        self._lock = threading.Lock()
        self._kept: _Place | None = None

    def open(self, start: int, end: int | None, known: Known, control: Control) -> HttpStream:
        """See Transport.open."""
        place = self._place()
        try:
            return self._ask(place, start, end, known, control)
        except _Refused:
            self._forget(place)
        place = self._place()
        try:
            return self._ask(place, start, end, known, control)
        except _Refused as refused:
            self._forget(place)
            raise refused.error from None

    def refresh(self) -> None:
        """See Transport.refresh."""
        with self._lock:
            self._kept = None

    def _place(self) -> _Place:
        """The kept place, or a new one. One thread resolves while the others wait for its result."""
        with self._lock:
            if self._kept is None or expired(self._kept.expires_at, self._limits.expiry_margin_s):
                self._kept = _place_of(self._locate())
            return self._kept

    def _locate(self) -> Location:
        try:
            return self._source.locate()
        except HubUnavailable as error:
            raise Transient(error.message) from error

    def _forget(self, place: _Place) -> None:
        with self._lock:
            if self._kept is place:
                self._kept = None

    def _keep(self, old: _Place, new: _Place) -> None:
        with self._lock:
            if self._kept is old:
                self._kept = new

    def _ask(self, asked: _Place, start: int, end: int | None, known: Known, control: Control) -> HttpStream:
        place = asked
        for _ in range(self._limits.redirects_max + 1):
            reply = self._get(place, start, end, known, control)
            try:
                if reply.status not in answers.REDIRECTS:
                    stream = _Judge(reply, place, self._source, self._limits, self._pool).verdict(start, end, known)
                    place.used = True
                    self._keep(asked, place)
                    return stream
                place = _hop(place, reply.response.headers.get("location", ""))
            except BaseException:
                reply.close()
                raise
            reply.discard()
        raise DownloadError(f"The server redirects more than {self._limits.redirects_max} times.")

    def _get(self, place: _Place, start: int, end: int | None, known: Known, control: Control) -> _Reply:
        url = place.url
        rest_s = self._pool.cooldown.remaining_s(url.host)
        if rest_s > 0:
            raise Throttled("the server asked for a rest", rest_s)
        headers = {**place.headers, "Accept-Encoding": "identity", "User-Agent": self._pool.network.user_agent}
        if end is not None:
            headers["Range"] = f"bytes={start}-{end - 1}"
            if known.validator:
                headers["If-Range"] = known.validator
        return _Reply.to(url, headers, self._pool, self._limits, control)


class _Reply:
    """An answer whose body is still on the wire, with all that has to be given back."""

    def __init__(
        self, response: urllib3.BaseHTTPResponse, body: Body, lifeline: Lifeline, slot: threading.Semaphore
    ) -> None:
        self.response = response
        self.status = response.status
        self.body = body
        self.lifeline = lifeline
        self._slot: threading.Semaphore | None = slot

    @classmethod
    def to(cls, url: Url, headers: Mapping[str, str], pool: HostPool, limits: Limits, control: Control) -> _Reply:
        """Ask for `url`. Raises Transient, UnsafeUrl, and the error of `control.cancel`."""
        slot = pool.take_slot(url.host, control)
        lifeline = Lifeline()
        try:
            # The waker is for the time until the headers are here; the reader of the body has one of its own.
            with control.waking(lifeline.cut), requesting(lifeline, pool.network.address_check) as last_body:
                response = pool.manager(url).urlopen(
                    "GET",
                    str(url),
                    headers=headers,
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                    timeout=urllib3.Timeout(connect=limits.connect_timeout_s, read=limits.stall_s),
                )
                body = last_body()
            assert body is not None
        except BaseException as error:
            lifeline.let_go()
            slot.release()
            control.check()
            if isinstance(error, HTTPError | OSError | http.client.HTTPException):
                raise Transient(plainly(error)) from error
            raise
        return cls(response, body, lifeline, slot)

    def some(self, n_bytes: int) -> bytes:
        """At most so many bytes of the body; fewer when it breaks."""
        try:
            return self.response.read(n_bytes, decode_content=False) or b""
        except (HTTPError, OSError, http.client.HTTPException):
            return b""

    def discard(self) -> None:
        """Read a short body away, so that the connection can be kept."""
        self.some(DISCARD_BYTES)
        self.close()

    def close(self) -> None:
        """Keep the connection when the body was read, else close it. Twice does no harm."""
        slot, self._slot = self._slot, None
        if slot is None:
            return
        if self.body.isclosed() and not self.lifeline.was_cut:
            self.response.release_conn()
        else:
            self.response.close()
        self.lifeline.let_go()
        slot.release()


class HttpStream:
    """See Stream."""

    def __init__(
        self, reply: _Reply, start: int, total: int | None, buffer_bytes: int, *, whole: bool, decode: bool
    ) -> None:
        self.start = start
        self.whole = whole
        self.total = total
        self.validator = answers.strong_validator(reply.response.headers)
        self.etag: str | None = reply.response.headers.get("etag")
        self._reply = reply
        self._buffer_bytes = buffer_bytes
        self._decode = decode

    def chunks(self) -> Iterator[memoryview]:
        """See Stream.chunks."""
        reply = self._reply
        try:
            if self._decode or reply.response.headers.get("transfer-encoding"):
                for data in reply.response.stream(self._buffer_bytes, decode_content=self._decode):
                    yield memoryview(data)
            else:
                buffer = memoryview(bytearray(self._buffer_bytes))
                while n_bytes := reply.body.read_into(buffer):
                    yield buffer[:n_bytes]
        except (HTTPError, OSError, http.client.HTTPException) as error:
            raise Transient(plainly(error)) from error
        if reply.lifeline.was_cut:
            # Where the server gives no length, this looks like the file's end.
            raise Transient("the connection was given up")

    def abort(self) -> None:
        """See Stream.abort."""
        self._reply.lifeline.cut()

    def close(self) -> None:
        """See Stream.close."""
        self._reply.close()


class _Judge:
    """Whether an answer may be written at `start`."""

    def __init__(self, reply: _Reply, place: _Place, source: Source, limits: Limits, pool: HostPool) -> None:
        self._reply = reply
        self._headers = reply.response.headers
        self._place = place
        self._source = source
        self._limits = limits
        self._pool = pool

    def verdict(self, start: int, end: int | None, known: Known) -> HttpStream:
        """The stream; raises what Transport.open raises, and _Refused."""
        status = self._reply.status
        if status == 206 and end is not None:
            return self._range(start, end, known)
        if status == 200:
            return self._whole(start, end, known)
        if status == 416:
            return self._beyond(start)
        raise self._failure(status)

    def _range(self, start: int, end: int, known: Known) -> HttpStream:
        got = answers.content_range(self._headers)
        if answers.encoded(self._headers):
            raise RangesRefused
        if known.validator and answers.strong_validator(self._headers) not in ("", known.validator):
            raise ContentChanged
        if got is None or got.start != start or got.end is None or not start < got.end <= end:
            raise _Refused(SourceChanged("The server answers with other bytes than those asked for."))
        if None not in (known.size, got.total) and got.total != known.size:
            raise _Refused(SourceChanged(f"The file has {got.total} bytes now, not {known.size}."))
        return self._stream(start, got.total, got.end - start)

    def _whole(self, start: int, end: int | None, known: Known) -> HttpStream:
        validator = answers.strong_validator(self._headers)
        if known.validator and validator != known.validator:
            raise ContentChanged
        if start > 0:
            raise _Refused(RangesRefused())
        if answers.encoded(self._headers):
            if self._source.digest is None:
                raise DownloadError(
                    "The server sends the file compressed, and there is no digest to check the result by."
                )
            return self._stream(0, known.size, self._limits.read_bytes, whole=True, decode=True)
        total = answers.content_length(self._headers)
        if None not in (known.size, total) and total != known.size:
            raise _Refused(SourceChanged(f"The file has {total} bytes now, not {known.size}."))
        return self._stream(0, total, total, whole=True)

    def _beyond(self, start: int) -> HttpStream:
        """416: the file ends before `start`. An empty file has no range at all, so there it is the right answer."""
        got = answers.content_range(self._headers)
        if start == 0 and got is not None and got.total == 0:
            self._reply.discard()
            return self._stream(0, 0, 0, whole=True)
        raise _Refused(SourceChanged("The file is shorter now than it was."))

    def _failure(self, status: int) -> Exception:
        body = self._reply.some(answers.ERROR_BODY_BYTES)
        error = answers.failure(status, self._headers, body, self._limits, signed=self._place.signed)
        if isinstance(error, Throttled):
            self._pool.cooldown.set(self._place.url.host, DEFAULT_REST_S if error.seconds is None else error.seconds)
        if isinstance(error, HiveError) and (self._place.signed or self._place.used):
            return _Refused(error)
        return error

    def _stream(
        self, start: int, total: int | None, length: int | None, *, whole: bool = False, decode: bool = False
    ) -> HttpStream:
        buffer_bytes = max(1, min(self._limits.read_bytes, self._limits.read_bytes if length is None else length))
        return HttpStream(self._reply, start, total, buffer_bytes, whole=whole, decode=decode)


def _place_of(location: Location) -> _Place:
    expires_at = location.expires_at if location.expires_at is not None else signed_url_expiry(location.url)
    return _Place(parse_url(location.url), location.headers, expires_at, signed=expires_at is not None)


def _hop(place: _Place, location: str) -> _Place:
    """The next place of a chain. Headers are dropped for good when the origin changes."""
    url = next_hop(place.url, location)
    if url.origin == place.url.origin:
        return _Place(url, place.headers, place.expires_at, place.signed)
    return _Place(url, {}, signed_url_expiry(str(url)), signed=True)


def plainly(error: BaseException) -> str:
    """A network error in words; never its text, which may hold a URL."""
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
