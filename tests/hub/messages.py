"""A request as it arrived and a reply as it will go out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from tests.hub.content import Bytes, Content

#: Seconds of traffic in one write where a rate is asked for: short enough to look smooth.
PACE_STEP_S = 0.01
#: The two origins of a Hub: the site itself, and the CDN that it sends people to for large files.
OriginName = Literal["hub", "cdn"]

Headers = list[tuple[str, str]]


@dataclass
class Request:
    """One request. Header names are in lower case; `path` is decoded, `raw_path` is not."""

    origin: OriginName
    method: str
    raw_path: str
    raw_query: str
    headers: Mapping[str, str]
    body: bytes
    #: Waits that many seconds, or until the client or the server is gone (then true).
    pause: Callable[[float], bool]
    #: "org/name/path/in/repo" where the URL means a repository's file, else "".
    subject: str = ""

    @property
    def path(self) -> str:
        """The path, decoded."""
        return unquote(self.raw_path)

    @property
    def query(self) -> dict[str, list[str]]:
        """The query's values by name."""
        return parse_qs(self.raw_query, keep_blank_values=True)

    def first(self, name: str, default: str = "") -> str:
        """The query's first value of that name."""
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        """Whether the query switches that on."""
        return self.first(name).lower() in {"1", "true"}


def split_target(target: str) -> tuple[str, str]:
    """Path and query of a request line's target."""
    parts = urlsplit(target)
    return parts.path, parts.query


@dataclass
class Body:
    """Bytes [start, end) of a content, and all that may go wrong while they are sent.

    Positions called `after` count from the body's first byte; `flips` are offsets in the content.
    """

    content: Content
    start: int
    end: int
    #: What Content-Range says of the whole; a fault may lie.
    total: int
    #: What Content-Length says; None sends the body in chunks, without a length.
    declared_length: int | None
    #: Whether a body without a length goes in chunks; else the end of the connection is its end.
    chunked: bool = True
    rate_bytes_per_s: float | None = None
    #: Seconds of traffic in one write.
    pace_step_s: float = PACE_STEP_S
    flips: frozenset[int] = frozenset()
    #: (after how many bytes, for how many seconds) nothing is sent.
    stalls: tuple[tuple[int, float], ...] = ()
    #: The body ends after so many bytes, by a reset or by a close.
    ends_after: int | None = None
    ending: Literal["reset", "close"] = "close"

    @property
    def length(self) -> int:
        """How many bytes would be sent if nothing went wrong."""
        return self.end - self.start


@dataclass
class Reply:
    """A status, headers without those that describe the length, and a body."""

    status: int
    headers: Headers = field(default_factory=list)
    body: Body = field(default_factory=lambda: whole(Bytes(b"")))


def whole(content: Content) -> Body:
    """A body that is all of a content."""
    return Body(content, 0, content.size, content.size, content.size)


def text_reply(status: int, text: str, headers: Headers | None = None, content_type: str = "text/plain") -> Reply:
    """A reply with a short text."""
    kind = ("Content-Type", f"{content_type}; charset=utf-8")
    return Reply(status, [kind, *(headers or [])], whole(Bytes(text.encode())))


def json_reply(value: object, headers: Headers | None = None, status: int = HTTPStatus.OK) -> Reply:
    """A reply with a JSON value."""
    kind = ("Content-Type", "application/json; charset=utf-8")
    return Reply(status, [kind, *(headers or [])], whole(Bytes(msgspec.json.encode(value))))


def redirect_reply(status: int, location: str, headers: Headers | None = None) -> Reply:
    """A redirect, with the words the Hub puts into its body."""
    words = f"{HTTPStatus(status).phrase}. Redirecting to {location}"
    return text_reply(status, words, [("Location", location), *(headers or [])])
