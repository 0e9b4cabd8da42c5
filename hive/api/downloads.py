"""Downloads: start one, watch it, list them."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from typing import Annotated
from urllib.parse import parse_qs

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hive import errors, logs
from hive.api.json import BytesPerSecond, JsonResponse, error_response, read_body
from hive.api.services import Services, services_of
from hive.downloads.provisioner import Provisioned, read_ref
from hive.downloads.record import TERMINAL_STATES, Record
from hive.downloads.view import view
from hive.streams import sse
from hive.streams.longpoll import read_wait, wait_for_end
from hive.streams.many import MAX_IDS
from hive.webhooks.outbox import MAX_URL_CHARS
from hive.wire.jobs import Priority
from hive.wire.refs import MAX_REF_CHARS
from hive.wire.spec import DownloadSpec

#: Where a download is watched.
PROGRESS_PATH = "/v1/models/download/progress"
#: Where many are.
MANY_PATH = "/v1/downloads/progress"
#: How many downloads a page of the list has, when not told, and at most.
DEFAULT_LIMIT, MAX_LIMIT = 50, 200

ACTIVE = frozenset({"queued", "resolving", "downloading", "verifying", "paused", "retrying"})
_FILTERS = {
    "active": ACTIVE,
    "ended": TERMINAL_STATES,
    **{status: frozenset({status}) for status in ACTIVE | TERMINAL_STATES},
}
#: A token of the Hub, as a request may bring it.
Token = Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^[\x21-\x7e]+$")]
#: Where the end of a download is to be told.
WebhookUrl = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_URL_CHARS)]
_Glob = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Globs = Annotated[tuple[_Glob, ...], msgspec.Meta(max_length=64)]


class DownloadRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/models/download`."""

    model_ref: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_REF_CHARS)]
    revision: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    include: _Globs = ()
    exclude: _Globs = ()
    update: bool = False
    hf_token: Token | None = None
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$")] | None = None
    max_bytes_per_second: BytesPerSecond | None = None
    priority: Priority = "normal"
    webhook_url: WebhookUrl | None = None


async def create(request: Request) -> Response:
    """`POST /v1/models/download`: 202 for a new or joined download, 200 for a model on disk."""
    services = services_of(request)
    body = await read_body(request, DownloadRequest)
    ref = read_ref(body.model_ref, body.revision)
    if body.sha256 and ref.kind != "url":
        raise errors.BadRequest("'sha256' is for plain URLs; the Hub names the digests of its files itself.")
    sha256 = body.sha256.lower() if body.sha256 else None
    webhook = services.webhooks.read(body.webhook_url) if body.webhook_url else None
    limit = body.max_bytes_per_second
    spec = DownloadSpec(
        ref,
        body.include,
        body.exclude,
        body.update,
        sha256,
        body.hf_token,
        limit,
        body.priority,
        logs.bound_field("request_id"),
    )
    on_disk = await run_in_threadpool(services.provisioner.look, spec)
    made = await services.commands.run(services.provisioner.start, spec, on_disk)
    if made.intent is not None:
        await services.books.note(made.intent)
    if webhook is not None:
        # Whoever gets no answer because this process died in between asks again, and joins.
        await services.commands.run(services.webhooks.add, made.download_id, webhook)
    return started(made)


def started(made: Provisioned) -> Response:
    """The answer to whoever asked for a model."""
    return JsonResponse(
        {"download_id": made.download_id, "local_path": made.local_path, "joined": made.joined},
        status_code=200 if made.local_path else 202,
    )


async def progress(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """`GET /v1/models/download/progress?id=`: dispatched in front of Starlette, which would cost a task group per
    client.
    """
    query = parse_qs(scope["query_string"].decode("latin-1"))
    try:
        if scope["method"] not in ("GET", "HEAD"):
            raise errors.MethodNotAllowed(allow="GET, HEAD")
        download_id = read_id(query.get("id", [""])[0])
        if scope["method"] == "HEAD":
            await _stream_headers()(scope, receive, send)
            return
        last_seen = (
            dict(scope["headers"]).get(b"last-event-id", b"").decode("latin-1") or query.get("last_event_id", [""])[0]
        )
        if await services.streams(download_id, last_seen or None, scope, receive, send):
            return
        if not (
            await services.books.bring_back(download_id)
            and await services.streams(download_id, last_seen or None, scope, receive, send)
        ):
            raise errors.DownloadNotFound(id=download_id)
    except errors.HiveError as error:
        await error_response(error)(scope, receive, send)


async def progress_of_many(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """`GET /v1/downloads/progress`: one stream for all downloads, the active ones, or those named with `id`."""
    query = parse_qs(scope["query_string"].decode("latin-1"))
    try:
        if scope["method"] not in ("GET", "HEAD"):
            raise errors.MethodNotAllowed(allow="GET, HEAD")
        wanted = tuple(dict.fromkeys(read_id(text) for text in query.get("id", [])))
        if len(wanted) > MAX_IDS:
            raise errors.BadRequest(f"A stream names at most {MAX_IDS} downloads.")
        status = query.get("status", [""])[0]
        if status not in ("", "active") or (status and wanted):
            raise errors.BadRequest("Give ids, or status=active, or neither.")
        if scope["method"] == "HEAD":
            await _stream_headers()(scope, receive, send)
            return
        try:
            await services.many_streams(wanted, ACTIVE if status else None, scope, receive, send)
        except errors.DownloadNotFound:
            if not await services.books.bring_back(*wanted):
                raise
            await services.many_streams(wanted, None, scope, receive, send)
    except errors.HiveError as error:
        await error_response(error)(scope, receive, send)


def _stream_headers() -> Response:
    return Response(status_code=200, headers={name.decode(): value.decode() for name, value in sse.HEADERS})


async def index(request: Request) -> Response:
    """`GET /v1/downloads`: newest first, filtered by `status`, in pages."""
    services, query = services_of(request), request.query_params
    status = query.get("status")
    if status is not None and status not in _FILTERS:
        raise errors.BadRequest(f"'{status[:40]}' is not a status.", allowed=sorted(_FILTERS))
    limit = _read_limit(query.get("limit"))
    cursor = _read_cursor(query["cursor"]) if "cursor" in query else None
    page = await services.commands.run(
        services.tracker.page, limit=limit, cursor=cursor, keep=_FILTERS[status] if status else None
    )
    return JsonResponse(
        {"object": "list", "data": [view(r) for r in page.records], "next_cursor": _write_cursor(page.cursor)}
    )


async def show(request: Request) -> Response:
    """`GET /v1/downloads/{id}`; with `?wait=30s` when it has ended, or after that time."""
    services, wait_s = services_of(request), read_wait(request.query_params.get("wait"))
    record = await find(request)
    if wait_s and not record.is_terminal:
        await wait_for_end(services.fanout, record.id, wait_s)
        record = await find(request)
    return JsonResponse(view(record))


async def find(request: Request) -> Record:
    """The record of the download that the path names.

    Raises:
        InvalidId, DownloadNotFound: there is none.
    """
    services = services_of(request)
    download_id = read_id(request.path_params["id"])
    record = await services.commands.run(services.tracker.read, download_id)
    if record is None and await services.books.bring_back(download_id):
        record = await services.commands.run(services.tracker.read, download_id)
    if record is None:
        raise errors.DownloadNotFound(id=download_id)
    return record


_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def read_id(text: str) -> str:
    """The download id in a request, in its canonical form.

    Raises:
        InvalidId: when it is no UUID.
    """
    if not _UUID.fullmatch(text):
        raise errors.InvalidId
    return str(uuid.UUID(text))


def _read_limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MAX_LIMIT):
        raise errors.BadRequest(f"'limit' must be a number from 1 to {MAX_LIMIT}.")
    return int(text)


def _write_cursor(cursor: tuple[int, str] | None) -> str | None:
    return base64.urlsafe_b64encode(f"{cursor[0]}.{cursor[1]}".encode()).decode() if cursor else None


def _read_cursor(text: str) -> tuple[int, str]:
    try:
        created_ms, _, download_id = base64.urlsafe_b64decode(text.encode()).decode().partition(".")
        return int(created_ms), read_id(download_id)
    except (ValueError, binascii.Error, errors.InvalidId):
        raise errors.BadRequest("'cursor' is not one that this list gave.") from None
