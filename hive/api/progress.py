"""Watching: the two event streams, dispatched in front of Starlette.

Ten thousand clients wait in them, and a task group, a request object and a middleware stack for each would triple what
one costs. So these take a bare ASGI scope, and what they raise is answered by the gate.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hive import errors
from hive.api.downloads import read_id
from hive.api.services import Services
from hive.auth.principal import principal_of
from hive.streams import sse
from hive.streams.many import MAX_IDS
from hive.streams.stream import end_at_once
from hive.wire.events import ACTIVE

#: Characters of an id that is none which its error shows.
MAX_SHOWN_ID_CHARS = 64


async def progress(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """`GET /v1/models/download/progress?id=`: the stream of one download."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    _check_method(scope)
    download_id = _read_known(query.get("id", [""])[0])
    _check_ticket(scope, {download_id})
    if scope["method"] == "HEAD":
        await _stream_headers()(scope, receive, send)
        return
    asked = sse.read_stream_request(scope["headers"], query)
    if await services.streams(download_id, asked, scope, receive, send):
        return
    if not (
        await services.downloads.bring_back(download_id)
        and await services.streams(download_id, asked, scope, receive, send)
    ):
        raise errors.DownloadNotFound(id=download_id)


async def progress_of_many(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """`GET /v1/downloads/progress`: one stream for all downloads, the active ones, or those named with `id`."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    _check_method(scope)
    wanted = tuple(dict.fromkeys(_read_known(text) for text in query.get("id", [])))
    if len(wanted) > MAX_IDS:
        raise errors.BadRequest(f"A stream names at most {MAX_IDS} downloads.")
    status = query.get("status", [""])[0]
    if status not in ("", "active") or (status and wanted):
        raise errors.BadRequest("Give ids, or status=active, or neither.")
    _check_ticket(scope, wanted)
    if scope["method"] == "HEAD":
        await _stream_headers()(scope, receive, send)
        return
    asked = sse.read_stream_request(scope["headers"], query)
    try:
        await services.many_streams(wanted, ACTIVE if status else None, asked, scope, receive, send)
    except errors.DownloadNotFound:
        if not await services.downloads.bring_back(*wanted):
            raise
        await services.many_streams(wanted, None, asked, scope, receive, send)


async def ask_to_come_back(scope: Scope, send: Send) -> bool:
    """Answer an EventSource that cannot be served now as the streams do: a status would end it for good. False, with
    nothing sent, where the client is none, and may be told by a status.
    """
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    if scope["method"] != "GET" or not sse.read_stream_request(scope["headers"], query).with_ids:
        return False
    await end_at_once(send, with_retry=True)
    return True


def _check_method(scope: Scope) -> None:
    """Raises MethodNotAllowed."""
    if scope["method"] not in ("GET", "HEAD"):
        raise errors.MethodNotAllowed(allow="GET, HEAD")


def _check_ticket(scope: Scope, wanted: Collection[str]) -> None:
    """Let through what the ticket is for, where it is one that names its downloads.

    Raises:
        InvalidApiKey: it is for others.
    """
    allowed = principal_of(scope).downloads
    if allowed is not None and not (wanted and allowed.issuperset(wanted)):
        raise errors.InvalidApiKey("This ticket is for other downloads. Ask for one with POST /v1/tickets.")


def _read_known(text: str) -> str:
    """The id in a query. What is no UUID is no download either: 404, as for every id that nobody knows.

    Raises:
        DownloadNotFound: it is no UUID.
    """
    try:
        return read_id(text)
    except errors.InvalidId:
        raise errors.DownloadNotFound(id=text[:MAX_SHOWN_ID_CHARS]) from None


def _stream_headers() -> Response:
    return Response(status_code=200, headers={name.decode(): value.decode() for name, value in sse.HEADERS})
