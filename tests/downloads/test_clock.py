"""Redis' clock jumps back (a failover to a machine whose clock is behind): moments too far ahead count as now."""

from __future__ import annotations

import time

import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.reaper import Reaper
from hive.downloads.registry import WORKER_TTL_S, WorkerInfo, worker_registry
from hive.redis.client import RedisClient
from hive.setting_ranges import MAX_LEASE_S
from hive.wire import keys
from tests.support.downloads import claim, create, download_context, downloading
from tests.support.waiting import wait_for
from workers.fleet.bandwidth import FleetLimiter
from workers.fleet.cooldown import REST_MAX_S, RedisCooldown
from workers.fleet.file_lease import FileLeases

#: Seconds by which the clock was ahead.
JUMP_S = 3600.0
LEASE_S = 0.6


@pytest.fixture
def downloads(redis_client: RedisClient) -> DownloadContext:
    return download_context(redis_client, lease_s=LEASE_S)


def ahead_ms() -> int:
    return int((time.time() + JUMP_S) * 1000)


def test_a_dead_worker_is_not_waited_for_until_the_old_time_comes_again(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    claim(downloads, download_id)
    downloads.client.zadd(keys.LEASES, {download_id: ahead_ms()})
    assert downloads.claims.expired_leases() == [], "its worker may live: it gets a lease's time to say so"
    wait_for(lambda: downloads.claims.expired_leases() == [download_id])
    reaper = Reaper(downloads)

    def is_queued() -> bool:
        reaper.sweep()
        return downloads.admission.pending() == [download_id]

    wait_for(is_queued)


def test_a_worker_that_lives_keeps_its_download(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    downloads.client.zadd(keys.LEASES, {download_id: ahead_ms()})
    assert downloads.claims.expired_leases() == []
    assert downloads.claims.renew(held).held
    assert downloads.client.zscore(keys.LEASES, download_id) < ahead_ms() - JUMP_S * 500


def test_a_worker_with_a_longer_lease_is_none_of_another_time(downloads: DownloadContext) -> None:
    patient = download_context(downloads.client, lease_s=100)
    download_id = create(downloads)
    claim(patient, download_id)
    before = downloads.client.zscore(keys.LEASES, download_id)
    assert downloads.claims.expired_leases() == []
    assert downloads.client.zscore(keys.LEASES, download_id) == before


def test_fences_grow_all_the_same(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    downloads.client.hset(keys.record(download_id), "fence", ahead_ms())
    first = claim(downloads, download_id)
    record = downloads.tracker.read(download_id)
    assert record is not None
    downloads.claims.release(record, downloading(), counts=False)
    second = claim(downloads, download_id, "second")
    assert ahead_ms() - 10_000 < first.fence < second.fence
    assert not downloads.claims.renew(first).held


def test_a_lease_of_a_file_ends_within_the_longest_there_is(redis_client: RedisClient) -> None:
    dead, heir = FileLeases(redis_client, "dead", 1, LEASE_S), FileLeases(redis_client, "heir", 1, LEASE_S)
    assert dead.acquire("file") is None
    redis_client.pexpire(keys.file("file"), int(JUMP_S * 1000))
    assert heir.acquire("file") == "dead"
    assert redis_client.pttl(keys.file("file")) <= MAX_LEASE_S * 1000


def test_a_rest_longer_than_any_is_none(redis_client: RedisClient) -> None:
    redis_client.set(keys.cooldown("host"), "1", px=int(REST_MAX_S * 1000 + JUMP_S * 1000))
    assert RedisCooldown(redis_client).remaining_s("host") == 0
    RedisCooldown(redis_client).set("host", 5)
    assert 0 < RedisCooldown(redis_client).remaining_s("host") <= 5


def test_who_took_bandwidth_in_another_time_takes_none_now(redis_client: RedisClient) -> None:
    redis_client.set(keys.BANDWIDTH_LIMIT, 1000)
    redis_client.zadd(keys.BANDWIDTH_TAKERS, {f"ghost {n}": ahead_ms() * 1000 for n in range(9)})
    FleetLimiter(redis_client, 0, "me").book(10)
    assert redis_client.zrange(keys.BANDWIDTH_TAKERS, 0, -1) == [b"me"]


def test_a_worker_that_fell_silent_is_not_listed_for_an_hour(redis_client: RedisClient) -> None:
    registry = worker_registry(redis_client)
    registry.beat(WorkerInfo(name="a", host="h", pid=1, version="0"))
    redis_client.expire(keys.worker("a"), int(JUMP_S))
    registry.alive()
    assert redis_client.ttl(keys.worker("a")) <= WORKER_TTL_S
