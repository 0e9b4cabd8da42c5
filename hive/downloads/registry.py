"""WorkerRegistry: which workers are alive, and what each is doing.

A worker writes a hash of its own and renews its expiry with every heartbeat, so that one which dies disappears by
itself.
"""

from __future__ import annotations

import msgspec

from hive.redis_client import RedisClient
from hive.wire import keys

#: Seconds that a silent worker stays listed. Workers speak every 5 s.
WORKER_TTL_S = 20


class WorkerInfo(msgspec.Struct, kw_only=True, frozen=True):
    """One worker process. Times are unix seconds."""

    name: str
    host: str
    pid: int
    version: str
    state: str = "idle"
    download_id: str = ""
    started_at: float = 0.0
    seen_at: float = 0.0


class WorkerRegistry:
    """Reads and writes the workers' hashes, over one blocking Redis client."""

    def __init__(self, client: RedisClient) -> None:
        self._redis = client

    def beat(self, info: WorkerInfo) -> None:
        """Say that this worker is alive."""
        key = keys.worker(info.name)
        with self._redis.pipeline() as pipeline:
            pipeline.hset(key, mapping=msgspec.structs.asdict(info))
            pipeline.expire(key, WORKER_TTL_S)
            pipeline.sadd(keys.WORKERS, info.name)
            pipeline.execute()

    def busy(self, name: str, download_id: str) -> None:
        """Say at once what this worker does, which its next heartbeat would say in some seconds."""
        key = keys.worker(name)
        if self._redis.exists(key):
            self._redis.hset(key, mapping={"state": "busy", "download_id": download_id})

    def leave(self, name: str) -> None:
        """Say that this worker has ended."""
        with self._redis.pipeline() as pipeline:
            pipeline.delete(keys.worker(name))
            pipeline.srem(keys.WORKERS, name)
            pipeline.execute()

    def list(self) -> list[WorkerInfo]:
        """The workers alive, by name; forgets those that fell silent."""
        names = sorted(name.decode() for name in self._redis.smembers(keys.WORKERS))
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hgetall(keys.worker(name))
            hashes = pipeline.execute()
        gone = [name for name, fields in zip(names, hashes, strict=True) if not fields]
        if gone:
            self._redis.srem(keys.WORKERS, *gone)
        return [
            msgspec.convert({k.decode(): v.decode() for k, v in fields.items()}, WorkerInfo, strict=False)
            for fields in hashes
            if fields
        ]
