"""What one HTTP process says of itself: streams, frames, Redis, event loop, memory.

Problem: whoever scrapes `/metrics` reaches one process, by chance: several stand behind a load balancer, or behind one
port (`hive serve --processes`). Its own counters alone would jump from scrape to scrape, and shared memory between
processes (prometheus_client's multiprocess mode) ends at the machine. So each process writes its figures to Redis, as
workers do, and every scrape shows all of them, each under its name. A scrape writes the figures of the process that
answers before it reads those of the others: so no counter is ever seen to go back, whichever process answers next.

Counting costs the streams nothing: what is counted per frame is the number of subscribers of a topic, once per change.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import resource
import sys
import time
from collections import deque

import msgspec

from hive.downloads.registry import HeartbeatRegistry
from hive.errors import RedisUnavailable
from hive.redis.client import CommandThread, RedisClient
from hive.streams.fanout import Fanout
from hive.streams.many import ManyEndpoint
from hive.streams.stream import StreamEndpoint
from hive.version import VERSION
from hive.wire import keys

log = logging.getLogger("hive.metrics.replica")

#: Seconds between two notes of a process about itself, and until a silent one is taken for gone.
BEAT_INTERVAL_S = 5.0
REPLICA_TTL_S = 15
#: Seconds between two looks at the event loop, and how many are remembered: 15 s, a customary interval of scrapes.
LAG_INTERVAL_S = 0.5
LAGS_KEPT = 30
#: Seconds that a process which ends gives to saying so: what it does not say, Redis forgets.
LEAVE_TIMEOUT_S = 1.0


class ReplicaFigures(msgspec.Struct, kw_only=True, frozen=True):
    """One HTTP process: counters since its start, and how it stands now. Times in seconds, memory in bytes."""

    name: str
    version: str
    python: str
    started_at: float
    streams: int
    many_streams: int
    streams_ended: int
    stalled_clients: int
    frames_sent: int
    redis_round_trips: int
    pubsub_messages: int
    pubsub_reconnects: int
    loop_lag_s: float
    resident_bytes: int
    cpu_s: float


class Replica:
    """This process. `run` notes its figures in Redis until cancelled."""

    def __init__(
        self, commands: CommandThread, fanout: Fanout, streams: StreamEndpoint, many_streams: ManyEndpoint
    ) -> None:
        #: All HTTP processes of the fleet.
        self.registry = replica_registry(commands.client)
        self._commands = commands
        self._fanout = fanout
        self._streams = streams
        self._many_streams = many_streams
        self._name = f"{os.uname().nodename}.{os.getpid()}.{os.urandom(2).hex()}"
        self._started_at = time.time()
        self._lags_s: deque[float] = deque([0.0], maxlen=LAGS_KEPT)

    def figures(self) -> ReplicaFigures:
        """The figures as they are now."""
        return ReplicaFigures(
            name=self._name,
            version=VERSION,
            python=platform.python_version(),
            started_at=self._started_at,
            streams=self._streams.open_streams,
            many_streams=self._many_streams.open_streams,
            streams_ended=self._streams.ended_total + self._many_streams.ended_total,
            stalled_clients=self._streams.stalled_total + self._many_streams.stalled_total,
            frames_sent=self._fanout.frames_sent,
            redis_round_trips=self._commands.round_trips,
            pubsub_messages=self._fanout.messages_received,
            pubsub_reconnects=self._fanout.reconnects,
            loop_lag_s=max(self._lags_s),
            resident_bytes=resident_bytes(),
            cpu_s=time.process_time(),
        )

    async def run(self) -> None:
        """Note the figures every few seconds, and how late the event loop is, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat())
            group.create_task(self._watch_the_loop())

    async def leave(self) -> None:
        """Say that this process has ended."""
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await self._commands.run(self.registry.leave, self._name)
        except (RedisUnavailable, TimeoutError):
            log.debug("could not say good-bye; Redis forgets this process by itself")

    async def _beat(self) -> None:
        while True:
            try:
                await self._commands.run(self.registry.beat, self.figures())
            except RedisUnavailable:
                log.debug("could not note the figures; Redis is away")
            except Exception:
                log.exception("noting the figures failed; it goes on")
            await asyncio.sleep(BEAT_INTERVAL_S)

    async def _watch_the_loop(self) -> None:
        """Sleep, and see how much longer it took: what every stream waited for, too."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            await asyncio.sleep(LAG_INTERVAL_S)
            self._lags_s.append(max(0.0, loop.time() - began_s - LAG_INTERVAL_S))


def replica_registry(client: RedisClient) -> HeartbeatRegistry[ReplicaFigures]:
    """The HTTP processes."""
    return HeartbeatRegistry(client, ReplicaFigures, names=keys.REPLICAS, key=keys.replica, ttl_s=REPLICA_TTL_S)


def resident_bytes() -> int:
    """The memory of this process that is in RAM."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _peak_bytes()


def _peak_bytes() -> int:
    """Systems without /proc tell only the most that it ever was; macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
