"""Everything that goes wrong between a downloader and a Hub, to be switched on by a test.

A fault strikes at one of four moments of a request, and each is a method that does nothing unless a fault overrides it:
before the request is looked at, when a signed link is issued, before a file's Range is looked at, and after the reply
is ready. A `Rule` says to which requests a fault belongs and how often it strikes; a fault that has nothing to do (the
byte to flip is not in this part) does not use up a strike.
"""

import gzip as gzip_format
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import Literal

from tests.hub.content import AnyContent, Bytes, SyntheticFile, as_content, read_all
from tests.hub.messages import Body, Reply, Request, redirect_reply, text_reply
from tests.hub.resources import Resource
from tests.hub.wire import ConnectionEnded

#: Largest content (bytes) that the gzip fault compresses in memory.
GZIP_MAX_BYTES = 64 << 20

#: Seed of the content that `other_content` makes up.
OTHER_SEED = 977


class Fault:
    """Does nothing; the base of all faults."""

    def before(self, request: Request) -> Reply | None:
        """An answer in place of the real one; None goes on."""
        return None

    def link_ttl_s(self, ttl_s: float) -> float:
        """For how many seconds a link is good that is about to be issued."""
        return ttl_s

    def source(self, request: Request, resource: Resource) -> Resource | None:
        """The file to serve in place of the real one; None for the real one."""
        return None

    def body(self, body: Body, status: int) -> bool:
        """Change a body that is about to be sent; true when it did."""
        return False


@dataclass(frozen=True)
class Status(Fault):
    """Answers with a status; see `status`."""

    code: int
    headers: tuple[tuple[str, str], ...]
    text: str

    def before(self, request: Request) -> Reply:
        """That answer."""
        return text_reply(self.code, self.text, list(self.headers))


def status(code: int, headers: Mapping[str, str] | None = None, body: str = "") -> Fault:
    """Answer with this status, headers and text."""
    return Status(code, tuple((headers or {}).items()), body)


def too_many_requests(
    retry_after_s: float | None = None, *, as_date: bool = False, reset_s: int | None = None, resource: str = "api"
) -> Fault:
    """429, with Retry-After in seconds or as a date, or with the Hub's RateLimit headers, or with neither."""
    headers = {}
    if retry_after_s is not None:
        when = datetime.now(UTC) + timedelta(seconds=retry_after_s)
        headers["Retry-After"] = format_datetime(when, usegmt=True) if as_date else str(int(retry_after_s))
    if reset_s is not None:
        headers["RateLimit"] = f'"{resource}";r=0;t={reset_s}'
        headers["RateLimit-Policy"] = f'"fixed window";"{resource}";q=500;w=300'
    return status(HTTPStatus.TOO_MANY_REQUESTS, headers, "We had to rate limit you.")


class HangUp(Fault):
    """Closes the connection; see `hang_up`."""

    def before(self, request: Request) -> None:
        """The end. Raises ConnectionEnded."""
        raise ConnectionEnded("as the fault says")


def hang_up() -> Fault:
    """Close the connection instead of an answer."""
    return HangUp()


@dataclass(frozen=True)
class SlowConnect(Fault):
    """Answers late; see `slow_connect`."""

    seconds: float

    def before(self, request: Request) -> None:
        """Wait."""
        request.pause(self.seconds)


def slow_connect(seconds: float) -> Fault:
    """Send nothing at all for so long, then answer. (The kernel has accepted the connection by then.)"""
    return SlowConnect(seconds)


@dataclass(frozen=True)
class RedirectTo(Fault):
    """Redirects; see `redirect_to`."""

    url: str
    code: int

    def before(self, request: Request) -> Reply:
        """The redirect."""
        return redirect_reply(self.code, self.url)


def redirect_to(url: str, code: int = HTTPStatus.FOUND) -> Fault:
    """Send the client somewhere else."""
    return RedirectTo(url, code)


@dataclass(frozen=True)
class ExpiredLinks(Fault):
    """Issues links that are past; see `expired_links`."""

    ttl_s: float

    def link_ttl_s(self, ttl_s: float) -> float:
        """The short life."""
        return self.ttl_s


def expired_links(ttl_s: float = -60) -> Fault:
    """The Hub issues signed links that are good for `ttl_s` seconds only: by default, expired before they are used."""
    return ExpiredLinks(ttl_s)


class NoRange(Fault):
    """Ignores Range; see `no_range`."""

    def source(self, request: Request, resource: Resource) -> Resource | None:
        """The same file without ranges, to those who ask for one."""
        return replace(resource, ranges=False) if request.method == "GET" and "range" in request.headers else None


def no_range() -> Fault:
    """Answer a ranged GET with 200 and the whole content."""
    return NoRange()


class UntilClose(Fault):
    """Ends a body by closing; see `until_close`."""

    def body(self, body: Body, status: int) -> bool:
        """Without a length, and without chunks."""
        body.declared_length, body.chunked = None, False
        return True


def until_close() -> Fault:
    """Send neither a length nor chunks: the connection's end is the body's, as with HTTP/1.0."""
    return UntilClose()


@dataclass(frozen=True)
class Presented(Fault):
    """Serves another file under other headers; see `presented`."""

    content: AnyContent
    media_type: str
    disposition: str | None

    def source(self, request: Request, resource: Resource) -> Resource:
        """That file."""
        return replace(
            resource,
            content=as_content(self.content),
            content_type=self.media_type,
            disposition=self.disposition,
            etag=None,
            last_modified=None,
        )


def presented(content: AnyContent, media_type: str, disposition: str | None = None) -> Fault:
    """Answer 200 with something else: a login page, an error in JSON, a pointer."""
    return Presented(content, media_type, disposition)


@dataclass(frozen=True)
class OtherContent(Fault):
    """Serves another file; see `other_content`."""

    content: AnyContent | None

    def source(self, request: Request, resource: Resource) -> Resource:
        """The other file, with validators of its own."""
        content = as_content(SyntheticFile(resource.content.size, OTHER_SEED) if self.content is None else self.content)
        tag = hashlib.md5(content.sha256().encode(), usedforsecurity=False).hexdigest()
        etag = f'"{tag}"' if resource.etag is not None else None
        modified = format_datetime(datetime.now(UTC).replace(microsecond=0), usegmt=True)
        return replace(
            resource, content=content, etag=etag, last_modified=modified if resource.last_modified is not None else None
        )


def other_content(content: AnyContent | None = None) -> Fault:
    """Serve other bytes under the same URL, with another ETag and date; by default as many bytes as there were."""
    return OtherContent(content)


class Gzip(Fault):
    """Compresses; see `gzip`."""

    def source(self, request: Request, resource: Resource) -> Resource | None:
        """The compressed file, to a GET. Raises ValueError for one that is too large."""
        if request.method != "GET":
            return None
        if resource.content.size > GZIP_MAX_BYTES:
            raise ValueError(f"too large to compress here: {resource.content.size} bytes")
        packed = gzip_format.compress(read_all(resource.content), compresslevel=1, mtime=0)
        return replace(resource, content=Bytes(packed), encoding="gzip", ranges=False)


def gzip() -> Fault:
    """Answer with Content-Encoding: gzip and the whole content, whatever the client accepts."""
    return Gzip()


@dataclass(frozen=True)
class Ends(Fault):
    """Ends a body early; see `cut` and `short_body`."""

    after_bytes: int | None
    at_offset: int | None
    ending: Literal["reset", "close"]

    def body(self, body: Body, status: int) -> bool:
        """End it there, if it is long enough and another has not ended it."""
        after = _position(body, self.after_bytes, self.at_offset)
        if after is None or body.ends_after is not None:
            return False
        body.ends_after, body.ending = after, self.ending
        return True


def cut(after_bytes: int | None = None, *, at_offset: int | None = None) -> Fault:
    """Reset the connection after so many bytes of a body, or where the file's byte `at_offset` would have come."""
    return Ends(after_bytes, at_offset, "reset")


def short_body(after_bytes: int | None = None, *, at_offset: int | None = None) -> Fault:
    """Promise the full length and close the connection, in good order, after so many bytes (places as for `cut`)."""
    return Ends(after_bytes, at_offset, "close")


@dataclass(frozen=True)
class Stall(Fault):
    """Stops for a while; see `stall`."""

    after_bytes: int | None
    at_offset: int | None
    seconds: float

    def body(self, body: Body, status: int) -> bool:
        """Stop there, if it is long enough."""
        after = _position(body, self.after_bytes, self.at_offset)
        if after is None:
            return False
        body.stalls = (*body.stalls, (after, self.seconds))
        return True


def stall(after_bytes: int | None = None, seconds: float = 3_600, *, at_offset: int | None = None) -> Fault:
    """Send nothing for `seconds` after so many bytes (places as for `cut`), then go on; the server's stop ends it."""
    return Stall(after_bytes, at_offset, seconds)


@dataclass(frozen=True)
class Trickle(Fault):
    """Sends slowly; see `trickle`."""

    bytes_per_s: float

    def body(self, body: Body, status: int) -> bool:
        """Slow it down."""
        body.rate_bytes_per_s = self.bytes_per_s
        return True


def trickle(bytes_per_s: float) -> Fault:
    """Send at most so fast."""
    return Trickle(bytes_per_s)


@dataclass(frozen=True)
class WrongByte(Fault):
    """Flips a bit; see `wrong_byte`."""

    offset: int

    def body(self, body: Body, status: int) -> bool:
        """Flip it, if it is in this body."""
        if not body.start <= self.offset < body.end:
            return False
        body.flips |= {self.offset}
        return True


def wrong_byte(offset: int) -> Fault:
    """Turn one bit of the file's byte at `offset` in whatever reply carries it."""
    return WrongByte(offset)


@dataclass(frozen=True)
class WrongRange(Fault):
    """Answers another range; see `wrong_range`."""

    shift_bytes: int
    total_shift_bytes: int

    def body(self, body: Body, status: int) -> bool:
        """Move the range of a 206."""
        if status != HTTPStatus.PARTIAL_CONTENT:
            return False
        moved = max(0, min(body.start + self.shift_bytes, body.content.size - body.length))
        body.start, body.end = moved, moved + body.length
        body.total += self.total_shift_bytes
        return True


def wrong_range(shift_bytes: int = 0, total_shift_bytes: int = 0) -> Fault:
    """Answer a ranged GET with a 206 for a range elsewhere (bytes and header agree), or with another total."""
    return WrongRange(shift_bytes, total_shift_bytes)


@dataclass(frozen=True)
class Truncate(Fault):
    """Serves less; see `truncate`."""

    missing_bytes: int

    def body(self, body: Body, status: int) -> bool:
        """Take the last bytes away, if there are more than that."""
        if body.length <= self.missing_bytes:
            return False
        body.end -= self.missing_bytes
        body.declared_length = body.length if body.declared_length is not None else None
        return True


def truncate(missing_bytes: int) -> Fault:
    """A well-formed reply, whose Content-Length says so, that lacks the last bytes of what was asked for."""
    return Truncate(missing_bytes)


def _position(body: Body, after_bytes: int | None, at_offset: int | None) -> int | None:
    """The place in a body that a fault means, or None when it does not reach so far."""
    if at_offset is not None:
        return at_offset - body.start if body.start <= at_offset < body.end else None
    after = after_bytes or 0
    return after if after < body.length else None
