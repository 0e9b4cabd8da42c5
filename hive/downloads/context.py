"""DownloadContext: everything that reads or changes downloads in Redis, over one client.

The HTTP process, the reaper and a worker each need most of it; one frozen object passes through their constructors in
place of five arguments in five orders.
"""

from __future__ import annotations

from dataclasses import dataclass

from hive.downloads.admission import Admission
from hive.downloads.claims import Claims
from hive.downloads.jobqueue import JobQueue
from hive.downloads.tracker import DownloadTracker
from hive.redis.client import RedisClient
from hive.settings import Settings


@dataclass(frozen=True)
class DownloadContext:
    """The records, who holds them, the queue's order, and the queue that calls workers."""

    settings: Settings
    client: RedisClient
    tracker: DownloadTracker
    claims: Claims
    admission: Admission
    queue: JobQueue

    @classmethod
    def of(cls, client: RedisClient, settings: Settings) -> DownloadContext:
        """One over this blocking client. Connects to nothing yet."""
        return cls(
            settings=settings,
            client=client,
            tracker=DownloadTracker.of(client, settings),
            claims=Claims.of(client, settings),
            admission=Admission.of(client, settings),
            queue=JobQueue(client),
        )
