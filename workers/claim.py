"""How a worker comes by a download: the first of the queue that it can claim.

A job is a ticket (hive/wire/jobs.py): it calls a worker, and the worker takes the download whose turn it is. Several
workers want the same one at the same moment, the reply to a claim may be lost, and a limit of the fleet may refuse, so
that no ticket is left for the place that becomes free.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass

import rq
from redis.exceptions import RedisError

from hive.downloads.claims import FleetFull
from hive.downloads.context import DownloadContext
from hive.downloads.events import claimed_event
from hive.downloads.record import Claim, Record
from hive.redis.errors import is_redis_error
from hive.settings import Settings
from workers.process.current import CURRENT

#: Seconds for which a claim is tried again whose reply did not come, and between two tries.
CLAIM_PATIENCE_S, CLAIM_RETRY_S = 4.0, 0.2
#: How often another download is tried when others were faster to claim the first one.
MAX_CLAIM_TRIES = 256


@dataclass(frozen=True)
class ClaimedDownload:
    """A download that this worker holds: the record as it was claimed, and the proof."""

    downloads: DownloadContext
    record: Record
    claim: Claim
    worker: str

    @property
    def settings(self) -> Settings:
        """Those of this process."""
        return self.downloads.settings


def take_next(downloads: DownloadContext) -> ClaimedDownload | None:
    """Claim the first download of the queue; None where there is none, or as many run as may. Raises redis-py's errors
    when Redis stays away.
    """
    owner, worker = uuid.uuid4().hex, worker_name()
    for _ in range(MAX_CLAIM_TRIES):
        first = downloads.admission.pending(limit=1)
        if not first:
            return None
        record = downloads.tracker.read(first[0])
        if record is None:
            downloads.admission.forget_pending(first[0])
            continue
        CURRENT.write(record.id)
        try:
            claim = _claim(downloads, record, owner, worker)
        except FleetFull:
            break
        if claim is not None:
            return ClaimedDownload(downloads, record, claim, worker)
    CURRENT.write("")
    return None


def add_missing_ticket(downloads: DownloadContext) -> None:
    """Where a limit of the fleet made workers refuse, their tickets are gone: the place that is free now needs one."""
    if downloads.admission.claimable() > downloads.queue.tickets():
        downloads.queue.add_tickets(downloads.admission.pending(limit=1))


def worker_name() -> str:
    """The name of the RQ worker that runs this job; the process itself where it is run by hand."""
    job = rq.get_current_job()
    return str(job.worker_name) if job is not None and job.worker_name else f"pid-{os.getpid()}"


def _claim(downloads: DownloadContext, record: Record, owner: str, worker: str) -> Claim | None:
    """The claim, asked for again where the reply was lost: it may be ours already, and nobody else would know."""
    deadline_s = time.monotonic() + CLAIM_PATIENCE_S
    while True:
        try:
            return downloads.claims.claim(record, owner, worker, claimed_event(record))
        except RedisError as error:
            if not is_redis_error(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(CLAIM_RETRY_S)
