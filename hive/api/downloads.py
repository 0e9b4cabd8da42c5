"""Downloads: start one, list them, look at one."""

from __future__ import annotations

import base64
import binascii
import re

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from hive import errors, logs
from hive.api.disconnect import while_connected
from hive.api.json import JsonResponse, read_body
from hive.api.services import services_of
from hive.auth.principal import Principal, principal_of
from hive.downloads.asked import checked
from hive.downloads.provisioner import Provisioned, read_ref
from hive.downloads.record import Record
from hive.downloads.tracker import MAX_TIME_MS
from hive.downloads.view import view
from hive.settings import Settings
from hive.streams.longpoll import read_wait
from hive.wire.api import Download, DownloadRequest, Page, PlanRequest, Started
from hive.wire.buckets import allows, not_allowed
from hive.wire.events import ACTIVE, TERMINAL
from hive.wire.refs import MAX_REF_CHARS
from hive.wire.spec import DownloadSpec

#: How many downloads a page of the list has, when not told, and at most.
DEFAULT_LIMIT, MAX_LIMIT = 50, 200

#: Why a file of the server's own machine is not published for everybody who can reach it.
FILES_NOT_ALLOWED = "hive brings files of its own machine into the store only where HIVE_ALLOW_FILE_URLS is set."

_FILTERS = {
    "active": ACTIVE,
    "ended": TERMINAL,
    **{status: frozenset({status}) for status in ACTIVE | TERMINAL},
}


async def create(request: Request) -> Response:
    """`POST /v1/models/download`: 202 for a new or joined download, 200 for a model on disk."""
    body = await read_body(request, DownloadRequest)
    services = services_of(request)
    services.rates.admit_ask(request, webhook=body.webhook_url is not None)
    spec = read_spec(body, services.settings, principal_of(request))._replace(
        max_bytes_per_second=body.max_bytes_per_second, priority=body.priority
    )
    return started(await services.downloads.request(spec, webhook_url=body.webhook_url))


def read_spec(body: PlanRequest, settings: Settings, principal: Principal) -> DownloadSpec:
    """What a request of this principal asks for.

    Raises:
        InvalidModelRef: says what is wrong with the reference.
        UnsafeUrl: a file of the server's machine, or a bucket, which the settings do not allow.
        BadRequest: a digest or a name beside a reference to the Hub, or a name that is none.
    """
    ref = read_ref(body.model_ref, body.revision, settings.hf_endpoint)
    if ref.is_local_file and not settings.allow_file_urls:
        raise errors.UnsafeUrl(FILES_NOT_ALLOWED)
    if ref.url and ref.is_object and not allows(settings.buckets, ref.url):
        raise errors.UnsafeUrl(not_allowed(ref.url))
    spec = DownloadSpec(
        ref,
        include=body.include,
        exclude=body.exclude,
        update=body.update,
        sha256=body.sha256,
        name=body.name,
        hf_token=body.hf_token,
        request_id=logs.bound_field("request_id"),
        owner=principal.owner,
        as_operator=principal.may("admin"),
    )
    return checked(spec)


def started(made: Provisioned) -> Response:
    """The answer to whoever asked for a model."""
    answer = Started(
        download_id=made.download_id,
        local_path=made.local_path,
        joined=made.joined,
        webhook_secret=made.webhook_secret or UNSET,
    )
    return JsonResponse(answer, status_code=200 if made.local_path else 202)


async def index(request: Request) -> Response:
    """`GET /v1/downloads`: newest first, filtered by `status`, in pages; one's own, or for who administers all."""
    services, query, principal = services_of(request), request.query_params, principal_of(request)
    status = query.get("status")
    if status is not None and status not in _FILTERS:
        raise errors.BadRequest(f"'{status[:40]}' is not a status.", allowed=sorted(_FILTERS))
    limit = _read_limit(query.get("limit"))
    cursor = _read_cursor(query["cursor"]) if "cursor" in query else None
    page = await services.commands.run(
        services.tracker.page,
        limit=limit,
        cursor=cursor,
        keep=_FILTERS[status] if status else None,
        principal=principal,
        text=_read_text(query.get("model", "")),
    )
    waiting = [record.id for record in page.records if record.state == "queued"]
    places = await services.commands.run(services.records.admission.places, waiting)
    data = tuple(view(record, principal, places.get(record.id)) for record in page.records)
    return JsonResponse(Page[Download](data=data, next_cursor=_write_cursor(page.cursor)))


async def show(request: Request) -> Response:
    """`GET /v1/downloads/{id}`; with `?wait=30s` when it has ended, or after that time."""
    services, wait_s = services_of(request), read_wait(request.query_params.get("wait"))
    record = await find(request)
    if wait_s and not record.is_terminal:
        with services.long_polls.holding(request):
            await while_connected(request, services.polls.wait(record.id, wait_s, principal_of(request)))
        record = await find(request)
    return await shown(request, record)


async def shown(request: Request, record: Record, status_code: int = 200) -> Response:
    """The answer that a download is, with its place in the queue where it waits there."""
    services = services_of(request)
    waiting = [record.id] if record.state == "queued" else []
    places = await services.commands.run(services.records.admission.places, waiting) if waiting else {}
    return JsonResponse(view(record, principal_of(request), places.get(record.id)), status_code=status_code)


async def find(request: Request) -> Record:
    """The record of the download that the path names.

    Raises:
        InvalidId, DownloadNotFound: there is none, or it is somebody else's.
    """
    return await services_of(request).downloads.find(read_id(request.path_params["id"]), principal_of(request))


_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def read_id(text: str) -> str:
    """The download id in a request, in its canonical form.

    Raises:
        InvalidId: when it is no UUID.
    """
    if not _UUID.fullmatch(text):
        raise errors.InvalidId
    return text.lower()


def _read_limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MAX_LIMIT):
        raise errors.BadRequest(f"'limit' must be a number from 1 to {MAX_LIMIT}.")
    return int(text)


def _read_text(text: str) -> str:
    if len(text) > MAX_REF_CHARS:
        raise errors.BadRequest(f"'model' has more than {MAX_REF_CHARS} characters.")
    return text


def _write_cursor(cursor: tuple[int, str] | None) -> str | None:
    return base64.urlsafe_b64encode(f"{cursor[0]}.{cursor[1]}".encode()).decode() if cursor else None


def _read_cursor(text: str) -> tuple[int, str]:
    try:
        created_ms, _, download_id = base64.urlsafe_b64decode(text.encode()).decode().partition(".")
        if not (created_ms.isdecimal() and int(created_ms) <= MAX_TIME_MS):
            raise ValueError
        return int(created_ms), read_id(download_id)
    except (ValueError, binascii.Error, errors.InvalidId):
        raise errors.BadRequest("'cursor' is not one that this list gave.") from None
