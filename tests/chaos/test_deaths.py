"""F2 to F5: workers that are frozen, die at the worst moments, or are told to stop one after the other.

Kills at any moment are in tests/flow/test_deaths.py, and by the dozen in the soak (tests/chaos/soak.py).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rq import Queue

from hive.redis.client import RedisClient
from hive.settings import Settings
from tests.chaos.marked import MARKS
from tests.chaos.watched_download import LEASE_S, QUICK_BYTES_PER_S, SLOW_BYTES_PER_S, WatchedDownload
from tests.chaos.world import World
from tests.support.content import MIB
from tests.support.waiting import AT_ONCE_S, wait_for
from workers.process.job import DownloadJob
from workers.process.shutdown import SHUTDOWN
from workers.process.worker import DownloadWorker

#: Seconds within which a worker that was told to stop must be gone.
EXIT_S = AT_ONCE_S
#: Seconds of a lease that does not run out while a test waits: who is replaced then was not replaced because of it.
LONG_LEASE_S = 10 * AT_ONCE_S
#: Seconds within which a download of a worker that died must have another: its lease, and what a busy machine adds.
TAKEN_OVER_S = LEASE_S + 2 * AT_ONCE_S
#: Marks before the claim and after the end, where no attempt is lost.
EARLY_OR_LATE = ("a job was taken from the queue", "the end was told")
#: Downloads of the test that stops pools one after the other, and how often each pool is stopped.
DOWNLOADS, ROUNDS = 8, 2
#: How often a pool is stopped as soon as it has started.
HASTY_STARTS = 5
#: Bytes that may be sent again for each worker that is stopped: what lay in the buffers of its 16 connections.
AGAIN_BYTES = 4 * MIB
#: Seconds for which a worker is frozen: within its lease, and far beyond it.
SHORT_S, LONG_S = 0.5, 2.5 * LEASE_S


def freeze(*pids: int) -> float:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return time.monotonic()


def thaw(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_a_worker_that_is_frozen_for_a_moment_goes_on(world: World) -> None:
    download = WatchedDownload(world).under_way()
    holding = world.holding(download.id)
    frozen_s = freeze(holding.horse, holding.worker)
    wait_for(lambda: time.monotonic() - frozen_s > SHORT_S)
    thaw(holding.horse, holding.worker)
    assert download.at_full_speed().complete().attempt == 1


@pytest.mark.parametrize("whole", [True, False], ids=["worker and horse", "horse"])
def test_a_worker_that_was_given_up_and_wakes_is_not_heard(world: World, whole: bool) -> None:
    download = WatchedDownload(world).under_way()
    holding = world.holding(download.id)
    frozen = (holding.horse, holding.worker) if whole else (holding.horse,)
    frozen_s = freeze(*frozen)
    try:
        wait_for(
            lambda: download.watch.attempt == 2 and download.watch.status == "downloading", deadline_s=TAKEN_OVER_S
        )
        wait_for(lambda: time.monotonic() - frozen_s > LONG_S)
    finally:
        thaw(*frozen)
    pool = holding.pool.process
    before = download.watch.bytes_done
    wait_for(lambda: "leaving the download to its new owner" in pool.output, what="a zombie that falls silent")
    wait_for(lambda: download.watch.bytes_done > before)
    assert download.at_full_speed().complete().attempt == 2


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world in which no lease runs out, with a slow Hub."""
    with World(tmp_path_factory.mktemp("p"), HIVE_LEASE_S=str(LONG_LEASE_S)) as world:
        world.hub.limit_rate_bytes_per_s = SLOW_BYTES_PER_S
        yield world
    assert world.judge() + world.leftovers() == []


@pytest.mark.parametrize("amnesia", [False, True], ids=["", "and Redis has lost its job"])
def test_a_killed_horse_is_replaced_at_once(patient: World, amnesia: bool) -> None:
    world = patient
    world.hub.limit_rate_bytes_per_s = SLOW_BYTES_PER_S  # the one before let it go at full speed
    download = WatchedDownload(world).under_way()
    holding = world.holding(download.id)
    if amnesia:
        world.client.delete(*world.client.keys("rq:job:*"))
    world.kill(holding.horse)
    wait_for(lambda: download.watch.attempt == 2)
    assert download.at_full_speed().complete().attempt == 2


@pytest.fixture(scope="module")
def workless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world to which each test brings workers of its own."""
    world = World(tmp_path_factory.mktemp("m"), replicas=2, pools=0, HIVE_LEASE_S=str(LEASE_S))
    world.hub.limit_rate_bytes_per_s = QUICK_BYTES_PER_S
    yield world
    world.close()
    assert world.leftovers() == []


@pytest.mark.parametrize("mark", MARKS)
def test_a_worker_that_dies_at_a_marked_point_is_made_good(workless: World, tmp_path: Path, mark: str) -> None:
    flag = tmp_path / "died"
    env = workless.env
    workless.env = {**env, "CHAOS_MARK": mark, "CHAOS_FLAG": str(flag)}
    pool = workless.add_pool(f"marked-{len(workless.processes)}", 2, ("tests.chaos.marked",))
    workless.env = env
    workless.pools = [pool]
    download = WatchedDownload(workless, 20 * MIB)
    try:
        wait_for(flag.exists, what=f"a death where {mark}")
        died_s = time.monotonic()
        end = download.complete()
        assert time.monotonic() - died_s < TAKEN_OVER_S
    finally:
        took_s = pool.stop()
    assert end.attempt == (1 if mark in EARLY_OR_LATE else 2)
    assert download.sent < download.content.size + AGAIN_BYTES
    assert took_s < EXIT_S


def test_workers_are_stopped_one_pool_after_the_other_while_downloads_run(world: World) -> None:
    wanted = [WatchedDownload(world, 20 * MIB, viewers=1) for _ in range(DOWNLOADS)]
    wanted[0].under_way()
    exits_s = []
    for _ in range(ROUNDS):
        for pool in world.pools:
            wait_for(lambda pool=pool: any(holding.pool is pool for holding in world.holdings()), what="work")  # type: ignore[misc]
            exits_s.append(pool.stop())
            pool.start()
    world.hub.limit_rate_bytes_per_s = QUICK_BYTES_PER_S
    for download in wanted:
        download.complete()
    assert max(exits_s) < EXIT_S
    again = sum(download.sent - download.content.size for download in wanted)
    stops = len(exits_s) * 2
    assert again < stops * AGAIN_BYTES, f"{again / MIB:.1f} MiB fetched again in {stops} stops of a worker"


def test_a_pool_that_is_stopped_as_soon_as_it_has_started_ends(workless: World) -> None:
    """Its workers have just been forked, and may not listen to signals of their own yet."""
    pool = workless.add_pool("hasty", 4)
    for _ in range(HASTY_STARTS):
        assert pool.stop() < EXIT_S
        pool.start()
    pool.stop()


def test_a_horse_that_is_told_to_stop_before_it_listens_will_stop(settings: Settings, store: RedisClient) -> None:
    """It has the handler of its parent for a moment, which would wait for a horse."""
    worker = DownloadWorker(settings, Queue("x", connection=store, serializer="json", job_class=DownloadJob), "hasty")
    horse = os.fork()
    if not horse:
        worker.request_stop(signal.SIGTERM, None)
        os._exit(0 if SHUTDOWN.requested else 1)
    assert os.waitpid(horse, 0)[1] == 0
    assert not SHUTDOWN.requested
