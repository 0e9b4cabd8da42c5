"""A file at a URL, whichever origin serves it, and the answer to a GET or HEAD for it."""

from dataclasses import dataclass
from email.utils import format_datetime
from http import HTTPStatus
from urllib.parse import quote

from tests.hub.content import Content, ListedFile
from tests.hub.messages import Body, Headers, Reply, Request, text_reply, whole
from tests.hub.ranges import Unsatisfiable, if_range_holds, requested_span
from tests.hub.repo import FIRST_COMMIT_AT

#: The date of everything that no test has changed.
LAST_MODIFIED = format_datetime(FIRST_COMMIT_AT, usegmt=True)


@dataclass(frozen=True)
class Resource:
    """What a URL serves: the content, its validators, and how far the server can be relied on."""

    content: Content
    #: As in the header: quoted, or W/"..." for a weak one; None sends none.
    etag: str | None = None
    last_modified: str | None = LAST_MODIFIED
    #: Whether Range is honoured; a server that does not says `Accept-Ranges: none` or nothing.
    ranges: bool = True
    #: Whether Content-Length is sent; without, the body is chunked.
    length: bool = True
    #: Whether HEAD is answered (some signed URLs answer 403).
    head: bool = True
    disposition: str | None = None
    encoding: str | None = None
    content_type: str = "application/octet-stream"
    headers: tuple[tuple[str, str], ...] = ()


def answer(request: Request, resource: Resource) -> Reply:
    """The reply to a GET or HEAD, with Range and If-Range looked at."""
    if isinstance(resource.content, ListedFile):
        return text_reply(HTTPStatus.NOT_IMPLEMENTED, "this file is listed and never served")
    if request.method == "HEAD" and not resource.head:
        return text_reply(HTTPStatus.FORBIDDEN, "no HEAD here")
    size = resource.content.size
    headers = _headers(resource)
    wanted = request.headers.get("range")
    if not resource.ranges or request.method == "HEAD":
        wanted = None
    if not if_range_holds(request.headers.get("if-range"), resource.etag, resource.last_modified):
        wanted = None
    try:
        span = requested_span(wanted, size)
    except Unsatisfiable:
        return text_reply(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "", [("Content-Range", f"bytes */{size}")])
    if span is None:
        body = whole(resource.content)
        body.declared_length = size if resource.length else None
        return Reply(HTTPStatus.OK, headers, body)
    length = span.end - span.start
    body = Body(resource.content, span.start, span.end, size, length if resource.length else None)
    return Reply(HTTPStatus.PARTIAL_CONTENT, headers, body)


def disposition(path: str, kind: str = "inline") -> str:
    """The Content-Disposition that the Hub gives to a file: its name twice, once for old clients."""
    name = quote(path.rpartition("/")[2])
    return f"{kind}; filename*=UTF-8''{name}; filename=\"{name}\";"


def _headers(resource: Resource) -> Headers:
    optional = {
        "ETag": resource.etag,
        "Last-Modified": resource.last_modified,
        "Content-Disposition": resource.disposition,
        "Content-Encoding": resource.encoding,
        "Accept-Ranges": "bytes" if resource.ranges else None,
    }
    present = [(name, value) for name, value in optional.items() if value is not None]
    return [("Content-Type", resource.content_type), *present, *resource.headers]
