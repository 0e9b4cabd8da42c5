"""The events that hive itself makes of a download: when it is made, changes hands, or ends without a worker's word.

What a worker sees while it fetches, its reporter tells (workers/reporter.py). Everything else that a stream ever
carries is made here, so that one state has one wording.
"""

from __future__ import annotations

import time

import msgspec

from hive import errors
from hive.downloads.record import Record
from hive.errors import HiveError
from hive.wire import events
from hive.wire.events import ActiveStatus, Complete, Downloading, Error
from hive.wire.jobs import Priority

#: What a download says that came back after Redis lost its data.
RESTORED_MESSAGE = "Redis lost its data; the download goes on from what is on the disk."
#: What one says that a command brought while no server ran, and that is not on the disk any more.
DELETED_MESSAGE = "A hive pull brought it while no server ran, and it has been deleted since."
#: What a paused one says.
PAUSED_MESSAGE = "Paused. Resume it to go on."

_NOTHING_YET = Downloading(bytes_downloaded=0, bytes_total=0, speed_mbps=0.0)


def first_event(priority: Priority) -> Downloading:
    """Before any worker has it."""
    return msgspec.structs.replace(_NOTHING_YET, status="queued", attempt=1, priority=events.shown(priority))


def on_disk_event(local_path: str, bytes_total: int, files_total: int, note: str | None = None) -> Complete:
    """The one event of a model that was on the disk when it was asked for; `note` is what people should know of it."""
    return Complete(
        local_path=local_path, status="complete", bytes_total=bytes_total, files_total=files_total, message=note
    )


def claimed_event(record: Record) -> Downloading:
    """When a worker has taken it: the progress of earlier attempts, and that it resolves."""
    return msgspec.structs.replace(
        _progress_of(record),
        status="resolving",
        attempt=record.attempt,
        priority=events.shown(record.priority),
        message=None,
    )


def resolved_event(record: Record, name: str, bytes_total: int, files_total: int) -> Downloading:
    """While it waits, when it is known what it will bring."""
    last = _progress_of(record)
    return msgspec.structs.replace(
        last,
        name=name or None,
        bytes_total=max(bytes_total, last.bytes_downloaded),
        files_total=files_total or None,
    )


def requeued_event(record: Record, message: str | None, status: ActiveStatus = "retrying") -> Downloading:
    """When it goes back to the queue, or aside (`paused`): the progress so far, no speed, and the number of the next
    attempt.
    """
    return msgspec.structs.replace(
        _progress_of(record),
        status=status,
        attempt=record.attempt + 1,
        speed_mbps=0.0,
        bytes_per_second=None,
        eta_seconds=None,
        files=(),
        priority=events.shown(record.priority),
        message=message,
    )


def paused_event(record: Record) -> Downloading:
    """When a person has set it aside."""
    return requeued_event(record, PAUSED_MESSAGE, "paused")


def restored_event(
    status: ActiveStatus, attempt: int, priority: Priority, bytes_done: int, bytes_total: int
) -> Downloading:
    """When it comes back from the intent log."""
    return msgspec.structs.replace(
        _NOTHING_YET,
        status=status,
        attempt=attempt,
        priority=events.shown(priority),
        bytes_downloaded=bytes_done,
        bytes_total=bytes_total,
        message=PAUSED_MESSAGE if status == "paused" else RESTORED_MESSAGE,
    )


def cancelled_event(record: Record, message: str | None = None) -> Error:
    """The end of one that somebody cancelled; `message` where there is more to say."""
    last = record.last_event
    done = last.bytes_downloaded if isinstance(last, Downloading) else None
    error = errors.Cancelled()
    return Error(
        message=message or error.message,
        code=error.code,
        status="cancelled",
        bytes_downloaded=done,
        attempt=record.attempt,
    )


def given_up(record: Record) -> Record:
    """A download as it looks to the one who has just given up a share in it: cancelled. It goes on for the others."""
    now_ms, event = int(time.time() * 1000), events.encode(cancelled_event(record))
    return msgspec.structs.replace(
        record, state="cancelled", status="cancelled", event=event, updated_ms=now_ms, ended_ms=now_ms
    )


def lost_event(record: Record) -> Error:
    """The end of one that killed too many workers."""
    lost = errors.WorkerLost()
    return Error(message=lost.message, code=lost.code, status="failed", attempt=record.attempt)


def failed_event(error: HiveError, attempt: int, figures: Downloading) -> Error:
    """The end of one that a worker could not bring; `figures` say how far it was."""
    return Error(
        message=events.shorten(error.message),
        code=error.code,
        status="failed",
        details=error.details or None,
        bytes_downloaded=figures.bytes_downloaded,
        bytes_total=figures.bytes_total,
        attempt=attempt,
    )


def _progress_of(record: Record) -> Downloading:
    last = record.last_event
    return last if isinstance(last, Downloading) else _NOTHING_YET
