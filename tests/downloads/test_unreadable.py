"""One record that nobody can read stops neither the list, nor the queue, nor anybody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hive.downloads.admission import BandwidthLimit
from hive.downloads.context import DownloadContext
from hive.downloads.live import read_live
from hive.redis.client import RedisClient
from hive.wire import keys
from tests.support.downloads import create, download_context
from workers.claim import take_next

BREAKS: dict[str, Callable[[RedisClient, str], object]] = {
    "a state of no version": lambda redis, key: redis.hset(key, "state", "frozen"),
    "a number that is none": lambda redis, key: redis.hset(key, "fence", "many"),
    "a number of hundreds of digits": lambda redis, key: redis.hset(key, "active_ms", "9" * 400),
    "a time that no clock has": lambda redis, key: redis.hset(key, "created_ms", str(2**60)),
    "bytes that are no text": lambda redis, key: redis.hset(key, b"ref", b"\xff\xfe"),
    "a request that is no JSON": lambda redis, key: redis.hset(key, "request", "{"),
    "a request without a reference": lambda redis, key: redis.hset(key, "request", "{}"),
    "no request": lambda redis, key: redis.hdel(key, "request"),
    "an event that is no JSON": lambda redis, key: redis.hset(key, "event", "not json"),
    "an event that is broken off": lambda redis, key: redis.hset(key, "event", '{"stage":"downloading"'),
    "an event and more": lambda redis, key: redis.hset(key, "event", '{"a":1}{"b":2}'),
    "an event of two lines": lambda redis, key: redis.hset(key, "event", '{"a":1}\n\ndata: [DONE]\n\n'),
    "an event with a line end in it": lambda redis, key: redis.hset(key, "event", '{"a":\n1}'),
    "an event with another line end": lambda redis, key: redis.hset(key, "event", '{"a":\r1}'),
    "an event that is a list": lambda redis, key: redis.hset(key, "event", "[1]"),
    "an event in no text": lambda redis, key: redis.hset(key, b"event", b'{"message":"\xff\xfe"}'),
    "an event with a deep end": lambda redis, key: redis.hset(key, "event", '{"a":' + "[" * 100_000),
    "no event": lambda redis, key: redis.hdel(key, "event"),
    "no hash": lambda redis, key: (redis.delete(key), redis.set(key, "x")),
    "deep JSON": lambda redis, key: redis.hset(key, "request", "[" * 100_000),
}


@pytest.fixture
def downloads(redis_client: RedisClient) -> DownloadContext:
    return download_context(redis_client)


@pytest.mark.parametrize("name", BREAKS)
def test_it_is_set_aside_and_the_others_go_on(downloads: DownloadContext, name: str) -> None:
    redis = downloads.client
    broken, good = create(downloads, "broken"), create(downloads, "good")
    BREAKS[name](redis, keys.record(broken))
    assert [record.id for record in downloads.tracker.page(limit=10).records] == [good]
    assert downloads.tracker.page(limit=10).records
    assert downloads.tracker.read(broken) is None
    downloads.tracker.read_states([broken, good])
    read_live(redis)
    assert downloads.admission.pending() == [good]
    assert redis.hget(keys.METRICS, "unreadable") == b"1", "counted once, however often it is met"
    assert redis.smembers(keys.UNREADABLE) == {broken.encode()}
    assert redis.ttl(keys.record(broken)) > 0, "it is kept for somebody to look at, and not for ever"


@pytest.mark.parametrize("name", BREAKS)
def test_a_worker_takes_the_next_one(downloads: DownloadContext, name: str) -> None:
    broken, good = create(downloads, "broken"), create(downloads, "good")
    BREAKS[name](downloads.client, keys.record(broken))
    taken = take_next(downloads)
    assert taken is not None
    assert taken.record.id == good


@pytest.mark.parametrize("value", ["abc", "", "-5", "1e3", " 1", "9" * 400, "\x00"])
def test_a_limit_that_is_none_stops_neither_the_list_nor_the_queue(downloads: DownloadContext, value: str) -> None:
    redis = downloads.client
    redis.set(keys.RUNNING_LIMIT, value)
    redis.set(keys.BANDWIDTH_LIMIT, value)
    queued = create(downloads)
    assert downloads.admission.places([queued])[queued].ahead == 0
    assert downloads.admission.scaling().wanted_workers == 1
    assert downloads.admission.running_limit() is None
    assert BandwidthLimit(redis, 7).read() == 7
    taken = take_next(downloads)
    assert taken is not None
    assert taken.record.id == queued


def test_the_same_model_can_be_asked_for_again(downloads: DownloadContext) -> None:
    broken = create(downloads, "model")
    downloads.client.hset(keys.record(broken), "state", "frozen")
    downloads.tracker.read(broken)
    assert create(downloads, "model") != broken


def test_an_event_of_a_later_version_is_no_reason_to_give_up_the_record(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    downloads.client.hset(keys.record(download_id), "event", '{"stage":"pondering","bytes_downloaded":7}')
    record = downloads.tracker.read(download_id)
    assert record is not None
    assert record.last_event.bytes_downloaded == 0  # type: ignore[union-attr]
    assert take_next(downloads) is not None
