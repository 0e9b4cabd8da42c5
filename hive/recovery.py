"""What becomes of a download whose worker is gone: the next attempt, or the end. One place, for the reaper and for
the worker's parent.

A death counts against the limit only when the attempt brought no new byte, so that a flaky machine can carry a
terabyte home in a hundred attempts and a file that kills every worker cannot go round for ever.
"""

from __future__ import annotations

import logging

from hive import errors
from hive.jobqueue import JobQueue
from hive.record import Record, cancelled_event, requeued_event
from hive.tracker import DownloadTracker
from hive.wire import events

log = logging.getLogger("hive.recovery")


def take_over(
    tracker: DownloadTracker, queue: JobQueue, record: Record, *, max_attempts: int, expired_only: bool, reason: str
) -> bool:
    """End a running download or queue its next attempt; False when it changed hands since `record` was read.

    `expired_only` lets the scripts refuse while the lease still runs: for whoever only suspects that the worker is
    dead.
    """
    if record.control == "cancel":
        ended = tracker.end_from_outside(record, "cancelled", cancelled_event(record), expired_only=expired_only)
        return ended and _say(logging.INFO, "cancelled", record)
    if record.bytes_done <= record.bytes_at_claim and record.stalls + 1 >= max_attempts:
        lost = errors.WorkerLost()
        end = events.Error(message=lost.message, code=lost.code, status="failed", attempt=record.attempt)
        ended = tracker.end_from_outside(record, "failed", end, expired_only=expired_only)
        return ended and _say(logging.ERROR, "failed", record, code=lost.code, reason=lost.message)
    if record.control == "pause":
        event = requeued_event(record, None, "paused")
        paused = tracker.release(record, event, counts=True, expired_only=expired_only, to="paused") is not None
        return paused and _say(logging.INFO, "paused", record)
    attempt = tracker.release(record, requeued_event(record, reason), counts=True, expired_only=expired_only)
    if attempt is None:
        return False
    _say(logging.WARNING, "recovered", record, reason=reason)
    queue.enqueue(record.id, attempt)
    return True


def _say(level: int, message: str, record: Record, **more: str) -> bool:
    """One line of the download's life (docs/logs.md), of the attempt whose worker is gone; always True."""
    ids = {"download_id": record.id, "attempt": record.attempt, "request_id": record.request_id}
    log.log(level, message, extra={"fields": {**ids, "worker": record.worker, **more}})
    return True
