"""What people do to a download: cancel, pause, resume, retry.

Each looks at the record and does what fits its state; the scripts refuse when it changed hands meanwhile, and then it
is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hive import errors
from hive.api.bodies import JsonResponse, read_body
from hive.api.downloads import Token, find, started, view
from hive.api.services import services
from hive.provisioner import Wish, read_ref
from hive.record import Record, cancelled_event, requeued_event

#: How often a change is tried again when the download changes hands meanwhile.
MAX_TRIES = 5


class RetryRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a retry; may be left out. The first request's token is not kept."""

    hf_token: Token | None = None


async def cancel(request: Request) -> Response:
    """`DELETE /v1/downloads/{id}`: ends a waiting download at once, and asks the worker of a running one to end it."""
    parts = services(request)

    def attempt(record: Record) -> bool:
        if record.state == "running":
            return parts.tracker.leave_word(record, "cancel")
        return parts.tracker.end_from_outside(record, "cancelled", cancelled_event(record))

    return await _change(request, attempt)


async def pause(request: Request) -> Response:
    """`POST /v1/downloads/{id}/pause`: sets a waiting download aside at once, a running one soon."""
    parts = services(request)

    def attempt(record: Record) -> bool:
        if record.state == "paused":
            return True
        if record.state == "running":
            return parts.tracker.leave_word(record, "pause")
        event = requeued_event(record, "Paused. Resume it to go on.", "paused")
        return parts.tracker.release(record, event, counts=False, to="paused") is not None

    return await _change(request, attempt)


async def resume(request: Request) -> Response:
    """`POST /v1/downloads/{id}/resume`: a paused download waits for a worker again, and goes on from what it has."""
    parts = services(request)

    def attempt(record: Record) -> bool:
        if record.state == "running" and record.control == "pause":
            return parts.tracker.leave_word(record, "")
        if record.state != "paused":
            return True
        number = parts.tracker.release(record, requeued_event(record, None, "queued"), counts=False)
        if number is not None:
            parts.queue.enqueue(record.id, number)
        return number is not None

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
    asked = record.request
    limit = asked.max_bytes_per_second
    wish = Wish(read_ref(asked.ref), asked.include, asked.exclude, asked.update, asked.sha256, body.hf_token, limit)
    on_disk = await run_in_threadpool(parts.provisioner.look, wish)
    made = await parts.commands.run(parts.provisioner.start, wish, on_disk, record.id)
    return started(made)


async def _change(request: Request, attempt: Callable[[Record], bool]) -> Response:
    """Do `attempt` on the record as it is, again when it changed hands meanwhile; answers 202 with what came of it."""
    parts = services(request)
    for _ in range(MAX_TRIES):
        record = await find(request)
        if record.is_terminal:
            raise errors.DownloadEnded(status=record.status)
        if await parts.commands.run(attempt, record):
            return JsonResponse(view(await find(request)), status_code=202)
    raise errors.Conflict("The download is changing hands just now. Try again.")
