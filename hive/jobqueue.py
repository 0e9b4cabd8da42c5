"""The RQ queue, as hive uses it: it carries the id of a download to a worker, and nothing else.

RQ's own retries, callbacks, time-outs and registries were measured not to hold when processes die
(docs/architecture.md), so none of them is used: the record of the download says what is to be done, the reaper sees
that it is. This is the one place of the HTTP side that imports RQ.
"""

from __future__ import annotations

import logging

from rq import Queue
from rq.exceptions import DuplicateJobError

from hive.connections import RedisClient
from hive.wire import jobs, keys

log = logging.getLogger("hive.jobqueue")

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

    def enqueue(self, download_id: str, attempt: int) -> None:
        """Put the job of this attempt on the queue; does nothing where it has been there already, so it is safe to
        repeat.
        """
        try:
            self._queue.enqueue_call(
                jobs.DOWNLOAD_JOB,
                args=(download_id, attempt),
                job_id=jobs.job_id(download_id, attempt),
                unique=True,
                timeout=NO_TIMEOUT,
                result_ttl=RESULT_TTL_S,
                failure_ttl=FAILURE_TTL_S,
                description=jobs.DOWNLOAD_JOB,
            )
        except DuplicateJobError:
            log.debug("job was queued already", extra={"fields": {"download_id": download_id, "attempt": attempt}})

    def waiting(self) -> set[str]:
        """The ids of the jobs in the queue."""
        return {job_id.decode() for job_id in self._redis.lrange(self._queue.key, 0, -1)}
