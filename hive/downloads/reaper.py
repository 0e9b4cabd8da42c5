"""The reaper: sees that every download goes on or ends, whoever died.

Problem: a worker that is killed says nothing; RQ notices after minutes, or never (docs/failures.md). The easy way,
RQ's maintenance, runs only when a worker idles. So every HTTP process sweeps twice a second: a lease that ran out
goes back to the queue as the next attempt, or to its end when too many attempts in a row brought no byte; a queued
record without a job gets one; an urgent download that nobody takes gets the place of one of low priority. Every step
is a script that proves nothing changed hands since it looked, so any number of reapers may sweep at once.

After an outage of Redis all leases look expired, though the workers are alive and were only kept from renewing. So
the reaper holds off for one lease time after any error and after Redis came back as another process.

`take_over` is what becomes of a download whose worker is gone, for the reaper and for the worker's parent. A death
counts against the limit only when the attempt brought no new byte, so that a flaky machine can carry a terabyte home
in a hundred attempts and a file that kills every worker cannot go round for ever.
"""

from __future__ import annotations

import logging
import time

import redis

from hive import errors
from hive.downloads.context import DownloadContext
from hive.downloads.events import cancelled_event, lost_event, requeued_event
from hive.downloads.record import Record
from hive.redis.info import read_info, word

log = logging.getLogger("hive.downloads.reaper")

#: Seconds between two sweeps.
SWEEP_INTERVAL_S = 0.5
#: The most tickets put in by one sweep.
MAX_NEW_TICKETS = 100
#: Seconds that an urgent download waits for a worker that is free, before one is asked to give up what it does, and
#: before another one is asked.
URGENT_PATIENCE_S, ASK_AGAIN_S = 1.0, 5.0
#: Seconds between two looks for expired records in the list, and how many of the oldest are looked at.
FORGET_INTERVAL_S = 60.0
FORGET_AT_ONCE = 1000

#: Seconds between two steps through the index by state, once it is whole.
INDEX_INTERVAL_S = 10.0


class Reaper:
    """One sweep at a time; blocking. The HTTP process calls `sweep` every `SWEEP_INTERVAL_S`."""

    def __init__(self, context: DownloadContext) -> None:
        self._context = context
        self._lease_s = context.settings.lease_s
        self._hold_until = time.monotonic() + self._lease_s
        self._run_id: str | None = None
        self._short_before = 0
        self._urgent_since: dict[str, float] = {}
        self._next_forgetting = 0.0
        self._next_index, self._index_cursor = 0.0, "0"

    def sweep(self) -> None:
        """Look once, and put right what is found. Raises redis-py's errors, after noting that one came."""
        try:
            if self._is_another_redis():
                self.hold_off()
            if time.monotonic() >= self._hold_until:
                for download_id in self._context.claims.expired_leases():
                    self._take_over(download_id)
            self._replace_lost_tickets()
            self._make_room()
            self._keep_index()
            if time.monotonic() >= self._next_forgetting:
                self._next_forgetting = time.monotonic() + FORGET_INTERVAL_S
                self.forget_expired()
        except redis.exceptions.RedisError:
            self.hold_off()
            raise

    def forget_expired(self) -> None:
        """Take the downloads whose records have expired from the list, which would grow for ever otherwise."""
        self._context.tracker.forget_expired(FORGET_AT_ONCE)

    def hold_off(self) -> None:
        """Take no lease for expired before its worker had the time to renew it."""
        self._hold_until = time.monotonic() + self._lease_s

    def _is_another_redis(self) -> bool:
        """Whether Redis is another process than at the last look. Where INFO may not be asked nobody knows, and what
        remains is to hold off after errors.
        """
        try:
            run_id = word(read_info(self._context.client, "server"), "run_id")
        except redis.exceptions.ResponseError as error:
            log.debug("INFO is refused; going on without", extra={"fields": {"reason": str(error)}})
            return False
        changed = bool(self._run_id and run_id) and run_id != self._run_id
        self._run_id = run_id or self._run_id
        return changed

    def _take_over(self, download_id: str) -> None:
        record = self._context.tracker.read(download_id)
        if record is None or record.is_terminal:
            self._context.claims.forget_lease(download_id)
            return
        take_over(self._context, record, expired_only=True, reason="The worker fell silent; another one goes on.")

    def _replace_lost_tickets(self) -> None:
        """Put in tickets where there are fewer than downloads that could be claimed: a worker died with one in hand,
        or the process that made the record before it put one in.

        A worker that has just taken a ticket has not claimed yet, so what counts is what two sweeps have seen.
        """
        admission, queue = self._context.admission, self._context.queue
        short = admission.claimable() - queue.tickets()
        missing, self._short_before = min(short, self._short_before, MAX_NEW_TICKETS), short
        if missing > 0:
            log.warning("tickets were lost; putting in new ones", extra={"fields": {"tickets": missing}})
            queue.add_tickets(admission.pending(limit=missing))

    def _keep_index(self) -> None:
        """Put into the index by state what a version of hive made or moved that does not keep it: at once where there
        is none yet, and a step now and then in case such a version still runs.
        """
        now = time.monotonic()
        if now >= self._next_index or not self._context.tracker.has_index():
            self._next_index = now + INDEX_INTERVAL_S
            self._index_cursor = self._context.tracker.build_index(self._index_cursor)

    def _make_room(self) -> None:
        """Let an urgent download that found no free worker have that of one of low priority."""
        now = time.monotonic()
        self._urgent_since = {i: self._urgent_since.get(i, now) for i in self._context.admission.urgent()}
        for download_id, since in self._urgent_since.items():
            if now - since >= URGENT_PATIENCE_S and make_room(self._context, download_id, ASK_AGAIN_S):
                log.info("asked a worker to make room", extra={"fields": {"download_id": download_id}})


def make_room(context: DownloadContext, download_id: str, patience_s: float) -> bool:
    """Ask the worker of the youngest running download of low priority to give it back, for the sake of this one; False
    where there is none, or one was asked less than `patience_s` ago.
    """
    if not context.admission.may_ask(download_id, patience_s):
        return False
    running = context.tracker.read_all(context.admission.running())
    low = [r for r in running if r.priority == "low" and r.state == "running" and not r.control]
    low.sort(key=lambda record: record.claimed_ms, reverse=True)
    return any(context.tracker.request_control(record, "yield") for record in low)


def take_over(context: DownloadContext, record: Record, *, expired_only: bool, reason: str) -> bool:
    """End a running download or queue its next attempt; False when it changed hands since `record` was read.

    `expired_only` lets the scripts refuse while the lease still runs: for whoever only suspects that the worker is
    dead.
    """
    claims = context.claims
    if record.control == "cancel":
        ended = claims.finish_unclaimed(record, "cancelled", cancelled_event(record), expired_only=expired_only)
        return ended and _say(logging.INFO, "cancelled", record)
    if record.bytes_done <= record.bytes_at_claim and record.stalls + 1 >= context.settings.max_attempts:
        lost = errors.WorkerLost()
        ended = claims.finish_unclaimed(record, "failed", lost_event(record), expired_only=expired_only)
        return ended and _say(logging.ERROR, "failed", record, code=lost.code, reason=lost.message)
    if record.control == "pause":
        event = requeued_event(record, None, "paused")
        paused = claims.release(record, event, counts=True, expired_only=expired_only, to="paused") is not None
        return paused and _say(logging.INFO, "paused", record)
    attempt = claims.release(record, requeued_event(record, reason), counts=True, expired_only=expired_only)
    if attempt is None:
        return False
    _say(logging.WARNING, "recovered", record, reason=reason)
    context.queue.enqueue(record.id, attempt)
    return True


def _say(level: int, message: str, record: Record, **more: str) -> bool:
    """One line of the download's life (docs/logs.md), of the attempt whose worker is gone; always True."""
    ids = {"download_id": record.id, "attempt": record.attempt, "request_id": record.request_id}
    log.log(level, message, extra={"fields": {**ids, "worker": record.worker, **more}})
    return True
