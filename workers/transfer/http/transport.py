"""Ranged HTTP: finds the location, follows redirects by hand, and believes no answer that it has not checked.

Redirects are followed here, one request at a time, because the headers of a location (Authorization among them) belong
to its origin and to no other, and because the last URL of the chain is worth keeping: the parts after the first ask it
directly. It is kept until it expires or is refused; then the way is gone again from the start.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import NoReturn

from hive.errors import (
    DownloadError,
    HiveError,
    HubRefused,
    HubUnavailable,
    ModelAccessDenied,
    NotFound,
    SourceChanged,
)
from hive.net.egress import next_hop
from hive.net.failures import answered_by_proxy, perhaps_of_proxy
from hive.net.urls import Url, parse_url
from workers.transfer.control import Control
from workers.transfer.http import status as http_status
from workers.transfer.http.locating import SharedCall
from workers.transfer.http.pool import HostPool
from workers.transfer.http.redirects import expired, signed_url_expiry
from workers.transfer.http.response import HttpResponse, HttpStream
from workers.transfer.limits import Limits
from workers.transfer.source import Location, Served, Source
from workers.transfer.transport import ContentChanged, Declined, ExpectedContent, RangesRefused, Throttled, Transient

#: Statuses that bring the whole file: as it is, and as a proxy between has it.
_WHOLE = frozenset({HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION})

#: What a chain of redirects that comes back to where it was ends with.
LOOP = "The server redirects in a circle. Open the address in a browser: it may want a login, or a cookie."

#: How many times as long as the slowest answer so far one connection among several is waited for.
SPARE_FACTOR = 4

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
    #: Whether the source can say what its refusals mean.
    explained: bool = True


class _OtherBytes(Exception):
    """The answer is not of the bytes asked for, which a fresh location may cure; `error` is raised when it does not."""

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
        #: The search for a new one that is under way.
        self._search: SharedCall[_Place] | None = None
        #: Seconds of the slowest answer to a request for bytes.
        self._slowest_s = 0.0

    def open(self, start: int, end: int | None, known: ExpectedContent, control: Control) -> HttpStream:
        """See Transport.open."""
        return self._open(start, end, known, control, self._limits)

    def open_spare(self, start: int, end: int | None, known: ExpectedContent, control: Control) -> HttpStream:
        """See Sparing.open_spare."""
        usual = self._limits
        patience_s = max(usual.spare_first_byte_s, SPARE_FACTOR * self._slowest_s)
        if patience_s >= (usual.first_byte_s or usual.stall_s):
            return self._open(start, end, known, control, usual)
        connect_s = min(patience_s, usual.connect_timeout_s)
        hasty = replace(usual, first_byte_s=patience_s, connect_timeout_s=connect_s)
        return self._open(start, end, known, control, hasty)

    def _open(
        self, start: int, end: int | None, known: ExpectedContent, control: Control, limits: Limits
    ) -> HttpStream:
        place, fresh = self._place(control)
        try:
            return self._ask(place, start, end, known, control, limits)
        except Declined as refusal:
            self._forget(place)
            if fresh or not refusal.curable:
                raise
        except _OtherBytes:
            self._forget(place)
        place, _ = self._place(control)
        try:
            return self._ask(place, start, end, known, control, limits)
        except Declined:
            self._forget(place)
            raise
        except _OtherBytes as wrong:
            self._forget(place)
            raise wrong.error from None

    def refresh(self) -> None:
        """See Transport.refresh."""
        with self._lock:
            self._kept = None

    def _place(self, control: Control) -> tuple[_Place, bool]:
        """The kept place, or a new one, and whether it was looked for on this call's behalf. It is looked for once,
        and the others wait for the result. Nothing is locked meanwhile.
        """
        with self._lock:
            if self._kept is not None and not expired(self._kept.expires_at, self._limits.expiry_margin_s):
                return self._kept, False
            if not self._source.asks:
                self._kept = _place_of(self._locate())
                return self._kept, True
            search, began = self._search, self._search is None
            if search is None:
                search = self._search = SharedCall(self._find)
        if began:
            search.begin()
        return search.answer(control), began

    def _find(self) -> _Place:
        """A new place, which is kept."""
        try:
            place = _place_of(self._locate())
        except BaseException:
            with self._lock:
                self._search = None
            raise
        with self._lock:
            self._kept, self._search = place, None
        return place

    def _locate(self) -> Location:
        try:
            return self._source.locate()
        except HubRefused:
            raise
        except HubUnavailable as error:
            raise Transient(error.message) from error
        except (ModelAccessDenied, NotFound) as error:
            raise Declined(error, curable=False) from None

    def _forget(self, place: _Place) -> None:
        with self._lock:
            if self._kept is place:
                self._kept = None

    def _keep(self, old: _Place, new: _Place) -> None:
        with self._lock:
            if self._kept is old:
                self._kept = new

    def _ask(
        self, asked: _Place, start: int, end: int | None, known: ExpectedContent, control: Control, limits: Limits
    ) -> HttpStream:
        place = asked
        seen: list[tuple[Url, Mapping[str, str]]] = []
        for _ in range(self._limits.redirects_max + 1):
            if (place.url, place.headers) in seen:
                # The same request has the same answer: no cookie is kept that could change it.
                raise Declined(DownloadError(LOOP), curable=asked.signed or asked.used, final=True)
            seen.append((place.url, place.headers))
            response = self._get(place, start, end, known, control, limits)
            try:
                if response.status not in http_status.REDIRECTS:
                    stream = _ResponseCheck(response, place, self._source, self._limits, self._pool).verdict(
                        start, end, known
                    )
                    place.used = True
                    self._slowest_s = max(self._slowest_s, response.head_s)
                    self._keep(asked, place)
                    return stream
                place = _hop(place, response.status, response.headers.get("location", ""))
            except BaseException:
                response.close()
                raise
            response.discard()
        error = DownloadError(f"The server redirects more than {self._limits.redirects_max} times.")
        raise Declined(error, curable=asked.signed or asked.used, final=True)

    def _get(
        self, place: _Place, start: int, end: int | None, known: ExpectedContent, control: Control, limits: Limits
    ) -> HttpResponse:
        url = place.url
        rest_s = self._pool.cooldown.remaining_s(url.host)
        if rest_s > 0:
            raise Throttled("the server asked for a rest", rest_s)
        headers = {**place.headers, "Accept-Encoding": "identity", "User-Agent": self._pool.network.user_agent}
        if end is not None:
            headers["Range"] = f"bytes={start}-{end - 1}"
            if known.validator:
                headers["If-Range"] = known.validator
        return HttpResponse.get(url, headers, self._pool, limits, control)


class _ResponseCheck:
    """Whether an answer may be written at `start`."""

    def __init__(self, response: HttpResponse, place: _Place, source: Source, limits: Limits, pool: HostPool) -> None:
        self._response = response
        self._headers = response.headers
        self._place = place
        self._source = source
        self._limits = limits
        self._pool = pool

    def verdict(self, start: int, end: int | None, known: ExpectedContent) -> HttpStream:
        """The stream; raises what Transport.open raises, and _OtherBytes."""
        status = self._response.status
        if status < HTTPStatus.MULTIPLE_CHOICES and (coding := http_status.transfer_coding(self._headers)):
            raise DownloadError(f"The server sends the file in a transfer coding ({coding}) that nobody asked for.")
        if end is not None and (status == 206 or (status == 200 and self._is_part())):
            return self._range(start, end, known)
        if status in _WHOLE:
            return self._whole(start, end, known)
        if status == 416 and end is not None:
            self._beyond(start, known)
        if status == HTTPStatus.NOT_IMPLEMENTED and end is not None:
            raise _OtherBytes(RangesRefused())
        raise self._failure(status)

    def _is_part(self) -> bool:
        """Whether a 200 says of itself that it is a range: a proxy between may have changed the status alone."""
        got, n_bytes = http_status.content_range(self._headers), http_status.content_length(self._headers)
        if got is None or got.start is None or got.end is None:
            return False
        return got.end - got.start == n_bytes and n_bytes != got.total

    def _range(self, start: int, end: int, known: ExpectedContent) -> HttpStream:
        got = http_status.content_range(self._headers)
        if http_status.encoding(self._headers):
            raise RangesRefused
        if known.validator and http_status.strong_validator(self._headers) not in ("", known.validator):
            raise ContentChanged
        if got is None:
            # Several parts in one answer, or a header that cannot be read: the whole file may still be had.
            raise _OtherBytes(RangesRefused())
        if got.start is None or got.end is None or not got.start < got.end <= (got.total or got.end):
            raise _OtherBytes(SourceChanged("The server answers with other bytes than those asked for."))
        if got.start != start or got.end > end:
            # It counts in another way, or in whole blocks: the whole file may still be had.
            raise _OtherBytes(RangesRefused())
        if None not in (known.size, got.total) and got.total != known.size:
            raise _OtherBytes(SourceChanged(f"The file has {got.total} bytes now, not {known.size}."))
        return self._stream(start, got.total, got.end - start)

    def _whole(self, start: int, end: int | None, known: ExpectedContent) -> HttpStream:
        validator = http_status.strong_validator(self._headers)
        if known.validator and validator != known.validator:
            raise ContentChanged
        if start > 0:
            raise _OtherBytes(RangesRefused())
        if packed := http_status.encoding(self._headers):
            if self._source.digest is None:
                raise DownloadError(
                    "The server sends the file compressed, and there is no digest to check the result by. "
                    "Give the file's sha256, or another address."
                )
            if not http_status.can_unpack(packed):
                raise DownloadError(
                    f"The server sends the file compressed ({packed}), which hive does not unpack. Use another address."
                )
            return self._stream(0, known.size, self._limits.read_bytes, whole=True, decode=True)
        total = http_status.content_length(self._headers)
        if None not in (known.size, total) and total != known.size:
            raise _OtherBytes(SourceChanged(f"The file has {total} bytes now, not {known.size}."))
        return self._stream(0, total, total, whole=True)

    def _beyond(self, start: int, known: ExpectedContent) -> NoReturn:
        """416: the file ends before `start`. Where that is 0, or the file is as long as it should be, the server
        refuses ranges as such, or has an empty file: asked without a range it says which.
        """
        got = http_status.content_range(self._headers)
        if start == 0 or (got is not None and got.total is not None and got.total == known.size):
            raise _OtherBytes(RangesRefused())
        raise _OtherBytes(SourceChanged("The file is shorter now than it was."))

    def _failure(self, status: int) -> Exception:
        proxy = self._pool.network.proxy_for(self._place.url)
        host = self._place.url.host
        if proxy is not None and (self._place.url.scheme == "http" or status == 407):
            said = answered_by_proxy(status, self._headers, host, proxy)
            if said is not None:
                return Transient(said) if isinstance(said, str) else said
        passing = http_status.is_passing(status) and "retry-after" not in self._headers
        if passing:
            self._response.distrust()
        body = b"" if passing else self._response.some(http_status.ERROR_BODY_BYTES)
        signed = self._place.signed
        explain = self._source.explain if self._place.explained else None
        error = http_status.failure(status, self._headers, body, self._limits, signed=signed, explain=explain)
        if isinstance(error, Throttled):
            self._pool.cooldown.set(self._place.url.host, DEFAULT_REST_S if error.seconds is None else error.seconds)
        if isinstance(error, HiveError):
            if self._place.url.scheme == "http" and (hint := perhaps_of_proxy(self._headers, proxy)):
                error = type(error)(f"{error.message}{hint}", **error.details)
            # What was signed a moment ago, by who knows the store, is not signed otherwise now.
            stale = self._place.signed and not self._place.explained
            # No other try brings bytes that are there no more.
            gone = isinstance(error, SourceChanged)
            return Declined(error, curable=(stale or self._place.used) and not gone, final=gone)
        return error

    def _stream(
        self, start: int, total: int | None, length: int | None, *, whole: bool = False, decode: bool = False
    ) -> HttpStream:
        buffer_bytes = max(1, min(self._limits.read_bytes, self._limits.read_bytes if length is None else length))
        media_type = self._headers.get("content-type", "").partition(";")[0].strip().lower()
        proxy = self._pool.network.proxy_for(self._place.url)
        served = Served(
            str(self._place.url),
            media_type,
            self._headers.get("content-disposition", ""),
            proxy.variable if proxy is not None else "",
        )
        return HttpStream(self._response, served, start, total, buffer_bytes, whole=whole, decode=decode)


def _place_of(location: Location) -> _Place:
    expires_at = location.expires_at if location.expires_at is not None else signed_url_expiry(location.url)
    signed = expires_at is not None
    explained = location.signed_here or not signed
    return _Place(parse_url(location.url), location.headers, expires_at, signed=signed, explained=explained)


def _hop(place: _Place, status: int, location: str) -> _Place:
    """The next place of a chain. Headers are dropped for good when the origin changes."""
    if not location.strip():
        error = DownloadError(f"The server redirects ({status}) without saying where to.")
        raise Declined(error, curable=place.signed or place.used)
    url = next_hop(place.url, location)
    if url.origin == place.url.origin:
        return _Place(url, place.headers, place.expires_at, place.signed, explained=place.explained)
    return _Place(url, {}, signed_url_expiry(str(url)), signed=True, explained=False)
