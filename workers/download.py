"""One download, as a worker runs it: claim -> resolve -> reserve -> transfer -> verify -> publish -> end.

Whoever may interfere has one way each out of the story: a person cancels (an `error` event with the code CANCELLED),
the machine asks to stop (the download goes back to the queue and resumes elsewhere), the lease is lost (this process
falls silent: the files and the end belong to somebody else), something fails (an `error` event with a code and what
to do).
"""

from __future__ import annotations

import contextlib
import logging
import os
import time

import msgspec
from redis.exceptions import RedisError

from hive import errors, logs
from hive.disk_errors import system_error
from hive.downloads.context import DownloadContext
from hive.downloads.events import (
    cancelled_event,
    claimed_event,
    failed_event,
    on_disk_event,
    paused_event,
    requeued_event,
)
from hive.downloads.intents import realm_of
from hive.downloads.record import Record
from hive.downloads.registry import worker_registry
from hive.net.egress import Network
from hive.redis.client import connect
from hive.redis.errors import is_redis_error
from hive.secrets import Credentials, SecretKeyError, purpose_of, unseal
from hive.settings import Settings
from hive.store.catalog import ModelCatalog, OnDisk
from hive.store.filesystem import nearest, partial_place
from hive.store.partial_lock import PartialLocks
from hive.store.restricted import UNASKED_TTL_S, AccessNotes
from hive.wire import events
from hive.wire.refs import HIDDEN_QUERY, RefError, parse_ref, with_query
from workers.claim import ClaimedDownload, add_missing_ticket, take_next
from workers.fetch import Transfer, limits_of, network_of
from workers.fleet import FleetLimits
from workers.fleet.file_lease import FileLeases
from workers.fleet.patience import until_redis_answers
from workers.fleet.peers import FleetPeers
from workers.fleet.quota import QuotaShare
from workers.fleet.reservation import Reservation
from workers.fleet.same_store import objection
from workers.fleet.store_watch import StoreLook, StoreWatch
from workers.intent import AttemptIntent
from workers.min_rate import MinimumRate
from workers.process.shutdown import SHUTDOWN
from workers.publish import Store
from workers.reporter import Reported, Reporter
from workers.resolve import HUB_ATTEMPTS, HUB_ATTEMPTS_WITH_COPY, REFUSED, resolve_patiently, without_lent_token
from workers.sources import Plan
from workers.transfer import Control

log = logging.getLogger("workers.download")

#: What is said of a download whose worker has no store any more.
STORE_AWAY = "The store is away for this worker; another one goes on."
#: What a store that has gone away may look like.
_AS_IF_AWAY = (errors.StoreNotWritable, errors.DiskFull, errors.ResourcesExhausted, errors.InternalError)
#: The exit code of a process that a filesystem holds.
STUCK_EXIT = 75
#: Seconds for one reply of Redis while a download runs: short against a lease, since each failed try eats from it.
REPLY_TIMEOUT_S, REPLIES_PER_LEASE = 1.0, 4


def run(download_id: str, attempt: int) -> None:
    """Take the download whose turn it is, and run it to its end or until somebody interferes.

    The arguments say what the ticket was made for (see JobQueue), which is mostly, but need not be, the download
    that is taken. A ticket too many does nothing.
    """
    settings = Settings.from_env()
    assert settings.redis_address is not None
    reply_timeout_s = min(REPLY_TIMEOUT_S, settings.lease_s / REPLIES_PER_LEASE)
    client = connect(settings.redis_address, reply_timeout_s=reply_timeout_s, retries=0)
    downloads = DownloadContext.of(client, settings)
    try:
        if (problem := objection(settings, client)) is not None:
            log.error("refused: another store", extra={"fields": {"reason": problem}})
            return
        taken = take_next(downloads)
    except RedisError as error:
        if not is_redis_error(error):
            raise
        # Whatever came of the claim: the reaper puts in a new ticket, or hands on what nobody renews.
        log.warning("Redis went away before a download was claimed", extra={"fields": {"reason": str(error)}})
        return
    if taken is None:
        log.debug("nothing to do", extra={"fields": {"ticket_of": download_id, "attempt": attempt}})
        return
    record = taken.record
    with logs.bound(download_id=record.id, attempt=record.attempt, request_id=record.request_id):
        log.info("started", extra={"fields": {"model_ref": record.ref}})
        with contextlib.suppress(RedisError):
            worker_registry(client).update(taken.worker, {"state": "busy", "download_id": record.id})
        DownloadRun(taken).run()
    with contextlib.suppress(RedisError):
        add_missing_ticket(downloads)


class DownloadRun:
    """A claimed download."""

    def __init__(self, taken: ClaimedDownload) -> None:
        settings, client, record, claim = taken.settings, taken.downloads.client, taken.record, taken.claim
        self._settings = settings
        self._downloads = taken.downloads
        self._record = record
        self._claim = claim
        self._ended = False
        #: What the disk has of it without a listing, for a Hub that is away.
        self._copy: OnDisk | None = None
        self._intent = AttemptIntent(taken)
        self._fleet = FleetLimits(settings, claim.id, record.request.max_bytes_per_second)
        self._control = Control(self._fleet.bandwidth)
        self._store = Store(settings)
        self._leases = FileLeases(client, claim.id, claim.fence, settings.lease_s)
        partials = partial_place(settings, for_url=is_plain_url(record.request.ref))
        self._locks = PartialLocks(partials, realm_of(settings))
        self._reservation = Reservation(client, claim.id, nearest(partials.path), limits_of(settings), self._control)
        self._quota = QuotaShare(
            taken.downloads.claims,
            claim,
            settings.max_bytes_per_key_and_day,
            self._control,
            lambda: self._fleet.bandwidth.received,
        )
        #: Why the store is away for this worker; "" while it is there.
        self._store_problem = ""
        self._watch = StoreWatch(settings, self._lose_store, self._leave_stuck)
        self._started_s = time.monotonic()
        subject = Reported(
            claims=taken.downloads.claims,
            claim=claim,
            attempt=record.attempt,
            lease_s=settings.lease_s,
            # A worker that gave it back has shown more than it had published before.
            bytes_floor=max(record.bytes_done, claimed_event(record).bytes_downloaded),
            priority=record.priority,
        )
        self._reporter = Reporter(
            subject,
            _Brake(self._control),
            files=self._leases,
            received=lambda: self._fleet.bandwidth.received,
            keep=self._intent.keep,
            too_slow=MinimumRate(
                settings.min_bytes_per_second,
                settings.min_rate_window_s,
                others_wait=self._others_wait,
                allowed=lambda: self._fleet.bandwidth.share,
            ).too_slow,
        )

    def run(self) -> None:
        """The story, and its one end."""
        SHUTDOWN.on_request(self._stop)
        self._intent.begin()
        self._reporter.start()
        self._watch.start()
        try:
            plan = self._bring()
        except errors.HubUnavailable as error:
            if self._copy is None:
                self._end_badly(error)
            else:
                self._end_with_copy(self._copy)
        except errors.HiveError as error:
            self._end_badly(error)
        except Exception as error:
            if not self._is_store_away(errors.InternalError()):
                log.exception("the download failed")
            self._end_badly(system_error(error) or errors.InternalError())
        else:
            self._end_well(plan)
        finally:
            self._watch.stop()
            self._locks.release_all()
            self._leases.release_all()
            if not self._reporter.lost:  # what stands there by now is the new owner's
                self._reservation.release()
            if self._ended:
                self._intent.close()
            SHUTDOWN.on_request(None)

    def _stop(self) -> None:
        """SIGTERM: leave off where it is, keep what has arrived, and do not wait for anybody."""
        self._reporter.shorten_patience()
        self._control.cancel("the worker is stopping")

    def _lose_store(self, problem: str) -> None:
        """The store is away, here: leave off, for another worker to go on."""
        log.error("the store is away", extra={"fields": {"reason": problem}})
        self._store_problem = problem
        self._control.cancel("the store is away")

    def _leave_stuck(self) -> None:
        """A transfer that was told to leave off hangs in the filesystem, and this process with it: give the download
        back from here, and go.
        """
        if not self._reporter.lost:
            self._give_back(STORE_AWAY, "retrying", noted=False)
        logs.flush()
        os._exit(STUCK_EXIT)

    def _bring(self) -> Plan:
        """Everything from the reference to the published model."""
        self._quota.check()
        credentials = self._credentials()
        try:
            return self._bring_with(credentials)
        except REFUSED as error:
            other = self._other_credentials(credentials)
            if other is None:
                raise
            log.info("refused, and tried with another token", extra={"fields": {"code": error.code}})
            try:
                return self._bring_with(other)
            except REFUSED:
                if not credentials:
                    raise
                raise error from None  # of the token that somebody has sent, which they can do something about

    def _other_credentials(self, refused: Credentials) -> Credentials | None:
        """What to try after the Hub has refused these; None where there is nothing else."""
        # Somebody who joined meanwhile may have brought the token that it lacked.
        if (lent := self._credentials()) != refused:
            return lent
        record = until_redis_answers(lambda: self._downloads.tracker.read(self._claim.id), self._control)
        return without_lent_token(refused, record)

    def _bring_with(self, credentials: Credentials) -> Plan:
        network = network_of(self._settings, parse_ref(self._record.request.ref))
        plan = self._resolve(credentials, network)
        self._transfer(plan, network).bring(self._intent.plan)
        self._note_let_in(plan)
        return plan

    def _note_let_in(self, plan: Plan) -> None:
        """Whoever shares the download by now has come with the same permission."""
        owners = self._record.owners
        with contextlib.suppress(RedisError):
            record = self._downloads.tracker.read(self._claim.id)
            owners = record.owners if record is not None else owners
        self._store.note_let_in(plan, owners)

    def _transfer(self, plan: Plan, network: Network) -> Transfer:
        tracker = self._downloads.tracker
        peers = FleetPeers(
            self._fleet, self._leases, self._reservation, tracker, self._control, self._locks, self._quota
        )
        return Transfer(
            self._settings,
            plan,
            self._store,
            self._reporter,
            self._control,
            network,
            peers,
            self._claim.id,
            self._record.owners,
        )

    def _resolve(self, credentials: Credentials, network: Network) -> Plan:
        request = self._record.request
        if not request.update:
            self._copy = self._find_copy()
        return resolve_patiently(
            with_query(parse_ref(request.ref), credentials.url_query),
            request,
            settings=self._settings,
            network=network,
            token=credentials.hf_token or (self._settings.token() if request.as_operator else None),
            control=self._control,
            reporter=self._reporter,
            cooldown=self._fleet.cooldown,
            attempts=HUB_ATTEMPTS if self._copy is None else HUB_ATTEMPTS_WITH_COPY,
        )

    def _find_copy(self) -> OnDisk | None:
        """What the disk has of it without a listing. Of a restricted model only for whom the Hub has let in before: it
        is for when the Hub cannot be asked.
        """
        request = self._record.request
        ref = parse_ref(request.ref)
        copy = ModelCatalog(self._settings).find_unlisted(ref, request.include, request.exclude)
        if copy is None or request.as_operator or not copy.commit:
            return copy
        notes = AccessNotes(self._settings.hive_dir)
        known = any(notes.was_let_in(ref.repo, copy.commit, o, UNASKED_TTL_S) for o in self._record.owners)
        return copy if known or not notes.places(ref.repo, copy.commit) else None

    def _credentials(self) -> Credentials:
        read = self._downloads.tracker.read_secret
        sealed = self._intent.secret = until_redis_answers(lambda: read(self._claim.id), self._control)
        if sealed is None and self._record.ref.endswith(HIDDEN_QUERY):
            raise errors.CredentialsLost
        if sealed is None:
            return Credentials()
        try:
            return unseal(
                sealed,
                self._settings.secret_key_path,
                purpose_of("download", self._claim.id, parse_ref(self._record.request.ref), self._settings.hf_endpoint),
                made_s=self._record.created_ms / 1000,
            )
        except SecretKeyError as error:
            raise errors.ModelAccessDenied(str(error)) from None

    # -- the ends ----------------------------------------------------------------------------------------------------

    def _end_well(self, plan: Plan) -> None:
        path = self._store.local_path(plan)
        figures = self._reporter.snapshot()
        # Of all attempts, as `active_seconds` of the history has it.
        seconds = round(self._record.active_ms / 1000 + time.monotonic() - self._started_s, 3)
        complete = events.Complete(
            local_path=path,
            status="complete",
            bytes_total=plan.total_bytes or figures.bytes_downloaded,
            files_total=len(plan.files),
            bytes_refetched=figures.bytes_refetched,
            verified=all(file.digest for file in plan.files),
            seconds=seconds,
            attempt=self._record.attempt,
        )
        self._ended = self._reporter.finish("complete", complete, path)
        if self._ended:
            brought = {"bytes": complete.bytes_total, "seconds": seconds, "verified": complete.verified}
            log.info("complete", extra={"fields": brought})
        else:
            log.warning("complete, but somebody else holds this download now")

    def _end_with_copy(self, copy: OnDisk) -> None:
        """The Hub is away, and an older tool has fetched this: what is there is the answer, with a note."""
        event = on_disk_event(copy.local_path, copy.size, len(copy.files), copy.note)
        self._ended = self._reporter.finish("complete", event, copy.local_path)
        if self._ended:
            log.info("complete", extra={"fields": {"bytes": copy.size, "reason": copy.note}})

    def _end_badly(self, error: errors.HiveError) -> None:
        if self._reporter.lost:
            self._reporter.stop()
            log.warning("the lease was lost; leaving the download to its new owner")
        elif self._reporter.cancelled:
            self._finish("cancelled", cancelled_event(self._present_record()))
        elif self._reporter.paused:
            self._put_aside()
        elif self._reporter.yielding and not SHUTDOWN.requested:
            self._give_back("Gave its place to an urgent download; goes on by itself.", "queued")
        elif self._reporter.slow and not SHUTDOWN.requested:
            self._give_back(self._slow_message(), "queued", behind=True)
        elif SHUTDOWN.requested or self._reporter.files_lost:
            self._give_back("The worker was stopped; another one goes on.", "retrying")
        elif self._is_store_away(error):
            self._give_back(STORE_AWAY, "retrying")
        else:
            self._finish("failed", failed_event(error, self._record.attempt, self._reporter.snapshot()))

    def _is_store_away(self, error: errors.HiveError) -> bool:
        """Whether this failed because the store is not there any more, for this worker: nobody else need fail."""
        if self._store_problem or isinstance(error, errors.StoreMissing):
            return True
        return isinstance(error, _AS_IF_AWAY) and StoreLook(self._settings).problem() is not None

    def _finish(self, state: str, event: events.Error) -> None:
        assert state in ("cancelled", "failed")
        self._ended = self._reporter.finish("cancelled" if state == "cancelled" else "failed", event)
        if self._ended:
            fields = {"code": event.code, "reason": event.message} if state == "failed" else {}
            log.info(state, extra={"fields": fields})

    def _others_wait(self) -> bool:
        """Whether somebody would get this worker; not while Redis does not say so."""
        with contextlib.suppress(RedisError):
            return self._downloads.admission.anybody_before(self._record.priority)
        return False

    def _slow_message(self) -> str:
        least, window_s = self._settings.min_bytes_per_second, self._settings.min_rate_window_s
        return f"Below {least / 1000:g} kB/s for {window_s:g} s while others wait; goes on by itself after them."

    def _give_back(
        self, message: str, status: events.ActiveStatus, *, behind: bool = False, noted: bool = True
    ) -> None:
        """The worker is stopping, or wanted for another: the next attempt goes to the queue, and resumes from the
        partial files. `noted`: the intent log is told too, which is on the disk.
        """
        self._reporter.stop()
        record = self._present_record()
        event = requeued_event(record, message, status)
        attempt = self._reporter.retry_while_redis_is_away(
            lambda: self._downloads.claims.release(
                record,
                event,
                counts=False,
                fence=self._claim.fence,
                attempt_bytes=self._reporter.attempt_bytes(),
                behind=behind,
            )
        )
        if isinstance(attempt, int):
            log.info("preempted" if status == "queued" else "given back", extra={"fields": {"reason": message}})
            self._reporter.retry_while_redis_is_away(lambda: self._downloads.queue.enqueue(record.id, attempt))
            if noted:
                self._intent.let_go(self._reporter.snapshot())

    def _put_aside(self) -> None:
        """A person paused it: this worker is free for another download, and what has arrived stays."""
        self._reporter.stop()
        record = self._present_record()
        event = paused_event(record)
        attempt = self._reporter.retry_while_redis_is_away(
            lambda: self._downloads.claims.release(
                record,
                event,
                counts=False,
                fence=self._claim.fence,
                to="paused",
                attempt_bytes=self._reporter.attempt_bytes(),
            )
        )
        if isinstance(attempt, int):
            self._intent.let_go(self._reporter.snapshot())
            log.info("paused")

    def _present_record(self) -> Record:
        """The record with the figures as they are now."""
        return msgspec.structs.replace(self._record, event=events.encode(self._reporter.snapshot()))


class _Brake:
    """What the reporter does to the transfer."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.confirm, self.hold, self.release = control.confirm, control.hold, control.release

    def cancel(self) -> None:
        self._control.cancel("cancelled")

    def fence(self) -> None:
        self._control.cancel("the lease was lost", fenced=True)


def is_plain_url(ref: str) -> bool:
    """Whether this reference, as it is parsed, names a place that a stranger may have chosen; one that cannot be parsed
    does. How it is spelled says nothing: `HTTP://` is a URL too.
    """
    try:
        return parse_ref(ref).kind != "hf"
    except RefError:
        return True
