"""Who is next: priorities, the limit of the fleet, and room for an urgent download, on a real server."""

from __future__ import annotations

import time

import pytest

from hive.downloads.claims import FleetFull
from hive.downloads.context import DownloadContext
from hive.downloads.reaper import make_room
from hive.downloads.record import Record
from hive.redis.client import RedisClient
from hive.wire import keys
from hive.wire.api import Scaling
from tests.support.downloads import claim, complete, create, download_context, downloading, failed, new, read


@pytest.fixture
def store(redis_client: RedisClient) -> RedisClient:
    """Both kinds, for the records are the same on either."""
    return redis_client


def pass_a_millisecond(record: Record) -> None:
    """Downloads of the same millisecond are in no order."""
    while time.time_ns() // 10**6 <= record.created_ms:
        pass


def test_the_queue_is_in_order_of_priority_and_then_of_age(downloads: DownloadContext) -> None:
    asked = ["low", "normal", "high", "low", "high", "normal"]
    ids = []
    for number, word in enumerate(asked):
        ids.append(downloads.tracker.create(new(f"m{number}", priority=word))[0])
        pass_a_millisecond(read(downloads, ids[number]))
    assert downloads.admission.pending() == [ids[i] for i in (2, 4, 1, 5, 0, 3)]
    assert downloads.admission.urgent() == [ids[2], ids[4]]
    assert downloads.tracker.set_priority(read(downloads, ids[3]), "high")
    assert downloads.admission.pending()[:3] == [ids[2], ids[3], ids[4]]


def test_an_attempt_that_failed_does_not_lose_its_place(downloads: DownloadContext) -> None:
    first = create(downloads, "a")
    pass_a_millisecond(read(downloads, first))
    second = create(downloads, "b")
    claim(downloads, first)
    assert downloads.claims.release(read(downloads, first), downloading(), counts=True) == 2
    assert downloads.admission.pending() == [first, second]


def test_who_joins_in_a_hurry_makes_the_download_urgent(downloads: DownloadContext) -> None:
    download_id = downloads.tracker.create(new(priority="low"))[0]
    assert downloads.tracker.create(new(priority="high")) == (download_id, "joined")
    assert read(downloads, download_id).priority == "high"
    assert downloads.admission.urgent() == [download_id]
    assert downloads.tracker.create(new(priority="low")) == (download_id, "joined")
    assert read(downloads, download_id).priority == "high"


def test_the_priority_of_an_ended_download_cannot_be_changed(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    assert not downloads.tracker.set_priority(read(downloads, download_id), "high")
    assert downloads.admission.pending() == []


def test_no_more_run_than_may(store: RedisClient) -> None:
    downloads = download_context(store, ended_ttl_s=60, max_queued=10, lease_s=6, max_running=1)
    held = claim(downloads, create(downloads, "a"))
    waiting = read(downloads, create(downloads, "b"))
    assert downloads.admission.claimable() == 0
    with pytest.raises(FleetFull):
        downloads.claims.claim(waiting, "b", "b", downloading())
    downloads.admission.set_running_limit(2)
    assert downloads.admission.claimable() == 1
    downloads.admission.set_running_limit(1)
    assert downloads.claims.finish(held, 2, "complete", complete(), "/x")
    assert downloads.claims.claim(waiting, "b", "b", downloading())


def test_the_wish_for_a_place_ends_with_the_attempt(downloads: DownloadContext, store: RedisClient) -> None:
    download_id = create(downloads)
    claim(downloads, download_id)
    downloads.tracker.request_control(read(downloads, download_id), "yield")
    downloads.claims.release(read(downloads, download_id), downloading(), counts=False)
    assert read(downloads, download_id).control == ""
    assert store.hget(keys.METRICS, "preempted") == b"1"


def test_one_worker_is_asked_at_a_time(downloads: DownloadContext) -> None:
    for name in "ab":
        claim(downloads, downloads.tracker.create(new(name, priority="low"))[0], name)
    urgent = downloads.tracker.create(new("urgent", priority="high"))[0]
    assert make_room(downloads, urgent, 60.0)
    assert not make_room(downloads, urgent, 60.0)


def test_paused_downloads_are_known(downloads: DownloadContext, store: RedisClient) -> None:
    download_id = create(downloads)
    downloads.claims.release(read(downloads, download_id), downloading(), counts=False, to="paused")
    assert store.smembers(keys.PAUSED) == {download_id.encode()}
    downloads.claims.finish_unclaimed(read(downloads, download_id), "cancelled", failed("CANCELLED"))
    assert store.scard(keys.PAUSED) == 0


def test_an_autoscaler_learns_what_waits_what_runs_and_how_many_workers_that_wants(
    downloads: DownloadContext,
) -> None:
    for download_id in [create(downloads, f"model-{n}") for n in range(5)][:2]:
        claim(downloads, download_id)
    assert downloads.admission.scaling() == Scaling(queued=3, running=2, wanted_workers=5)
    downloads.admission.set_running_limit(3)
    assert downloads.admission.scaling().wanted_workers == 3
    downloads.admission.set_running_limit(1)
    assert downloads.admission.scaling().wanted_workers == 2, "what runs goes on"
