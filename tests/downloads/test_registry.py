"""The heartbeat registry: who speaks is there, who falls silent is gone, and nobody's mistake hides the others."""

from __future__ import annotations

import pytest

from hive.downloads.registry import WORKER_TTL_S, WorkerInfo, worker_registry
from hive.redis.client import RedisClient
from hive.wire import keys


def info(name: str, **more: object) -> WorkerInfo:
    return WorkerInfo(name=name, host="h", pid=1, version="0", **more)  # type: ignore[arg-type]


def test_a_member_is_there_until_it_leaves(redis_client: RedisClient) -> None:
    registry = worker_registry(redis_client)
    registry.beat(info("b", state="busy"))
    registry.beat(info("a"))
    assert registry.alive() == [info("a"), info("b", state="busy")]
    registry.leave("a")
    assert [member.name for member in registry.alive()] == ["b"]


def test_a_silent_member_is_forgotten(redis_client: RedisClient) -> None:
    registry = worker_registry(redis_client)
    registry.beat(info("a"))
    assert 0 < redis_client.ttl(keys.worker("a")) <= WORKER_TTL_S
    redis_client.delete(keys.worker("a"))
    assert registry.alive() == []
    assert redis_client.smembers(keys.WORKERS) == set()


def test_an_update_changes_what_is_there_and_makes_nothing(redis_client: RedisClient) -> None:
    registry = worker_registry(redis_client)
    registry.update("a", {"state": "busy"})
    assert not redis_client.exists(keys.worker("a")), "a hash without an expiry would stay for ever"
    registry.beat(info("a"))
    registry.update("a", {"state": "busy", "download_id": "d"})
    assert registry.alive() == [info("a", state="busy", download_id="d")]
    assert redis_client.ttl(keys.worker("a")) > 0


@pytest.mark.parametrize(
    "broken", [{"state": "busy", "download_id": "d"}, {"name": "b", "host": "h", "pid": "many"}, {b"\xff": b"\xff"}]
)
def test_one_broken_entry_hides_nobody_and_goes_some_day(redis_client: RedisClient, broken: dict[str, str]) -> None:
    registry = worker_registry(redis_client)
    registry.beat(info("a"))
    redis_client.sadd(keys.WORKERS, "b")
    redis_client.hset(keys.worker("b"), mapping=broken)
    assert registry.alive() == [info("a")]
    assert 0 < redis_client.ttl(keys.worker("b")) <= WORKER_TTL_S


def test_a_key_that_is_no_hash_hides_nobody_and_goes_some_day(redis_client: RedisClient) -> None:
    registry = worker_registry(redis_client)
    registry.beat(info("a"))
    redis_client.sadd(keys.WORKERS, "b")
    redis_client.set(keys.worker("b"), "x")
    assert registry.alive() == [info("a")]
    assert 0 < redis_client.ttl(keys.worker("b")) <= WORKER_TTL_S
