"""What somebody else has put into hive's keys in Redis, under names and times that hive never makes, stops nobody."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from hive.downloads.context import DownloadContext
from hive.downloads.live import read_live
from hive.downloads.reaper import Reaper
from hive.downloads.registry import worker_registry
from hive.downloads.resolutions import Resolutions
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import RedisClient, connect
from hive.webhooks.outbox import WebhookOutbox
from hive.wire import keys
from tests.support.downloads import create, download_context
from tests.support.processes import Server, environment
from workers.claim import take_next

#: Names that are no UTF-8, no id, or break what is made of them.
NAMES = (b"\xff\xfe", b"x", b"a}b{c", b"\x00", b"/", b"a/\xff.\xfe", b"\xed\xa0\x80", b"n" * 100_000)
#: A moment ago, in ms.
NOW_MS = int(time.time() * 1000) - 1_000
SCORES = ("-inf", 0, 1, NOW_MS - 1, 1e300, "inf")
SORTED_SETS = (
    keys.PENDING,
    keys.LEASES,
    keys.DOWNLOADS,
    keys.WEBHOOKS_DUE,
    keys.WEBHOOKS_STANDING,
    keys.state_index("queued"),
)


def _plant(redis: RedisClient) -> None:
    for key in SORTED_SETS:
        for score in SCORES:
            redis.zadd(key, {name + str(score).encode(): score for name in NAMES})
    for key in (keys.PAUSED, keys.WORKERS, keys.REPLICAS, keys.OWNERS, keys.UNREADABLE):
        redis.sadd(key, *NAMES)


@pytest.fixture
def downloads(redis_client: RedisClient) -> DownloadContext:
    return download_context(redis_client)


def test_names_that_are_none_stop_neither_the_list_nor_the_queue(downloads: DownloadContext) -> None:
    redis = downloads.client
    queued = create(downloads)
    _plant(redis)
    assert [record.id for record in downloads.tracker.page(limit=10).records] == [queued]
    downloads.tracker.build_index()
    kept = downloads.tracker.page(limit=10, keep=frozenset({"queued"}))
    assert [record.id for record in kept.records] == [queued]
    assert [live.id for live in read_live(redis)] == [queued]
    assert worker_registry(redis).alive() == []
    assert redis.smembers(keys.WORKERS) == set(), "what nobody is, is forgotten"
    downloads.tracker.forget_expired(10_000)
    assert set(redis.zrange(keys.DOWNLOADS, 0, -1)) == {queued.encode()}
    Reaper(downloads).sweep()
    while (taken := take_next(downloads)) is None:
        assert redis.zcard(keys.PENDING), "the queue is empty, and nobody has taken it"
    assert taken.record.id == queued


@pytest.mark.parametrize("value", [b"many", b"", b"-5", b"1e3", b"9" * 400, b"\xff"])
def test_counters_that_are_none_stop_nobody(downloads: DownloadContext, value: bytes) -> None:
    redis = downloads.client
    for counter in ("created", "claims", "queue_wait_ms", "joined"):
        redis.hset(keys.METRICS, counter, value)
    redis.hset(keys.RESERVED, "somebody", value)
    queued = create(downloads)
    assert create(downloads) == queued
    assert take_next(downloads) is not None
    assert Resolutions(redis).reserved_bytes() == 0


SPOILT: dict[str, Callable[[RedisClient], object]] = {
    "names": _plant,
    "no hash": lambda redis: (
        redis.zadd(keys.WEBHOOKS_DUE, {"one/w": NOW_MS - 1}),
        redis.set(keys.webhooks("one"), "x"),
    ),
    "no number": lambda redis: (
        redis.zadd(keys.WEBHOOKS_DUE, {"one/w": NOW_MS - 1}),
        redis.hset(keys.webhooks("one"), "n:w", "many"),
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_webhooks_go_on(downloads: DownloadContext, name: str, tmp_path: Path) -> None:
    redis = downloads.client
    settings = downloads.settings
    SPOILT[name](redis)
    redis.zadd(keys.WEBHOOKS_DUE, {"good/hook": NOW_MS})
    outbox = WebhookOutbox(redis, settings)
    found = [message for _ in range(20) for message in outbox.take(8)]
    assert ("good", "hook") in [(message.download_id, message.name) for message in found]
    for message in found:
        outbox.done(message)


@pytest.fixture
def server(redis_server: EmbeddedRedis, redis_url: str, tmp_path: Path) -> Iterator[Server]:
    process = Server(environment(redis_server.url, tmp_path))
    process.wait_until_ready()
    yield process
    assert process.stop() == 0


def test_a_key_of_another_type_is_an_answer_with_a_code_and_passes_with_the_key(server: Server, redis_url: str) -> None:
    redis_client = connect(redis_url)
    routes = {
        keys.PENDING: "/v1/scaling",
        keys.LEASES: "/v1/scaling",
        keys.DOWNLOADS: "/v1/downloads",
        keys.WORKERS: "/v1/workers",
        keys.RUNNING_LIMIT: "/v1/settings/downloads",
        keys.BANDWIDTH_LIMIT: "/v1/settings/bandwidth",
    }
    for key, path in routes.items():
        redis_client.delete(key)
        redis_client.xadd(key, {"a": "b"})
        answer = requests.get(server.url + path, timeout=60)
        assert answer.status_code == 503, (key, answer.text)
        assert answer.json()["error"]["code"] == "STORE_UNAVAILABLE"
        assert "WRONGTYPE" in answer.json()["error"]["message"]
        redis_client.delete(key)
        assert requests.get(server.url + path, timeout=60).status_code == 200, key
    redis_client.set(keys.METRICS, "x")
    assert "hive_store_up 0" in requests.get(f"{server.url}/metrics", timeout=60).text
    redis_client.close()


@pytest.mark.parametrize("created_ms", ["9" * 400, "1e999", "-1", "inf", "²", str(2**53 + 1), ""])
def test_a_cursor_of_no_time_is_refused(server: Server, created_ms: str) -> None:
    text = f"{created_ms}.11111111-2222-4333-8444-555555555555"
    cursor = base64.urlsafe_b64encode(text.encode()).decode()
    answer = requests.get(f"{server.url}/v1/downloads", params={"cursor": cursor}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_REQUEST")
