"""Who is next: priorities, the limit of the fleet, and room for an urgent download, on a real server."""

from __future__ import annotations

import time

import pytest

from hive.downloads.record import Record
from hive.downloads.tracker import DownloadTracker, FleetFull
from hive.redis_client import RedisClient
from hive.wire import keys
from tests.support.downloads import claim, complete, create, downloading, failed, new


def read(tracker: DownloadTracker, download_id: str) -> Record:
    record = tracker.read(download_id)
    assert record is not None
    return record


def pass_a_millisecond(record: Record) -> None:
    """Downloads of the same millisecond are in no order."""
    while time.time_ns() // 10**6 <= record.created_ms:
        pass


def test_the_queue_is_in_order_of_priority_and_then_of_age(tracker: DownloadTracker) -> None:
    asked = ["low", "normal", "high", "low", "high", "normal"]
    ids = []
    for number, word in enumerate(asked):
        ids.append(tracker.create(new(f"m{number}", priority=word))[0])
        pass_a_millisecond(read(tracker, ids[number]))
    assert tracker.pending() == [ids[i] for i in (2, 4, 1, 5, 0, 3)]
    assert tracker.urgent() == [ids[2], ids[4]]
    assert tracker.set_priority(read(tracker, ids[3]), "high")
    assert tracker.pending()[:3] == [ids[2], ids[3], ids[4]]


def test_an_attempt_that_failed_does_not_lose_its_place(tracker: DownloadTracker) -> None:
    first = create(tracker, "a")
    pass_a_millisecond(read(tracker, first))
    second = create(tracker, "b")
    claim(tracker, first)
    assert tracker.release(read(tracker, first), downloading(), counts=True) == 2
    assert tracker.pending() == [first, second]


def test_who_joins_in_a_hurry_makes_the_download_urgent(tracker: DownloadTracker) -> None:
    download_id = tracker.create(new(priority="low"))[0]
    assert tracker.create(new(priority="high")) == (download_id, "joined")
    assert read(tracker, download_id).priority == "high"
    assert tracker.urgent() == [download_id]
    assert tracker.create(new(priority="low")) == (download_id, "joined")
    assert read(tracker, download_id).priority == "high"


def test_the_priority_of_an_ended_download_cannot_be_changed(tracker: DownloadTracker) -> None:
    download_id = create(tracker)
    tracker.finish(claim(tracker, download_id), 2, "complete", complete(), "/x")
    assert not tracker.set_priority(read(tracker, download_id), "high")
    assert tracker.pending() == []


def test_no_more_run_than_may(store: RedisClient) -> None:
    tracker = DownloadTracker(store, ended_ttl_s=60, max_queued=10, lease_s=6, max_running=1)
    held = claim(tracker, create(tracker, "a"))
    waiting = read(tracker, create(tracker, "b"))
    assert tracker.claimable() == 0
    with pytest.raises(FleetFull):
        tracker.claim(waiting, "b", "b", downloading())
    tracker.set_running_limit(2)
    assert tracker.claimable() == 1
    tracker.set_running_limit(1)
    assert tracker.finish(held, 2, "complete", complete(), "/x")
    assert tracker.claim(waiting, "b", "b", downloading())


def test_the_wish_for_a_place_ends_with_the_attempt(tracker: DownloadTracker, store: RedisClient) -> None:
    download_id = create(tracker)
    claim(tracker, download_id)
    tracker.request_control(read(tracker, download_id), "yield")
    tracker.release(read(tracker, download_id), downloading(), counts=False)
    assert read(tracker, download_id).control == ""
    assert store.hget(keys.METRICS, "preempted") == b"1"


def test_one_worker_is_asked_at_a_time(tracker: DownloadTracker) -> None:
    for name in "ab":
        claim(tracker, tracker.create(new(name, priority="low"))[0], name)
    urgent = tracker.create(new("urgent", priority="high"))[0]
    assert tracker.make_room(urgent, 60.0)
    assert not tracker.make_room(urgent, 60.0)


def test_paused_downloads_are_known(tracker: DownloadTracker, store: RedisClient) -> None:
    download_id = create(tracker)
    tracker.release(read(tracker, download_id), downloading(), counts=False, to="paused")
    assert store.smembers(keys.PAUSED) == {download_id.encode()}
    tracker.finish_unclaimed(read(tracker, download_id), "cancelled", failed("CANCELLED"))
    assert store.scard(keys.PAUSED) == 0
