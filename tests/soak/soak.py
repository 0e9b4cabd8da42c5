"""The soak: many trials at a time over two replicas and one Redis to which everything happens."""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.soak.trial import Trial
from tests.soak.world import World
from tests.support.replicas import LocalReplica, ProcessReplica, Replica

#: Trials that run at a time.
AT_ONCE = 128


@dataclass
class Report:
    """What was done, and what was wrong."""

    trials: int = 0
    seed: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    slowest_end_s: float = 0.0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = self.counts.get
        return (
            f"{self.trials:,} trials, {said('joins', 0):,} joins, {said('kills', 0):,} kills, "
            f"{said('restarts', 0) + said('wipes', 0):,} restarts ({said('wipes', 0):,} without data), "
            f"{said('freezes', 0):,} freezes, {said('retries', 0):,} retries, {said('zombies', 0):,} zombies, "
            f"{said('unknown', 0):,} lost ids asked for, {said('stopped', 0):,} stopped by 204, "
            f"{len(self.violations)} violations; slowest end {self.slowest_end_s:.2f} s, seed {self.seed}, "
            f"{self.seconds:.0f} s"
        )


def soak(
    trials: int,
    seed: int,
    *,
    processes: bool = False,
    most_violations: int = 20,
    tell: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Run the trials in an event loop of their own, until one too many was violated.

    `processes`: the replicas are `hive serve` processes. `tell` is given the report as it stands, after every
    thousand trials.
    """
    # The loop that hive serves with: its transports differ from asyncio's in what they buffer.
    with (
        tempfile.TemporaryDirectory(prefix="hive-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_Soak(Path(folder), trials, seed, processes, most_violations, tell).run())


class _Soak:
    def __init__(
        self,
        folder: Path,
        trials: int,
        seed: int,
        processes: bool,
        most_violations: int,
        tell: Callable[[Report], None],
    ) -> None:
        self._most_violations = most_violations
        self._rng = random.Random(seed)
        self._tell = tell
        self._numbers = iter(range(1, trials + 1))
        self._began_s = time.monotonic()
        self.report = Report(seed=seed)
        self._world = World(folder, self._rng)
        made = ProcessReplica if processes else LocalReplica
        self._replicas: list[Replica] = [made(self._world.url, folder / f"replica-{n}") for n in range(2)]

    async def run(self) -> Report:
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        watch = _ErrorLog(self.report.violations)
        logger = logging.getLogger("hive")
        logger.addHandler(watch)
        propagate, logger.propagate = logger.propagate, False
        try:
            await asyncio.gather(*(replica.start() for replica in self._replicas))
            await self._play()
            for replica in self._replicas:
                self.report.violations += await replica.stop()
        finally:
            logger.removeHandler(watch)
            logger.propagate = propagate
            await asyncio.to_thread(self._world.close)
        self._sum_up()
        return self.report

    async def _play(self) -> None:
        calm = asyncio.Event()
        trouble = asyncio.create_task(self._world.disturb(calm))
        players = [asyncio.create_task(self._play_one_after_the_other()) for _ in range(AT_ONCE)]
        try:
            await asyncio.wait(players, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for player in players:
                player.cancel()
            for ended in await asyncio.gather(*players, return_exceptions=True):
                if isinstance(ended, Exception) and not isinstance(ended, _EnoughError):
                    self.report.violations.append(f"a trial failed: {ended!r}")
            calm.set()
            await trouble

    async def _play_one_after_the_other(self) -> None:
        urls = [replica.url for replica in self._replicas]
        for number in self._numbers:
            trial = Trial(number, self._world, urls, random.Random(self._rng.getrandbits(64)))
            self.report.violations += await trial.run()
            self.report.trials += 1
            if self.report.trials % 1000 == 0:
                self._sum_up()
                self._tell(self.report)
            if len(self.report.violations) >= self._most_violations:
                raise _EnoughError

    def _sum_up(self) -> None:
        self.report.counts = dict(self._world.counts)
        self.report.slowest_end_s = self._world.slowest_end_s
        self.report.seconds = time.monotonic() - self._began_s

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.report.violations.append(f"unhandled in the event loop: {context}")


class _EnoughError(Exception):
    """Too much was violated to go on."""


class _ErrorLog(logging.Handler):
    """What hive logs as an error is a violation: a loop that failed, a request that crashed."""

    def __init__(self, violations: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._violations = violations

    def emit(self, record: logging.LogRecord) -> None:
        self._violations.append(f"logged: {self.format(record)}")
