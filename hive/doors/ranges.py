"""Range requests and conditional requests (RFC 9110, sections 13 and 14), for content that never changes.

A content is named by its digest, so its ETag is strong and there is no date to compare: If-Modified-Since and
If-Unmodified-Since say nothing here. One range is answered as one; several, and what is no range of bytes, are answered
with the whole, as the RFC allows: nobody who fetches models sends them, and a flood of tiny ranges costs nothing. A
HEAD has no ranges (section 14.2). nginx and S3 answer it with 206 and the length of the piece all the same; the clients
that fetch models ask for none there, and who does is told by Accept-Ranges.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

#: The longest Range header that is read, in bytes; and digits of a place in a file: "to the end" is 2^64 - 1 to some.
MAX_RANGE_CHARS: Final = 256
_RANGE = re.compile(r"bytes=[ \t]*(\d{0,39})-(\d{0,39})[ \t]*", re.ASCII | re.IGNORECASE)
#: ETags of a list that are compared.
MAX_ETAGS: Final = 64


class Span(NamedTuple):
    """What is sent: the status, and bytes [start, end) of the content; nothing of it with 304, 412 and 416."""

    status: int
    start: int
    end: int


def read_span(method: str, headers: Mapping[bytes, bytes], size: int, etag: str) -> Span:
    """What to answer to these headers, whose names are in lower case; `etag` is strong and has its quotes."""
    if (wanted := headers.get(b"if-match")) is not None and not _matches(wanted, etag, weakly=False):
        return Span(412, 0, 0)
    if (known := headers.get(b"if-none-match")) is not None and _matches(known, etag, weakly=True):
        return Span(304, 0, 0)
    text = headers.get(b"range", b"").decode("latin-1")
    unchanged = headers.get(b"if-range")
    if method != "GET" or not text or (unchanged is not None and unchanged.decode("latin-1").strip() != etag):
        return Span(200, 0, size)
    return _one_range(text, size)


def _one_range(text: str, size: int) -> Span:
    found = _RANGE.fullmatch(text) if len(text) <= MAX_RANGE_CHARS else None
    if found is None or not (found[1] or found[2]):
        return Span(200, 0, size)
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
        return Span(206, start, end) if int(found[2]) and size else Span(416, 0, 0)
    start, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and last < start:
        return Span(200, 0, size)  # no range at all
    return Span(206, start, min(last + 1, size)) if start < size else Span(416, 0, 0)


def _matches(text: bytes, etag: str, *, weakly: bool) -> bool:
    """Whether a list of ETags has this one; a `*` is any."""
    given = [part.strip() for part in text.decode("latin-1").split(",", MAX_ETAGS)[:MAX_ETAGS]]
    if given == ["*"]:
        return True
    return any((part.removeprefix("W/") if weakly else part) == etag for part in given)
