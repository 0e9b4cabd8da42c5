"""The faults of the soak: what each does, whom it hits, and from when on the recovery counts.

A fault is a generator: it does something, yields for how many seconds it wants to wait, and puts right what it broke.
So that the soak goes on meanwhile, nothing here sleeps.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.world import Holding, RestartableProcess, World
from tests.hub import faults as origin
from tests.hub.faults import Fault as OriginFault
from tests.support.content import MIB
from tests.support.release import RELEASES
from tests.support.waiting import AT_ONCE_S

#: Seconds within which a process that was told to stop must be gone.
EXIT_S = 5.0
#: Seconds in which a pod must end before it is killed with all its processes (`worker.graceSeconds` of the chart), and
#: those of an impatient node, at most.
GRACE_S, HASTY_GRACE_S = 30.0, 0.5
#: Seconds until a pod that was taken away comes back, at most, and between two looks whether it is gone, or there.
SCALED_IN_S, LOOK_S = 3.0, 0.05
#: Bytes that the end of a worker may cost the download that it has in hand: fetched again by the next one.
AGAIN_BYTES = 64 * MIB
#: Seconds that Redis is away, at most, and that a process is frozen, at most.
AWAY_S, FROZEN_S = 20.0, 15.0
#: Seconds for which a cable is silent, Redis is full, and the origin misbehaves.
SILENT_S, FULL_S, ORIGIN_S = (2.0, 12.0), (2.0, 8.0), 6.0

#: From when the time until bytes flow again counts: from the fault's begin, or from its end.
Since = Literal["begin", "end"]
#: Whom it hits: those that it names, all that run, the viewers of one replica, or nobody.
Hits = Literal["named", "running", "viewers", "nobody"]


@dataclass
class Strike:
    """One fault at work."""

    number: int
    kind: str
    rng: random.Random
    world: World
    #: Who ran what when it began.
    holdings: Sequence[Holding]
    began_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    #: What it did, for people.
    note: str = ""
    #: The downloads that it names, and the replica whose viewers it hits.
    named: list[str] = field(default_factory=list)
    replica: int | None = None
    #: What it found that must not be.
    wrong: list[str] = field(default_factory=list)

    def pick(self) -> Holding:
        """One of those who are at work."""
        holding = self.rng.choice(self.holdings)
        self.named = [holding.download_id]
        return holding

    def pick_pool(self) -> RestartableProcess:
        """A pool that is at work; all that it runs is hit."""
        busy = {holding.pool.name for holding in self.holdings}
        pool = self.rng.choice([pool for pool in self.world.pools if pool.name in busy])
        self.name_all_of([pool])
        return pool

    def pick_half(self) -> list[RestartableProcess]:
        """Half of all pools, at work or not; all that they run is hit."""
        pools = self.rng.sample(self.world.pools, max(1, len(self.world.pools) // 2))
        self.name_all_of(pools)
        return pools

    def name_all_of(self, pools: Sequence[RestartableProcess]) -> None:
        """What these pools run is hit."""
        self.named = [holding.download_id for holding in self.holdings if holding.pool in pools]


Play = Callable[[Strike], Iterator[float]]


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    play: Play
    hits: Hits = "named"
    since: Since = "begin"
    needs_work: bool = True
    #: Bytes that it may cost each download that it hits; None where nothing is promised.
    again_bytes: int | None = None
    #: Whether it is played where no kind is named.
    by_default: bool = True


# -- workers -----------------------------------------------------------------------------------------------------------


def _kill(strike: Strike, note: str, *pids: int) -> None:
    strike.note = note
    strike.world.kill(*pids)


def horse_kill(strike: Strike) -> Iterator[float]:
    holding = strike.pick()
    _kill(strike, f"kill -9 of horse {holding.horse}", holding.horse)
    yield 0


def worker_kill(strike: Strike) -> Iterator[float]:
    holding = strike.pick()
    _kill(strike, f"kill -9 of worker {holding.worker} and horse {holding.horse}", holding.worker, holding.horse)
    yield 0


def parent_kill(strike: Strike) -> Iterator[float]:
    holding = strike.pick()
    _kill(strike, f"kill -9 of worker {holding.worker} alone", holding.worker)
    yield 0


def pool_kill(strike: Strike) -> Iterator[float]:
    pool = strike.pick_pool()
    strike.note = f"kill -9 of {pool.name}, its workers are left to the kernel"
    pool.kill()
    yield 2
    pool.restart()


def pool_stop(strike: Strike) -> Iterator[float]:
    pool = strike.pick_pool()
    took_s = pool.stop()
    strike.note = f"SIGTERM of {pool.name}, gone after {took_s:.2f} s"
    if took_s > EXIT_S:
        strike.wrong.append(f"{pool.name} took {took_s:.1f} s to stop")
    pool.start()
    yield 0


def scale_in(strike: Strike) -> Iterator[float]:
    """Half of the fleet is told to stop at the same time, and killed where it does not; then it comes back."""
    yield from _scale_in(strike, GRACE_S)


def scale_in_hasty(strike: Strike) -> Iterator[float]:
    """The same with a grace that may be too short."""
    yield from _scale_in(strike, strike.rng.uniform(0, HASTY_GRACE_S))


def scale_in_kill(strike: Strike) -> Iterator[float]:
    """The same without a word."""
    yield from _scale_in(strike, 0.0)


def _scale_in(strike: Strike, grace_s: float) -> Iterator[float]:
    pools = strike.pick_half()
    how = f"SIGTERM, kill -9 after {grace_s:.2f} s" if grace_s else "kill -9"
    strike.note = f"{', '.join(pool.name for pool in pools)} taken away ({how}), with {len(strike.named)} downloads"
    if grace_s:
        for pool in pools:
            pool.process.signal(signal.SIGTERM)
    while (waited_s := time.monotonic() - strike.began_s) < grace_s and not all(pool.is_gone for pool in pools):
        yield LOOK_S
    for pool in pools:
        if not pool.is_gone:
            strike.world.killed.update(pool.kill_all())
        pool.stop()  # it is over: whether it ended in order
    if waited_s > AT_ONCE_S:
        strike.wrong.append(f"{waited_s:.1f} s until these had stopped: {strike.note}")
    yield strike.rng.uniform(0, SCALED_IN_S)
    for pool in pools:
        pool.launch()
    while not all(pool.is_ready for pool in pools):
        yield LOOK_S


def _frozen(strike: Strike, what: str, *pids: int) -> Iterator[float]:
    seconds = strike.rng.uniform(1, FROZEN_S)
    strike.note = f"SIGSTOP of {what} for {seconds:.1f} s"
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield seconds
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def horse_freeze(strike: Strike) -> Iterator[float]:
    holding = strike.pick()
    return _frozen(strike, f"horse {holding.horse}", holding.horse)


def worker_freeze(strike: Strike) -> Iterator[float]:
    holding = strike.pick()
    return _frozen(strike, f"worker {holding.worker} and its horse", holding.horse, holding.worker)


def worker_cut(strike: Strike) -> Iterator[float]:
    pool, seconds = strike.pick_pool(), strike.rng.uniform(*SILENT_S)
    strike.note = f"black hole between {pool.name} and Redis for {seconds:.1f} s"
    pool.cable.silence()
    yield seconds
    pool.cable.silence(False)


def worker_reset(strike: Strike) -> Iterator[float]:
    pool = strike.pick_pool()
    strike.note = f"every connection between {pool.name} and Redis reset, ten times"
    for _ in range(10):
        pool.cable.reset()
        yield 0.1


# -- replicas ----------------------------------------------------------------------------------------------------------


def _pick_replica(strike: Strike) -> RestartableProcess:
    strike.replica = strike.rng.randrange(len(strike.world.replicas))
    return strike.world.replicas[strike.replica]


def replica_kill(strike: Strike) -> Iterator[float]:
    replica = _pick_replica(strike)
    strike.note = f"kill -9 of {replica.name}, started again"
    replica.kill()
    yield strike.rng.uniform(0, 2)
    replica.restart()


def replica_stop(strike: Strike) -> Iterator[float]:
    replica = _pick_replica(strike)
    took_s = replica.stop()
    strike.note = f"SIGTERM of {replica.name}, gone after {took_s:.2f} s, started again"
    if took_s > EXIT_S:
        strike.wrong.append(f"{replica.name} took {took_s:.1f} s to stop")
    replica.start()
    yield 0


def replica_freeze(strike: Strike) -> Iterator[float]:
    replica = _pick_replica(strike)
    return _frozen(strike, replica.name, replica.pid)


def replica_cut(strike: Strike) -> Iterator[float]:
    replica, seconds = _pick_replica(strike), strike.rng.uniform(*SILENT_S)
    strike.note = f"black hole between {replica.name} and Redis for {seconds:.1f} s"
    replica.cable.silence()
    yield seconds
    replica.cable.silence(False)


# -- versions ----------------------------------------------------------------------------------------------------------


def change_version(strike: Strike) -> Iterator[float]:
    """A replica or a pool comes back as the release before, or as this one."""
    process = strike.rng.choice(strike.world.processes)
    yield from _restart_in_order(strike, [process], change_to=_other(process))


def rolling_restart(strike: Strike) -> Iterator[float]:
    """Every replica and every pool, one after the other."""
    yield from _restart_in_order(strike, strike.world.processes)


def rolling_upgrade(strike: Strike) -> Iterator[float]:
    """The same, and they come back as the release before, or as this one: as docs/upgrade.md says, workers are never
    older than the servers that ask them.
    """
    world, version = strike.world, _other(strike.world.processes[0])
    processes = [*world.replicas, *world.pools] if version else [*world.pools, *world.replicas]
    yield from _restart_in_order(strike, processes, change_to=version)


def _other(process: RestartableProcess) -> str:
    """The version that it is not."""
    return "" if process.version else RELEASES[-1]


def _restart_in_order(
    strike: Strike, processes: Sequence[RestartableProcess], *, change_to: str | None = None
) -> Iterator[float]:
    world = strike.world
    what = "restart" if change_to is None else f"change to {change_to or 'this version'}"
    strike.note = f"{what}: {', '.join(process.name for process in processes)}"
    for process in processes:
        took_s = process.stop()
        if took_s > AT_ONCE_S:
            strike.wrong.append(f"{process.name} took {took_s:.1f} s to stop")
        if change_to is not None:
            world.change_version(process, change_to)
        process.launch()
        while not process.is_ready or (process in world.replicas and not world.answers(process)):
            yield LOOK_S


# -- Redis -------------------------------------------------------------------------------------------------------------


def redis_kill(strike: Strike) -> Iterator[float]:
    seconds = strike.rng.uniform(0.5, AWAY_S)
    strike.note = f"kill -9 of Redis, away for {seconds:.1f} s"
    strike.world.redis.kill()
    yield seconds
    strike.world.redis.launch()


def redis_freeze(strike: Strike) -> Iterator[float]:
    pid = strike.world.redis.pid
    assert pid is not None
    return _frozen(strike, "Redis", pid)


def redis_full(strike: Strike) -> Iterator[float]:
    seconds = strike.rng.uniform(*FULL_S)
    strike.note = f"maxmemory reached for {seconds:.1f} s"
    strike.world.client.config_set("maxmemory", 1)
    yield seconds
    strike.world.client.config_set("maxmemory", 0)


def redis_kick(strike: Strike) -> Iterator[float]:
    kind = strike.rng.choice(("pubsub", "normal"))
    count = strike.world.client.client_kill_filter(_type=kind, skipme=True)
    strike.note = f"CLIENT KILL TYPE {kind}: {count} connections"
    yield 0


def redis_flush(strike: Strike) -> Iterator[float]:
    strike.note = "FLUSHALL"
    strike.world.client.flushall()
    yield 0


# -- the origin --------------------------------------------------------------------------------------------------------


def _origin(note: str, make: Callable[[random.Random], OriginFault], count: int = 1) -> Play:
    def play(strike: Strike) -> Iterator[float]:
        strike.note = f"the origin: {note}"
        rule = strike.world.hub.faults.add(make(strike.rng), "*.gguf", origin="cdn", method="GET", count=count)
        yield ORIGIN_S
        strike.world.hub.faults.remove(rule)
        strike.note += f", struck {rule.struck} times"

    return play


#: Every fault by its name.
FAULTS: dict[str, Fault] = {
    "horse-kill": Fault(horse_kill, again_bytes=AGAIN_BYTES),
    "worker-kill": Fault(worker_kill, again_bytes=AGAIN_BYTES),
    "parent-kill": Fault(parent_kill, again_bytes=AGAIN_BYTES),
    "pool-kill": Fault(pool_kill, again_bytes=AGAIN_BYTES),
    "pool-stop": Fault(pool_stop, again_bytes=AGAIN_BYTES),
    "scale-in": Fault(scale_in, again_bytes=AGAIN_BYTES),
    "scale-in-hasty": Fault(scale_in_hasty, again_bytes=AGAIN_BYTES),
    "scale-in-kill": Fault(scale_in_kill, again_bytes=AGAIN_BYTES),
    "horse-freeze": Fault(horse_freeze),
    "worker-freeze": Fault(worker_freeze),
    "worker-cut": Fault(worker_cut),
    "worker-reset": Fault(worker_reset),
    "replica-kill": Fault(replica_kill, "viewers"),
    "replica-stop": Fault(replica_stop, "viewers"),
    "replica-freeze": Fault(replica_freeze, "viewers", needs_work=False),
    "replica-cut": Fault(replica_cut, "viewers", "end", needs_work=False),
    "change-version": Fault(change_version, "nobody", needs_work=False, by_default=False),
    "rolling-restart": Fault(rolling_restart, "nobody", needs_work=False, by_default=False),
    "rolling-upgrade": Fault(rolling_upgrade, "nobody", needs_work=False, by_default=False),
    "redis-kill": Fault(redis_kill, "running", "end"),
    "redis-freeze": Fault(redis_freeze, "running", "end"),
    "redis-full": Fault(redis_full, "running", "end"),
    "redis-kick": Fault(redis_kick, "running"),
    "redis-flush": Fault(redis_flush, "running"),
    "origin-cut": Fault(_origin("cut", lambda rng: origin.cut(rng.randrange(1 << 20)), 5), "running"),
    "origin-stall": Fault(_origin("a stall of 25 s", lambda rng: origin.stall(1000, 25), 2), "running"),
    "origin-429": Fault(
        _origin("429, Retry-After 3", lambda rng: origin.too_many_requests(3), 2), "running", needs_work=False
    ),
    "origin-200": Fault(_origin("200 for a range", lambda rng: origin.no_range(), 2), "running"),
    "origin-wrong": Fault(_origin("a wrong byte", lambda rng: origin.wrong_byte(rng.randrange(1 << 20))), "running"),
}

#: Those that are played where none is named.
DEFAULT_KINDS = tuple(name for name, fault in FAULTS.items() if fault.by_default)
