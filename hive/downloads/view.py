"""A record as clients see it: the answer of the download routes, and what a webhook carries."""

from __future__ import annotations

from typing import cast

import msgspec
from msgspec import UNSET

from hive.auth.principal import ANONYMOUS, Principal
from hive.downloads.admission import QueuePlace
from hive.downloads.record import Record
from hive.wire import events
from hive.wire.api import Download


def view(record: Record, principal: Principal = ANONYMOUS, place: QueuePlace | None = None) -> Download:
    """The download, as this principal may see it; `place` is where in the queue it waits, if it does. Times are unix
    seconds, durations seconds; `progress` is the latest event, its JSON as it is.
    """
    return Download(
        id=record.id,
        model_ref=record.ref,
        status=record.status,
        local_path=record.local_path or None,
        priority=record.priority,
        attempt=record.attempt,
        retry_of=(record.retry_of or None) if principal.sees({record.maker} - {""}) else None,
        worker=record.worker or None,
        created_at=_seconds(record.created_ms),
        started_at=_seconds(record.started_ms),
        updated_at=_seconds(record.updated_ms),
        ended_at=_seconds(record.ended_ms),
        duration_seconds=_seconds(max(0, record.ended_ms - record.created_ms)) if record.is_terminal else None,
        active_seconds=record.active_ms / 1000,
        bytes_received=record.bytes_received,
        bytes_refetched=record.bytes_refetched,
        average_bytes_per_second=record.bytes_received * 1000 // record.active_ms if record.active_ms else None,
        reason=_reason(record),
        name=record.name or UNSET,
        ahead=place.ahead if place else UNSET,
        waiting_for=place.waiting_for if place else UNSET,
        origin=record.request.origin if record.request.origin != "api" else UNSET,
        # Not decoded: fields of a newer worker's event, which this process does not know, go along.
        progress=cast(events.Event, msgspec.Raw(record.event)),
    )


def _reason(record: Record) -> str | None:
    """Why a download ended: the code of its error, `COMPLETE` or `ON_DISK`; None while it goes on."""
    if not record.is_terminal:
        return None
    end = record.last_event
    if isinstance(end, events.Error):
        return end.code
    return "COMPLETE" if record.started_ms else "ON_DISK"


def _seconds(milliseconds: int) -> float | None:
    return milliseconds / 1000 if milliseconds else None
