"""What people do to a download: cancel, pause, resume, retry.

Each looks at the record and does what fits its state; the scripts refuse when it changed hands meanwhile, and then it
is looked at again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from hive import errors
from hive.api.downloads import find, read_id, shown, started
from hive.api.json import JsonResponse, read_body
from hive.api.services import services_of
from hive.auth.principal import principal_of
from hive.downloads.events import cancelled_event, given_up, paused_event, requeued_event
from hive.downloads.record import Record
from hive.downloads.tracker import Side
from hive.downloads.view import view
from hive.wire.api import PlaceRequest, PriorityRequest, RetryRequest
from hive.wire.jobs import RANKS

log = logging.getLogger("hive.api.controls")

#: Why one of several owners cannot hold up the others.
SHARED = "Others wait for this download too, so it cannot be paused. Cancel it: it goes on for the others."
#: Nor move it: its place is the best of what its owners wish.
SHARED_PLACE = "Others wait for this download too, so it cannot be moved. Ask for it with the priority that you want."
#: What only one that waits has.
NO_PLACE = "Only what waits in the queue can be moved there, to before or behind another one that waits."
#: How often a change is tried again when the download changes hands meanwhile.
MAX_TRIES = 5


async def cancel(request: Request) -> Response:
    """`DELETE /v1/downloads/{id}`: ends a waiting download at once, and asks the worker of a running one to end it;
    with `?purge=true` its partial files go too. One that others share goes on for them.
    """
    services, purge = services_of(request), _read_flag(request, "purge")
    record = await find(request)
    if not record.is_terminal and await services.downloads.leave(record, principal_of(request)):
        _say("share given up", record)
        return JsonResponse(view(given_up(record), principal_of(request)), status_code=202)
    if not record.is_terminal:
        await services.downloads.cancelling(record, purge=purge)

    def attempt(record: Record) -> bool:
        if record.state == "running":
            return services.tracker.request_control(record, "cancel") and _say("asked to cancel", record)
        ended = services.records.claims.finish_unclaimed(record, "cancelled", cancelled_event(record))
        return ended and _say("cancelled", record)

    return await _change(request, attempt)


async def pause(request: Request) -> Response:
    """`POST /v1/downloads/{id}/pause`: sets a waiting download aside at once, a running one soon."""
    services = services_of(request)

    principal = principal_of(request)

    def attempt(record: Record) -> bool:
        if record.is_shared and not principal.may("admin"):
            raise errors.Conflict(SHARED)
        if record.state == "paused":
            return True
        if record.state == "running":
            return services.tracker.request_control(record, "pause") and _say("asked to pause", record)
        paused = services.records.claims.release(record, paused_event(record), counts=False, to="paused") is not None
        return paused and _say("paused", record)

    return await _change(request, attempt)


async def resume(request: Request) -> Response:
    """`POST /v1/downloads/{id}/resume`: a paused download waits for a worker again, and goes on from what it has."""
    services = services_of(request)

    def attempt(record: Record) -> bool:
        if record.state == "running" and record.control == "pause":
            return services.tracker.request_control(record, "") and _say("resumed", record)
        if record.state != "paused":
            return True
        number = services.records.claims.release(record, requeued_event(record, None, "queued"), counts=False)
        if number is not None:
            _say("resumed", record, attempt=number)
            services.records.queue.enqueue(record.id, number)
        return number is not None

    return await _change(request, attempt)


async def set_priority(request: Request) -> Response:
    """`PUT /v1/downloads/{id}/priority`: a waiting download changes its place in the queue at once."""
    services, principal = services_of(request), principal_of(request)
    body = await read_body(request, PriorityRequest)

    def attempt(record: Record) -> bool:
        lower = RANKS[body.priority] > RANKS[record.priority]
        if lower and record.is_shared and not principal.may("admin"):
            return True  # the most urgent wish of all counts
        changed = services.tracker.set_priority(record, body.priority)
        return changed and _say("priority changed", record, priority=body.priority)

    return await _change(request, attempt)


async def move(request: Request) -> Response:
    """`PUT /v1/downloads/{id}/place`: a waiting download gets the place before or behind another one."""
    services, principal = services_of(request), principal_of(request)
    body = await read_body(request, PlaceRequest)
    if (body.before is None) == (body.behind is None):
        raise errors.BadRequest("One of 'before' and 'behind' names the other download.")
    side: Side = "before" if body.behind is None else "behind"
    await find(request)  # what the path names is answered for first
    other = await services.downloads.find(read_id(body.before or body.behind or ""), principal)

    def attempt(record: Record) -> bool:
        if record.is_shared and not principal.may("admin"):
            raise errors.Conflict(SHARED_PLACE)
        moved = services.tracker.move(record, other, side)
        if moved is None:
            raise errors.Conflict(NO_PLACE)
        return moved and _say("moved in the queue", record, priority=other.priority)

    return await _change(request, attempt)


async def retry(request: Request) -> Response:
    """`POST /v1/downloads/{id}/retry`: a new download of what failed or was cancelled; it goes on from what arrived."""
    record = await find(request)
    body = await read_body(request, RetryRequest, RetryRequest())
    services_of(request).rates.admit_ask(request, webhook=body.webhook_url is not None)
    made = await services_of(request).downloads.retry(
        record, principal_of(request), hf_token=body.hf_token, webhook_url=body.webhook_url
    )
    return started(made)


async def _change(request: Request, attempt: Callable[[Record], bool]) -> Response:
    """Do `attempt` on the record as it is, again when it changed hands meanwhile; answers 202 with what came of it."""
    services = services_of(request)
    for _ in range(MAX_TRIES):
        record = await find(request)
        if record.is_terminal:
            raise errors.DownloadEnded(status=record.status)
        if await services.commands.run(attempt, record):
            changed = await find(request)
            await services.downloads.changed(changed)
            return await shown(request, changed, status_code=202)
    raise errors.Conflict("The download is changing hands just now. Try again.")


def _read_flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise errors.BadRequest(f"'{name}' is true or false.")
    return text == "true"


def _say(message: str, record: Record, **more: str | int) -> bool:
    """One line of the download's life (docs/logs.md), under the id of the request that is being served; always True."""
    log.info(message, extra={"fields": {"download_id": record.id, "attempt": record.attempt, **more}})
    return True
