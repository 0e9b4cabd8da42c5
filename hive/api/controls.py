"""What people do to a download: cancel, pause, resume, retry.

Each looks at the record and does what fits its state; the scripts refuse when it changed hands meanwhile, and then it
is looked at again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hive import errors, logs
from hive.api.bodies import JsonResponse, read_body
from hive.api.downloads import Token, WebhookUrl, find, started, view
from hive.api.services import services
from hive.provisioner import Wish, read_ref
from hive.record import Record, cancelled_event, requeued_event
from hive.wire.jobs import Priority

log = logging.getLogger("hive.api.controls")

#: How often a change is tried again when the download changes hands meanwhile.
MAX_TRIES = 5


class PriorityRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `PUT /v1/downloads/{id}/priority`."""

    priority: Priority


class RetryRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a retry; may be left out. The first request's token and webhook are not kept."""

    hf_token: Token | None = None
    webhook_url: WebhookUrl | None = None


async def cancel(request: Request) -> Response:
    """`DELETE /v1/downloads/{id}`: ends a waiting download at once, and asks the worker of a running one to end it;
    with `?purge=true` its partial files go too.
    """
    parts, purge = services(request), _read_flag(request, "purge")
    record = await find(request)
    if not record.is_terminal:
        await parts.books.cancelling(record, purge=purge)

    def attempt(record: Record) -> bool:
        if record.state == "running":
            return parts.tracker.leave_word(record, "cancel") and _say("asked to cancel", record)
        ended = parts.tracker.end_from_outside(record, "cancelled", cancelled_event(record))
        return ended and _say("cancelled", record)

    return await _change(request, attempt)


async def pause(request: Request) -> Response:
    """`POST /v1/downloads/{id}/pause`: sets a waiting download aside at once, a running one soon."""
    parts = services(request)

    def attempt(record: Record) -> bool:
        if record.state == "paused":
            return True
        if record.state == "running":
            return parts.tracker.leave_word(record, "pause") and _say("asked to pause", record)
        event = requeued_event(record, "Paused. Resume it to go on.", "paused")
        paused = parts.tracker.release(record, event, counts=False, to="paused") is not None
        return paused and _say("paused", record)

    return await _change(request, attempt)


async def resume(request: Request) -> Response:
    """`POST /v1/downloads/{id}/resume`: a paused download waits for a worker again, and goes on from what it has."""
    parts = services(request)

    def attempt(record: Record) -> bool:
        if record.state == "running" and record.control == "pause":
            return parts.tracker.leave_word(record, "") and _say("resumed", record)
        if record.state != "paused":
            return True
        number = parts.tracker.release(record, requeued_event(record, None, "queued"), counts=False)
        if number is not None:
            _say("resumed", record, attempt=number)
            parts.queue.enqueue(record.id, number)
        return number is not None

    return await _change(request, attempt)


async def set_priority(request: Request) -> Response:
    """`PUT /v1/downloads/{id}/priority`: a waiting download changes its place in the queue at once."""
    parts = services(request)
    body = await read_body(request, PriorityRequest)

    def attempt(record: Record) -> bool:
        changed = parts.tracker.set_priority(record, body.priority)
        return changed and _say("priority changed", record, priority=body.priority)

    return await _change(request, attempt)


async def retry(request: Request) -> Response:
    """`POST /v1/downloads/{id}/retry`: a new download of what failed or was cancelled; it goes on from what arrived."""
    parts = services(request)
    record = await find(request)
    if not record.is_terminal:
        raise errors.Conflict("The download has not ended; there is nothing to retry.", status=record.status)
    if record.ref.endswith("?..."):
        raise errors.Conflict("The URL had a query, which hive does not keep. Ask with POST /v1/models/download again.")
    body = await read_body(request, RetryRequest) if await request.body() else RetryRequest()
    webhook = parts.webhooks.read(body.webhook_url) if body.webhook_url else None
    asked = record.request
    limit = asked.max_bytes_per_second
    wish = Wish(
        read_ref(asked.ref),
        asked.include,
        asked.exclude,
        asked.update,
        asked.sha256,
        body.hf_token,
        limit,
        record.priority,
        logs.bound_field("request_id"),
    )
    on_disk = await run_in_threadpool(parts.provisioner.look, wish)
    made = await parts.commands.run(parts.provisioner.start, wish, on_disk, record.id)
    if made.entry is not None:
        await parts.books.note(made.entry)
    if webhook is not None:
        await parts.commands.run(parts.webhooks.add, made.download_id, webhook)
    return started(made)


async def _change(request: Request, attempt: Callable[[Record], bool]) -> Response:
    """Do `attempt` on the record as it is, again when it changed hands meanwhile; answers 202 with what came of it."""
    parts = services(request)
    for _ in range(MAX_TRIES):
        record = await find(request)
        if record.is_terminal:
            raise errors.DownloadEnded(status=record.status)
        if await parts.commands.run(attempt, record):
            changed = await find(request)
            await parts.books.changed(changed)
            return JsonResponse(view(changed), status_code=202)
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
