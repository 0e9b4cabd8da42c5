"""The RQ queue, as hive uses it: it calls a worker, and nothing else.

Problem: a list knows first come, first served; a priority that can be changed, a limit for the fleet and an urgent
download need another order. Several lists make a worker lose jobs, and moving jobs inside one is a race. So a job is a
ticket: its worker claims whatever is first in `hive:pending`, in the order of the records. Only the number of tickets
matters, and one too many does no harm.

RQ's own retries, callbacks, time-outs and registries were measured not to hold when processes die
(docs/architecture.md), so none of them is used: the record of the download says what is to be done, the reaper sees
that it is. This is the one place of the HTTP side that imports RQ.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rq import Queue
from rq.exceptions import DuplicateJobError

from hive.redis.client import RedisClient
from hive.wire import jobs, keys

log = logging.getLogger("hive.downloads.jobqueue")

#: Seconds that RQ keeps a finished job, and a failed one. The record is the truth; these are for whoever looks into RQ.
RESULT_TTL_S = 60
FAILURE_TTL_S = 86_400
#: No time limit of RQ's: a download takes what it takes, and has a stall watchdog of its own.
NO_TIMEOUT = -1


class JobQueue:
    """Puts jobs on the queue, over one blocking Redis client."""

    def __init__(self, client: RedisClient) -> None:
        self._redis = client
        self._queue = Queue(keys.QUEUE, connection=client, serializer="json")

    def enqueue(self, download_id: str, attempt: int, pipeline: RedisClient = None) -> None:
        """Put the job of this attempt on the queue; does nothing where it has been there already, so it is safe to
        repeat. An empty `pipeline` takes what may come after that (RQ's list of queues), for the caller to send.
        """
        self._put(jobs.job_id(download_id, attempt), download_id, attempt, pipeline)

    def _put(self, job_id: str, download_id: str, attempt: int, pipeline: RedisClient = None) -> None:
        try:
            self._queue.enqueue_call(
                jobs.DOWNLOAD_JOB,
                args=(download_id, attempt),
                job_id=job_id,
                unique=True,
                timeout=NO_TIMEOUT,
                result_ttl=RESULT_TTL_S,
                failure_ttl=FAILURE_TTL_S,
                description=jobs.DOWNLOAD_JOB,
                pipeline=pipeline,
            )
        except DuplicateJobError:
            log.debug("job was queued already", extra={"fields": {"job_id": job_id}})

    def add_tickets(self, download_ids: Iterable[str]) -> None:
        """Put in a ticket for each where one was lost. One too many calls a worker that finds nothing to do."""
        for download_id in download_ids:
            self._put(jobs.ticket_id(download_id), download_id, 0)

    def tickets(self) -> int:
        """How many jobs wait in the queue."""
        return int(self._redis.llen(self._queue.key))
