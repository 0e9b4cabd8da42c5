"""The whole fleet in figures: what `/metrics` shows of all processes, read in a bounded number of round trips.

Counters are in one hash, which the scripts count up with the changes themselves (downloads/scripts/); what is queued,
running or paused is the size of a set. So no process has to be asked, and every replica answers the same. What only
the process itself can know comes from the notes that it leaves in Redis (replica.py, downloads/registry.py).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import msgspec

from hive.downloads.admission import read_limit
from hive.downloads.names import text_names
from hive.downloads.registry import HeartbeatRegistry
from hive.metrics.replica import ReplicaFigures
from hive.redis.client import RedisClient
from hive.redis.info import read_info
from hive.settings import Settings
from hive.wire import keys

#: Running downloads whose speed is read in one scrape; further ones do not count.
MAX_RUNNING_READ = 1000
#: Workers, and HTTP processes, that one scrape looks at.
MAX_WORKERS_READ = 2000
MAX_REPLICAS_READ = 500
MAX_LLM_WORKERS_READ = 1000


class FleetFigures(msgspec.Struct, kw_only=True, frozen=True):
    """The fleet at one moment. `counters` are those of `hive:metrics`; limits are 0 where there is none."""

    counters: dict[str, int]
    queued: int
    running: int
    paused: int
    bytes_per_second: int
    bandwidth_limit: int
    running_limit: int
    workers: dict[str, int]
    #: Workers of models in memory, by state.
    llm_workers: dict[str, int] = msgspec.field(default_factory=dict)
    replicas: tuple[ReplicaFigures, ...]


class RedisMemory(NamedTuple):
    """What Redis holds against its `maxmemory`, and that: bytes, 0 for no limit."""

    used: int
    limit: int


def read_memory(client: RedisClient) -> RedisMemory | None:
    """How full Redis is; None where INFO does not say it. One round trip, which a full Redis answers too; raises
    redis-py's errors.
    """
    info = read_info(client, "memory")
    used, limit, apart = (info.get(name) for name in ("used_memory", "maxmemory", "mem_not_counted_for_evict"))
    if not isinstance(used, int) or not isinstance(limit, int):
        return None
    return RedisMemory(max(0, used - (apart if isinstance(apart, int) else 0)), max(0, limit))


def read_fleet(
    client: RedisClient, registry: HeartbeatRegistry[ReplicaFigures], own: ReplicaFigures, settings: Settings
) -> FleetFigures:
    """The figures, after `own` were noted. Two round trips, and a third when a process has died unnoticed; raises
    redis-py's errors.
    """
    with client.pipeline(transaction=True) as pipeline:
        registry.add_beat(pipeline, own)
        pipeline.hgetall(keys.METRICS)
        pipeline.zcard(keys.PENDING)
        pipeline.zcard(keys.LEASES)
        pipeline.scard(keys.PAUSED)
        pipeline.mget(keys.BANDWIDTH_LIMIT, keys.RUNNING_LIMIT)
        pipeline.zrange(keys.LEASES, 0, MAX_RUNNING_READ - 1)
        pipeline.smembers(keys.WORKERS)
        pipeline.smembers(keys.REPLICAS)
        pipeline.zrange(keys.LLM_WORKERS, 0, MAX_LLM_WORKERS_READ - 1)
        counters, queued, running, paused, limits, ids, workers, replicas, llm = pipeline.execute()[-9:]
    running_ids = text_names(client, keys.LEASES, ids)
    worker_names = sorted(text_names(client, keys.WORKERS, workers, is_set=True))[:MAX_WORKERS_READ]
    names = text_names(client, keys.REPLICAS, replicas - {own.name.encode()}, is_set=True)
    replica_names = sorted(names)[:MAX_REPLICAS_READ]
    llm_names = text_names(client, keys.LLM_WORKERS, llm)
    with client.pipeline(transaction=False) as pipeline:
        for download_id in running_ids:
            pipeline.hget(keys.record(download_id), "event")
        for name in worker_names:
            pipeline.hget(keys.worker(name), "state")
        for name in replica_names:
            registry.add_read(pipeline, name)
        for worker_id in llm_names:
            pipeline.hget(keys.llm_worker(worker_id), "state")
        rows = pipeline.execute(raise_on_error=False)
    rows, llm_states = rows[: len(rows) - len(llm_names)], rows[len(rows) - len(llm_names) :]
    states = rows[len(running_ids) : len(running_ids) + len(worker_names)]
    hashes = rows[len(running_ids) + len(worker_names) :]
    # One that is no hash is none that can be read, and expires or not with whoever has put it there.
    others = registry.members(replica_names, [row if isinstance(row, dict) else {b"": b""} for row in hashes])
    return FleetFigures(
        counters={name.decode("utf-8", "replace"): int(n) for name, n in counters.items() if _COUNT.fullmatch(n)},
        queued=queued,
        running=running,
        paused=paused,
        bytes_per_second=sum(map(_speed, rows[: len(running_ids)])),
        bandwidth_limit=read_limit(limits[0], settings.max_bytes_per_second),
        running_limit=read_limit(limits[1], settings.max_running),
        workers=Counter(state.decode("utf-8", "replace") for state in states if isinstance(state, bytes)),
        llm_workers=Counter(state.decode("utf-8", "replace") for state in llm_states if isinstance(state, bytes)),
        replicas=(own, *others),
    )


#: What a counter may be; anything else was written by somebody else, and is passed over.
_COUNT = re.compile(rb"-?[0-9]{1,19}")


class _Speed(msgspec.Struct):
    """The one figure of an event that counts here."""

    bytes_per_second: int | None = None


_decoder = msgspec.json.Decoder(_Speed)


def _speed(event: Any) -> int:
    """Bytes per second that an event tells of, 0 where it tells of none."""
    try:
        return (_decoder.decode(event).bytes_per_second or 0) if isinstance(event, bytes) else 0
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
