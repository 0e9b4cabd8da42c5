"""The soak: downloads keep coming, and every few seconds something that may happen does."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive.redis.errors import is_redis_error
from hive.wire.events import Complete
from tests.chaos.faults import DEFAULT_KINDS, FAULTS, Strike
from tests.chaos.orders import LARGEST_BYTES, SMALLEST_BYTES, LoadGenerator, Order
from tests.chaos.prober import Prober
from tests.chaos.recoveries import Reconnection, Recovery, begin
from tests.chaos.report import Report, quantile
from tests.chaos.watchman import Watchman
from tests.chaos.world import Holding, World
from tests.hub.messages import PACE_STEP_S
from tests.support.content import MIB

#: Seconds between two looks at everything.
TICK_S = 0.02
#: Seconds after the last fault within which all downloads must have ended.
DRAIN_S = 180.0
#: Seconds within which bytes must flow again after a fault; beyond, it is given up, and the download's end decides.
GIVE_UP_S = 90.0
#: Bytes a second of one connection where nothing else is said.
RATE_BYTES_PER_S = 0.35 * MIB
#: What is promised of a fault that is played alone: seconds at the 95th percentile, from so many on.
PROMISES_S, PROMISED_FROM = {"worker-kill": 8.0, "parent-kill": 8.0}, 20
#: Seconds for which a soak goes on beyond its time where too few faults were played.
MAX_OVERTIME_S = 300.0
#: What nobody must notice who comes through a load balancer.
UNSEEN = frozenset({"change-version", "rolling-restart", "rolling-upgrade"})
#: Seconds from FLUSHALL until every record must be back.
BACK_S = 15.0


@dataclass(frozen=True)
class Plan:
    """What is to be played."""

    seconds: float
    seed: int = 1
    every_s: float = 20.0
    kinds: Sequence[str] = DEFAULT_KINDS
    #: Downloads under way at a time.
    at_once: int = 3
    smallest_bytes: int = SMALLEST_BYTES
    largest_bytes: int = LARGEST_BYTES
    #: Whether people reach the replicas through nginx, and the release whose code the processes run at first.
    balanced: bool = False
    version: str = ""
    #: Pools, and workers of each.
    pools: int = 2
    workers: int = 2
    #: Bytes a second of one connection to the stand-in: a download has up to 16 of them, and is to last.
    rate_bytes_per_s: float = RATE_BYTES_PER_S
    #: Seconds of traffic that the stand-in sends in one piece.
    pace_step_s: float = PACE_STEP_S
    #: Whether the rest comes at full speed, over new connections: what the old ones carried is fetched again then.
    hurry: bool = True
    #: Whether people pause and cancel.
    meddle: bool = True
    lease_s: float = 6.0
    #: It goes on until so many faults were played, for `MAX_OVERTIME_S` longer at most: a busy machine plays fewer.
    min_faults: int = 0


#: A fleet that is scaled in and out: pods of one worker each, and models that outlast several rounds. The machine has
#: to keep up with all of them, so one connection is slow.
FLEET: dict[str, Any] = {
    "every_s": 10.0,
    "pools": 8,
    "workers": 1,
    "at_once": 8,
    "smallest_bytes": 64 * MIB,
    "largest_bytes": 192 * MIB,
    "rate_bytes_per_s": 0.2 * MIB,
    "pace_step_s": 0.1,
    "meddle": False,
    "hurry": False,
}


def soak(plan: Plan, tell: Callable[[str], None] = lambda line: None, logs: Path | None = None) -> Report:
    """Play it, from this thread. `logs`: where the processes' output goes."""
    folder = Path(tempfile.mkdtemp(prefix="hive-chaos-"))
    try:
        return _Soak(plan, folder, tell).run(logs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Soak:
    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._tell_line = tell
        self._folder = folder
        self.report = Report(plan.seed)
        self._playing: tuple[Strike, Iterator[float]] | None = None
        self._wake_s = 0.0
        self._recovering: list[Recovery | Reconnection] = []
        self._untold: list[Strike] = []
        self._kind_of: dict[int, str] = {}
        self._strikes = self._draw(random.Random(f"faults {plan.seed}"))
        self._next = next(self._strikes)
        #: When everything ran; the time of the plan counts from there.
        self._began_s = 0.0

    def run(self, logs: Path | None) -> Report:
        began_s = time.monotonic()
        plan = self._plan
        lease_s = str(plan.lease_s)
        with World(
            self._folder,
            pools=plan.pools,
            concurrency=plan.workers,
            balanced=plan.balanced,
            version=plan.version,
            HIVE_LEASE_S=lease_s,
        ) as world:
            self._world = world
            self._began_s = time.monotonic()
            world.hub.limit_rate_bytes_per_s = plan.rate_bytes_per_s
            world.hub.pace_step_s = plan.pace_step_s
            sizes = (plan.smallest_bytes, plan.largest_bytes)
            load = self._load = LoadGenerator(
                world, random.Random(f"orders {plan.seed}"), sizes=sizes, meddle=plan.meddle
            )
            watchman = Watchman(world.redis.url)
            prober = Prober(world.urls)
            try:
                self._play()
                self._drain()
            finally:
                load.close()
                prober.stop()
                watchman.stop()
                with contextlib.suppress(OSError):
                    if logs is not None:
                        world.write_logs(logs)
            self.report.violations += watchman.wrong
            self.report.asked, self.report.unanswered = prober.asked, len(prober.failures)
            if set(plan.kinds) <= UNSEEN and plan.balanced:
                self.report.violations += [f"a request failed: {failure}" for failure in prober.failures]
            try:
                world.close()
            finally:
                if logs is not None:
                    world.write_logs(logs)
            self.report.violations += world.judge() + world.leftovers()
        self._keep_promises()
        self.report.seconds = time.monotonic() - began_s
        return self.report

    # -- the course of things ----------------------------------------------------------------------------------------

    def _play(self) -> None:
        next_s = time.monotonic() + min(5.0, self._plan.every_s)
        while self._goes_on() or self._playing is not None:
            if self._goes_on() and self._load.live < self._plan.at_once:
                self._load.ask()
            if self._playing is None and next_s <= time.monotonic() and self._goes_on() and self._strike():
                next_s = max(next_s + self._plan.every_s, time.monotonic() + 1)
            self._tick()

    def _goes_on(self) -> bool:
        """Whether more is to be asked for, and to be broken."""
        played = sum(row.count for row in self.report.rows.values())
        overtime_s = MAX_OVERTIME_S if played < self._plan.min_faults else 0.0
        return time.monotonic() < self._began_s + self._plan.seconds + overtime_s

    def _drain(self) -> None:
        deadline_s = time.monotonic() + DRAIN_S
        if self._plan.hurry:
            self._world.hub.limit_rate_bytes_per_s = None
            self._world.hub.close_connections()
        while self._load.live and time.monotonic() < deadline_s:
            self._load.at_full_speed()
            self._tick()
        for order in self._load.orders:
            how = f"{order.watch.status}, attempt {order.watch.attempt}, {order.watch.bytes_done} of {order.size}"
            self.report.violations.append(f"{order.watch.id}: has not ended in {DRAIN_S:.0f} s: {how}")
        for strike in list(self._untold):
            self._conclude(strike)

    def _tick(self) -> None:
        time.sleep(TICK_S)
        if self._playing is not None and time.monotonic() >= self._wake_s:
            self._go_on()
        for order in self._load.tick():
            self._see_out(order)
        for recovery in self._recovering:
            if not recovery.over:
                recovery.look()
        for strike in list(self._untold):
            mine = [r for r in self._recovering if r.strike is strike]
            late = strike.ended_s is not None and time.monotonic() - strike.ended_s > GIVE_UP_S
            if strike.ended_s is not None and (late or all(r.over for r in mine)):
                self._conclude(strike)

    # -- faults ------------------------------------------------------------------------------------------------------

    def _draw(self, rng: random.Random) -> Iterator[tuple[int, str, random.Random]]:
        """The faults in their order: every kind comes once before any comes again."""
        numbers = itertools.count(1)
        while True:
            for kind in rng.sample(list(self._plan.kinds), len(self._plan.kinds)):
                yield next(numbers), kind, random.Random(rng.getrandbits(64))

    def _strike(self) -> bool:
        """Begin the next fault; False where nobody is at work whom it could hit."""
        number, kind, rng = self._next
        holdings = self._holdings()
        if FAULTS[kind].needs_work and not holdings:
            return False
        self._next = next(self._strikes)
        strike = Strike(number, kind, rng, self._world, holdings)
        self._kind_of[number] = kind
        if kind == "redis-flush":
            self._load.lost_until_s = time.monotonic() + BACK_S
        self._playing = strike, FAULTS[kind].play(strike)
        self._untold.append(strike)
        self.report.rows[kind].count += 1
        before = [(order, order.watch.attempt, order.watch.bytes_done) for order in self._load.orders]
        self._go_on()
        for recovery in begin(strike, self._load.orders):
            if isinstance(recovery, Recovery):
                recovery.attempt, recovery.shown = next((a, b) for o, a, b in before if o is recovery.order)
            self._recovering.append(recovery)
        self._tell(f"#{number} {kind}: {strike.note}")
        return True

    def _go_on(self) -> None:
        assert self._playing is not None
        strike, steps = self._playing
        try:
            self._wake_s = time.monotonic() + next(steps)
        except StopIteration:
            strike.ended_s = time.monotonic()
            self._playing = None

    def _conclude(self, strike: Strike) -> None:
        """Tell how it went."""
        self._untold.remove(strike)
        mine = [r for r in self._recovering if r.strike is strike]
        self._recovering = [r for r in self._recovering if r.strike is not strike]
        times = sorted(r.took_s for r in mine if r.took_s is not None)
        self.report.rows[strike.kind].recoveries_s += times
        self.report.violations += strike.wrong
        late = [r for r in mine if not r.over]
        said = ", ".join(f"{took_s:.2f}" for took_s in times) or "nobody to wait for"
        verdict = "VIOLATION" if strike.wrong else f"{len(late)} still waiting" if late else "ok"
        self._tell(f"   #{strike.number} {strike.kind}: well again after {said} s; {verdict}")

    def _holdings(self) -> list[Holding]:
        try:
            return self._world.holdings()
        except Exception as error:
            if not is_redis_error(error):
                raise
            return []

    # -- downloads ---------------------------------------------------------------------------------------------------

    def _see_out(self, order: Order) -> None:
        end = order.watch.last
        kind = "complete" if isinstance(end, Complete) else "cancelled" if order.cancelled else "failed"
        self.report.downloads[kind] += 1
        self.report.violations += order.wrong
        if isinstance(end, Complete):
            self.report.bytes_brought += order.size
            self.report.bytes_again += order.fetched_again
        seconds = (order.ended_s or 0.0) - order.asked_s
        kinds = [self._kind_of[number] for number in order.strikes]
        if len(set(kinds)) == 1 and isinstance(end, Complete):
            self.report.rows[kinds[0]].note_again(len(kinds), order.fetched_again)
        self.report.violations += self._too_much_again(order, kinds)
        self._tell(
            f"   {order.watch.id[:8]} {kind}: {order.size / MIB:.1f} MiB in {seconds:.0f} s, attempt "
            f"{order.watch.attempt}, {order.fetched_again / MIB:.2f} MiB fetched again, "
            f"faults {order.strikes or 'none'}; {'VIOLATION' if order.wrong else 'ok'}"
        )
        for problem in order.wrong:
            self._tell(f"VIOLATION {problem}")

    def _too_much_again(self, order: Order, kinds: Sequence[str]) -> list[str]:
        """Whether more was fetched again than the faults may cost; an attempt that ended unseen counts as one."""
        each = [FAULTS[kind].again_bytes for kind in kinds]
        bounds = [bound for bound in each if bound is not None]
        if not bounds or len(bounds) < len(each):
            return []
        allowed = max(bounds) * max(len(bounds), order.watch.attempt - 1)
        if order.fetched_again <= allowed:
            return []
        return [f"{order.watch.id}: {order.fetched_again / MIB:.1f} MiB fetched again, by {len(kinds)} of {set(kinds)}"]

    def _keep_promises(self) -> None:
        for kind, promised_s in PROMISES_S.items():
            times = sorted(self.report.rows[kind].recoveries_s) if kind in self.report.rows else []
            if list(self._plan.kinds) == [kind] and len(times) >= PROMISED_FROM:
                p95_s = quantile(times, 0.95)
                if p95_s >= promised_s:
                    self.report.violations.append(f"{kind}: {p95_s:.1f} s at the 95th percentile, not {promised_s:.0f}")

    def _tell(self, line: str) -> None:
        self._tell_line(f"{time.monotonic() - self._began_s:7.1f} {line}")
