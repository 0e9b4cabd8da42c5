"""F6, F9, F10, F14: Redis is frozen, far away, silent, cut off or full; and the reply of each script is lost."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator

import pytest
import requests

from hive.downloads import scripts
from hive.wire.events import Error
from tests.chaos.watched_download import LEASE_S, WatchedDownload
from tests.chaos.world import World
from tests.hub import faults
from tests.support.content import MIB
from tests.support.processes import children
from tests.support.waiting import AT_ONCE_S, DEADLINE_S, wait_for

#: Seconds within which the API must say that it cannot answer.
REFUSAL_S = AT_ONCE_S
#: Seconds after the return of Redis within which a download that only wanted to end must have ended.
END_S = 2 * AT_ONCE_S
#: Seconds of an outage: longer than a lease.
OUTAGE_S = 2 * LEASE_S


@pytest.fixture
def world_of_cables(world: World) -> Iterator[World]:
    """All cables are whole again afterwards, and nobody quit."""
    workers = [pid for pool in world.pools for pid in children(pool.pid)]
    yield world
    for process in world.processes:
        process.cable.silence(False)
        process.cable.delay_s = 0.0
    world.client.config_set("maxmemory", 0)
    assert [pid for pool in world.pools for pid in children(pool.pid)] == workers, "a worker quit"


def wait_out(seconds: float) -> None:
    began_s = time.monotonic()
    wait_for(lambda: time.monotonic() - began_s > seconds, deadline_s=seconds + DEADLINE_S)


def test_a_redis_that_is_frozen_costs_no_attempt(world_of_cables: World) -> None:
    world = world_of_cables
    download = WatchedDownload(world).under_way()
    pid = world.redis.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    world.hub.limit_rate_bytes_per_s = None
    wait_out(OUTAGE_S)
    os.kill(pid, signal.SIGCONT)
    back_s = time.monotonic()
    assert download.at_full_speed().complete().attempt == 1
    assert time.monotonic() - back_s < END_S


def test_a_file_that_arrives_in_the_first_moments_of_an_outage_is_kept(world_of_cables: World) -> None:
    """The transfer is not held yet; what it has to say to Redis about the file must wait, or need not be said."""
    world = world_of_cables
    download = WatchedDownload(world).under_way()
    pid = world.redis.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    download.at_full_speed()
    wait_out(LEASE_S / 2)
    os.kill(pid, signal.SIGCONT)
    assert download.complete().attempt == 1


def test_a_redis_far_away_slows_nothing_but_words(world_of_cables: World) -> None:
    world = world_of_cables
    for process in world.processes:
        process.cable.delay_s = 0.1
    download = WatchedDownload(world).under_way()
    assert download.at_full_speed().complete().attempt == 1


def test_a_replica_that_hears_nothing_of_redis_says_so_in_time(world_of_cables: World) -> None:
    world = world_of_cables
    download = WatchedDownload(world, only=0).under_way()
    world.replicas[0].cable.silence()
    for path in ("/v1/downloads", f"/v1/downloads/{download.id}", "/readyz"):
        began_s = time.monotonic()
        assert requests.get(world.replicas[0].url + path, timeout=60).status_code == 503, path
        assert time.monotonic() - began_s < REFUSAL_S, path
    assert requests.get(f"{world.replicas[0].url}/healthz", timeout=60).status_code == 200
    assert requests.get(f"{world.replicas[1].url}/v1/downloads", timeout=60).status_code == 200
    world.replicas[0].cable.silence(False)
    assert download.at_full_speed().complete().attempt == 1


def test_connections_that_are_reset_again_and_again_cost_no_end(world_of_cables: World) -> None:
    world = world_of_cables
    download = WatchedDownload(world).under_way()
    for _ in range(20):
        for process in world.processes:
            process.cable.reset()
        wait_out(0.1)
    assert download.at_full_speed().complete().attempt == 1


def sha_of(script: str) -> bytes:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()


@pytest.mark.parametrize("name", ["CREATE", "CLAIM", "PUBLISH", "RENEW", "RELEASE", "FINISH", "CONTROL"])
def test_the_lost_reply_of_a_script_is_asked_for_again(world_of_cables: World, name: str) -> None:
    """Every script is used once: a download is silent for a while, is paused, resumed and finished."""
    world = world_of_cables
    world.hub.limit_rate_bytes_per_s = None
    WatchedDownload(world, MIB).complete()  # the scripts are known to Redis
    dropped = sum(process.cable.dropped for process in world.processes)
    for process in world.processes:
        process.cable.drop_reply_to(sha_of(getattr(scripts, name)))
    world.hub.faults.add(faults.stall(MIB), "*.gguf", origin="cdn")
    download = WatchedDownload(world).under_way(1)
    wait_out(LEASE_S)  # nothing comes, so the lease is renewed in silence
    assert world.ask("POST", f"/v1/downloads/{download.id}/pause").status_code == 202
    wait_for(lambda: download.watch.status == "paused")
    world.hub.faults.clear()
    assert world.ask("POST", f"/v1/downloads/{download.id}/resume").status_code == 202
    assert download.complete().attempt == 3, "one for the pause, one for what came after"
    assert sum(process.cable.dropped for process in world.processes) > dropped, "no reply was lost"


def test_a_worker_cut_off_from_redis_stops_writing_within_its_lease(world_of_cables: World) -> None:
    world = world_of_cables
    download = WatchedDownload(world).under_way()
    holding = world.holding(download.id)
    others = [pid for pool in world.pools for pid in children(pool.pid) if pid != holding.worker]
    for pid in others:  # nobody else may write
        os.kill(pid, signal.SIGSTOP)
    try:
        holding.pool.cable.silence()
        wait_out(LEASE_S)
        written = download.partial.stat().st_mtime_ns
        wait_out(LEASE_S)
        assert download.partial.stat().st_mtime_ns == written
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
        holding.pool.cable.silence(False)
    assert download.at_full_speed().complete().attempt in (1, 2), holding.pool.process.output


def test_a_download_of_a_worker_that_is_cut_off_goes_on_at_another(world_of_cables: World) -> None:
    world = world_of_cables
    download = WatchedDownload(world).under_way()
    holding = world.holding(download.id)
    holding.pool.cable.silence()
    wait_for(lambda: download.watch.attempt == 2 and download.watch.status == "downloading")
    assert world.holding(download.id).pool is not holding.pool
    holding.pool.cable.silence(False)
    assert download.at_full_speed().complete().attempt == 2


def test_a_full_redis_refuses_new_work_and_loses_none(world_of_cables: World) -> None:
    world = world_of_cables
    download = WatchedDownload(world).under_way()
    world.client.config_set("maxmemory", 1)
    began_s = time.monotonic()
    answer = requests.post(
        f"{world.replicas[0].url}/v1/models/download", json={"model_ref": "hf:chaos/more"}, timeout=60
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORE_UNAVAILABLE")
    assert time.monotonic() - began_s < REFUSAL_S
    download.at_full_speed()
    wait_out(OUTAGE_S)
    assert not download.watch.over
    world.client.config_set("maxmemory", 0)
    freed_s = time.monotonic()
    download.complete()
    assert time.monotonic() - freed_s < END_S


def test_a_cancel_is_heard_after_an_outage(world_of_cables: World) -> None:
    world = world_of_cables
    download = WatchedDownload(world).under_way()
    world.holding(download.id).pool.cable.silence()
    assert world.ask("DELETE", f"/v1/downloads/{download.id}").status_code == 202
    wait_out(LEASE_S / 2)
    for pool in world.pools:
        pool.cable.silence(False)
    end = download.end()
    assert isinstance(end, Error)
    assert end.code == "CANCELLED"
