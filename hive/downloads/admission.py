"""Admission: which queued download is next, how many may run at once, and who makes room.

The order is that of `hive:pending`, which the scripts keep: by priority, then by turns among owners
(hive/downloads/scripts/turns.lua), then by age.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from hive.downloads.names import text_names
from hive.redis.client import RedisClient
from hive.settings import Settings
from hive.wire import keys
from hive.wire.api import Scaling
from hive.wire.jobs import RANK_STEP, RANKS, Priority

#: How many running downloads are looked at for one that may make room.
MAX_RUNNING_SCANNED = 2000


#: Digits of the largest limit that anybody sets, in bytes or in downloads.
_MAX_DIGITS: Final = 15


def read_limit(found: bytes | None, initial: int) -> int:
    """A limit as Redis holds it, 0 for none; `initial` where it holds none, or what no version of hive has set: one
    broken value must not stop the list, the queue and the metrics.
    """
    is_number = found is not None and found.isdigit() and len(found) <= _MAX_DIGITS
    return int(found) if is_number and found is not None else initial


class QueuePlace(NamedTuple):
    """The place of a download in the queue: how many are before it, and what it waits for."""

    ahead: int
    waiting_for: str


class Admission:
    """Reads the line and the fleet's limit, over one blocking Redis client; raises redis-py's errors."""

    def __init__(self, client: RedisClient, max_running: int = 0) -> None:
        """`max_running` counts until somebody sets the limit; 0 for none."""
        self._redis = client
        self._max_running = max_running

    @classmethod
    def of(cls, client: RedisClient, settings: Settings) -> Admission:
        """One that keeps to the settings."""
        return cls(client, settings.max_running)

    def pending(self, limit: int = 10_000) -> list[str]:
        """Ids of queued downloads, the next one first."""
        while found := self._redis.zrange(keys.PENDING, 0, limit - 1):
            if names := text_names(self._redis, keys.PENDING, found):
                return names
        return []

    def forget_pending(self, download_id: str) -> None:
        """Drop a place in the queue whose download is gone."""
        self._redis.zrem(keys.PENDING, download_id)

    def urgent(self, limit: int = 100) -> list[str]:
        """Ids of queued downloads of high priority, the next one first."""
        end = RANKS["normal"] * RANK_STEP
        found = self._redis.zrangebyscore(keys.PENDING, "-inf", f"({end}", start=0, num=limit)
        return text_names(self._redis, keys.PENDING, found)

    def anybody_before(self, priority: Priority) -> bool:
        """Whether a queued download would get a worker before one of this priority that joins the queue now."""
        end = (RANKS[priority] + 1) * RANK_STEP
        return bool(self._redis.zcount(keys.PENDING, "-inf", f"({end}"))

    def claimable(self) -> int:
        """How many queued downloads could be claimed now."""
        found = self.scaling()
        return found.wanted_workers - found.running

    def scaling(self) -> Scaling:
        """How many wait and run, and how many could run at once under the fleet's limit. What runs counts as wanted,
        also above a limit that was lowered: a worker that is taken away gives its download back.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zcard(keys.PENDING)
            pipeline.zcard(keys.LEASES)
            pipeline.get(keys.RUNNING_LIMIT)
            queued, running, limit = pipeline.execute()
        most = read_limit(limit, self._max_running)
        claimable = min(queued, max(most - running, 0)) if most else queued
        return Scaling(queued=queued, running=running, wanted_workers=running + claimable)

    def places(self, download_ids: Sequence[str]) -> dict[str, QueuePlace]:
        """The places of those that wait in the queue, in one round trip."""
        if not download_ids:
            return {}
        with self._redis.pipeline(transaction=False) as pipeline:
            for download_id in download_ids:
                pipeline.zrank(keys.PENDING, download_id)
            pipeline.zcard(keys.LEASES)
            pipeline.get(keys.RUNNING_LIMIT)
            pipeline.scard(keys.WORKERS)
            *ranks, running, limit, workers = pipeline.execute()
        most = read_limit(limit, self._max_running)
        found = {i: rank for i, rank in zip(download_ids, ranks, strict=True) if rank is not None}
        return {i: QueuePlace(rank, _waiting_for(rank, running, most, workers)) for i, rank in found.items()}

    def running_limit(self) -> int | None:
        """How many downloads may run at once in the whole fleet; None for no limit."""
        found = self._redis.get(keys.RUNNING_LIMIT)
        return read_limit(found, self._max_running) or None

    def set_running_limit(self, limit: int | None) -> None:
        """Change that."""
        self._redis.set(keys.RUNNING_LIMIT, limit or 0)

    def may_ask(self, download_id: str, patience_s: float) -> bool:
        """Whether no worker was asked to make room for this download within so many seconds; if so, one is now."""
        return bool(self._redis.set(keys.urgent(download_id), 1, nx=True, px=int(patience_s * 1000)))

    def running(self) -> list[str]:
        """Ids of downloads that a worker holds, of the first `MAX_RUNNING_SCANNED`."""
        return text_names(self._redis, keys.LEASES, self._redis.zrange(keys.LEASES, 0, MAX_RUNNING_SCANNED - 1))


def _waiting_for(ahead: int, running: int, most: int, workers: int) -> str:
    """The first thing that has to change before a worker takes it."""
    if not workers:
        return "a worker: none is running"
    if most and running >= most:
        return f"limit of {most} running"
    return f"{ahead} ahead" if ahead else "a free worker"


class BandwidthLimit:
    """What all workers together may take from the network, in Redis, so that it can be changed while downloads run.

    A setting alone would mean a restart of every worker to make room for a video call. The value in Redis wins; where
    there is none, each process goes by its setting. Blocking calls of one round trip, which raise redis-py's errors.
    """

    def __init__(self, client: RedisClient, initial: int) -> None:
        """`initial` counts until somebody sets the limit: bytes per second, 0 for none."""
        self._redis = client
        self._initial = initial

    def read(self) -> int | None:
        """Bytes per second, None for no limit."""
        found = self._redis.get(keys.BANDWIDTH_LIMIT)
        return read_limit(found, self._initial) or None

    def write(self, bytes_per_second: int | None) -> None:
        """Set it. What was reserved under the old limit is forgotten, so the new one counts at once."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.set(keys.BANDWIDTH_LIMIT, bytes_per_second or 0)
            pipeline.delete(keys.BANDWIDTH_LINE)
            pipeline.execute()
