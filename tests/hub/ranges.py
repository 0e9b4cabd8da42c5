"""Range and If-Range, as RFC 9110 has them, for one range (several are answered with the whole, which is allowed)."""

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """Bytes [start, end)."""

    start: int
    end: int


class Unsatisfiable(Exception):
    """The range lies outside the content: 416."""


def requested_span(header: str | None, size: int) -> Span | None:
    """The span that a Range header asks for; None means the whole (no header, or one that must be ignored).

    Raises Unsatisfiable.
    """
    match = _ONE_RANGE.fullmatch(header or "")
    if match is None:
        return None
    first, last = match.groups()
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    elif last:
        start, end = max(0, size - int(last)), size
    else:
        return None
    if start >= size or start == end:
        raise Unsatisfiable
    return Span(start, end)


def if_range_holds(header: str | None, etag: str | None, last_modified: str | None) -> bool:
    """Whether a ranged answer may be given: no If-Range, or one that names the present strong validator."""
    if header is None:
        return True
    if header.startswith(("W/", '"')):
        # The comparison is the strong one: a weak validator never matches.
        return header == etag and not header.startswith("W/")
    return header == last_modified
