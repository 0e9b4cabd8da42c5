"""One download, as a worker runs it: claim -> resolve -> reserve -> transfer -> verify -> publish -> end.

Whoever may interfere has one way each out of the story: a person cancels (an `error` event with the code CANCELLED),
the machine asks to stop (the download goes back to the queue and resumes elsewhere), the lease is lost (this process
falls silent: the files and the end belong to somebody else), something fails (an `error` event with a code and what
to do).
"""

from __future__ import annotations

import logging
import os
import time
import uuid

import msgspec
import rq

from hive import errors, logs
from hive.connections import connect
from hive.jobqueue import JobQueue
from hive.record import Claim, Record, cancelled_event, requeued_event
from hive.secrets import Credentials, SecretKeyError, unseal
from hive.settings import Settings
from hive.tracker import DownloadTracker
from hive.wire import events
from hive.wire.events import Downloading
from hive.wire.refs import parse_ref, with_query
from workers.drain import DRAIN
from workers.filelease import FileLeases
from workers.progress import Reporter
from workers.resolving import resolve_patiently
from workers.sources import Plan
from workers.store import Store
from workers.traffic import Traffic
from workers.transfer import Control, Network
from workers.transferring import Transfer, outbound

log = logging.getLogger("workers.download")

#: Seconds for one reply of Redis while a download runs: short against a lease, since each failed try eats from it.
REPLY_TIMEOUT_S = 1.0


def run(download_id: str, attempt: int) -> None:
    """Run one attempt of a download, to its end or until somebody interferes. Stale jobs do nothing."""
    settings = Settings.from_env()
    assert settings.redis_url is not None
    client = connect(settings.redis_url, reply_timeout_s=REPLY_TIMEOUT_S, retries=0)
    tracker = DownloadTracker(
        client, ended_ttl_s=settings.ended_ttl_s, max_queued=settings.max_queued, lease_s=settings.lease_s
    )
    with logs.bound(download_id=download_id, attempt=attempt):
        record = tracker.read(download_id)
        if record is None or record.attempt != attempt:
            log.info("the job is stale; nothing to do")
            return
        claim = tracker.claim(record, uuid.uuid4().hex, _worker_name(), _claimed_event(record))
        if claim is None:
            log.info("somebody else has this download; nothing to do")
            return
        log.info("started", extra={"fields": {"model_ref": record.ref}})
        leases = FileLeases(client, claim.id, claim.fence, settings.lease_s)
        Download(settings, tracker, JobQueue(client), record, claim, leases).run()


class Download:
    """A claimed download."""

    def __init__(
        self,
        settings: Settings,
        tracker: DownloadTracker,
        queue: JobQueue,
        record: Record,
        claim: Claim,
        leases: FileLeases,
    ) -> None:
        self._settings = settings
        self._tracker = tracker
        self._queue = queue
        self._record = record
        self._claim = claim
        self._traffic = Traffic(settings, claim.id, record.request.max_bytes_per_second)
        self._control = Control(self._traffic.bandwidth)
        self._store = Store(settings)
        self._leases = leases
        self._started_s = time.monotonic()
        self._reporter = Reporter(
            tracker,
            claim,
            record.attempt,
            _Brake(self._control),
            lease_s=settings.lease_s,
            files=leases,
            bytes_floor=record.bytes_done,
        )

    def run(self) -> None:
        """The story, and its one end."""
        DRAIN.on_request(self._stop)
        self._reporter.start()
        try:
            plan = self._bring()
        except errors.HiveError as error:
            self._end_badly(error)
        except Exception:
            log.exception("the download stumbled")
            self._end_badly(errors.InternalError())
        else:
            self._end_well(plan)
        finally:
            self._leases.release_all()
            DRAIN.on_request(None)

    def _stop(self) -> None:
        """SIGTERM: leave off where it is, keep what has arrived, and do not wait for anybody."""
        self._reporter.hurry()
        self._control.cancel("the worker is stopping")

    def _bring(self) -> Plan:
        """Everything from the reference to the published model."""
        credentials = self._credentials()
        network = outbound(self._settings, guarded=self._record.request.ref.startswith("http"))
        plan = self._resolve(credentials, network)
        missing = self._store.missing(plan)
        on_disk = [file for file in plan.files if file not in missing]
        self._reporter.plan(
            bytes_total=plan.total_bytes or 0,
            files_total=len(plan.files),
            files_done=len(on_disk),
            bytes_done=sum(file.size or 0 for file in on_disk),
        )
        if missing:
            self._reporter.status("downloading")
            self._transfer(plan, network).run(missing)
        self._control.check()
        self._store.complete(plan)
        return plan

    def _transfer(self, plan: Plan, network: Network) -> Transfer:
        return Transfer(
            self._settings,
            plan,
            self._store,
            self._reporter,
            self._control,
            network,
            self._traffic,
            self._leases,
            self._tracker,
            self._claim.id,
        )

    def _resolve(self, credentials: Credentials, network: Network) -> Plan:
        request = self._record.request
        return resolve_patiently(
            with_query(parse_ref(request.ref), credentials.url_query),
            request,
            settings=self._settings,
            network=network,
            token=credentials.hf_token or self._settings.token(),
            control=self._control,
            reporter=self._reporter,
            cooldown=self._traffic.cooldown,
        )

    def _credentials(self) -> Credentials:
        sealed = self._tracker.read_secret(self._claim.id)
        if sealed is None:
            return Credentials()
        try:
            return unseal(sealed, self._settings.secret_key_path)
        except SecretKeyError as error:
            raise errors.ModelAccessDenied(str(error)) from None

    # -- the ends ----------------------------------------------------------------------------------------------------

    def _end_well(self, plan: Plan) -> None:
        path = self._store.local_path(plan)
        figures = self._reporter.snapshot()
        seconds = round(time.monotonic() - self._started_s, 3)
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
        if self._reporter.finish("complete", complete, path):
            log.info("complete", extra={"fields": {"bytes": complete.bytes_total, "seconds": seconds}})
        else:
            log.warning("complete, but somebody else holds this download now")

    def _end_badly(self, error: errors.HiveError) -> None:
        if self._reporter.lost:
            self._reporter.stop()
            log.warning("the lease was lost; leaving the download to its new owner")
        elif self._reporter.cancelled:
            self._finish("cancelled", cancelled_event(self._present_record()))
        elif self._reporter.paused:
            self._put_aside()
        elif DRAIN.requested or self._reporter.files_lost:
            self._give_back()
        else:
            self._finish("failed", self._error_event(error))

    def _finish(self, state: str, event: events.Error) -> None:
        assert state in ("cancelled", "failed")
        if self._reporter.finish("cancelled" if state == "cancelled" else "failed", event):
            log.info(state, extra={"fields": {"code": event.code, "reason": event.message}})

    def _give_back(self) -> None:
        """The worker is stopping: the next attempt goes to the queue, and resumes from the partial files."""
        self._reporter.stop()
        record = self._present_record()
        event = requeued_event(record, "The worker was stopped; another one goes on.")
        attempt = self._reporter.insist(
            lambda: self._tracker.release(record, event, counts=False, fence=self._claim.fence)
        )
        if isinstance(attempt, int):
            self._reporter.insist(lambda: self._queue.enqueue(record.id, attempt))
            log.info("given back to the queue")

    def _put_aside(self) -> None:
        """A person paused it: this worker is free for another download, and what has arrived stays."""
        self._reporter.stop()
        record = self._present_record()
        event = requeued_event(record, "Paused. Resume it to go on.", "paused")
        self._reporter.insist(
            lambda: self._tracker.release(record, event, counts=False, fence=self._claim.fence, to="paused")
        )
        log.info("paused")

    def _present_record(self) -> Record:
        """The record with the figures as they are now."""
        return msgspec.structs.replace(self._record, event=events.encode(self._reporter.snapshot()))

    def _error_event(self, error: errors.HiveError) -> events.Error:
        figures = self._reporter.snapshot()
        return events.Error(
            message=events.shorten(error.message),
            code=error.code,
            status="failed",
            details=error.details or None,
            bytes_downloaded=figures.bytes_downloaded,
            bytes_total=figures.bytes_total,
            attempt=self._record.attempt,
        )


class _Brake:
    """What the reporter does to the transfer."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.hold, self.release = control.hold, control.release

    def cancel(self) -> None:
        self._control.cancel("cancelled")

    def fence(self) -> None:
        self._control.cancel("the lease was lost", fenced=True)


def _claimed_event(record: Record) -> Downloading:
    """What a download says when a worker has taken it: the progress of earlier attempts, and that it resolves."""
    last = record.last_event
    known = last if isinstance(last, Downloading) else Downloading(bytes_downloaded=0, bytes_total=0, speed_mbps=0.0)
    return msgspec.structs.replace(known, status="resolving", attempt=record.attempt, message=None)


def _worker_name() -> str:
    """The name of the RQ worker that runs this job; the process itself where it is run by hand."""
    job = rq.get_current_job()
    return str(job.worker_name) if job is not None and job.worker_name else f"pid-{os.getpid()}"
