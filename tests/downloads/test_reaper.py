"""The reaper on a real Redis: downloads of dead workers go on or end, those of living ones are left alone."""

from __future__ import annotations

import itertools

import pytest
import redis

from hive.downloads import reaper as reaper_module
from hive.downloads.context import DownloadContext
from hive.downloads.jobqueue import JobQueue
from hive.downloads.reaper import Reaper
from hive.redis.client import RedisClient
from hive.wire import events, keys
from hive.wire.events import Downloading, Error
from tests.support.downloads import claim, create, download_context, downloading, new, read

LEASE_S = 6.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(reaper_module, "time", made)
    return made


@pytest.fixture
def downloads(store: RedisClient) -> DownloadContext:
    return download_context(store, lease_s=LEASE_S, max_attempts=3)


@pytest.fixture
def queue(store: RedisClient) -> JobQueue:
    return JobQueue(store)


@pytest.fixture
def reaper(store: RedisClient, downloads: DownloadContext, queue: JobQueue, clock: Clock) -> Reaper:
    """One that has been at work for longer than a lease."""
    made = Reaper(downloads)
    made.sweep()
    clock.now_s += LEASE_S
    return made


def start(downloads: DownloadContext, queue: JobQueue, store: RedisClient, owner: str = "owner") -> str:
    """A running download, whose job has left the queue."""
    download_id = create(downloads)
    claim(downloads, download_id, owner)
    return download_id


def expire(store: RedisClient, download_id: str) -> None:
    store.zadd(keys.LEASES, {download_id: 1})


def test_a_living_worker_is_left_alone(
    reaper: Reaper, downloads: DownloadContext, queue: JobQueue, store: RedisClient
) -> None:
    download_id = start(downloads, queue, store)
    before = read(downloads, download_id)
    reaper.sweep()
    assert read(downloads, download_id) == before


def test_a_dead_workers_download_is_queued_as_the_next_attempt(
    reaper: Reaper, downloads: DownloadContext, queue: JobQueue, store: RedisClient
) -> None:
    download_id = start(downloads, queue, store)
    expire(store, download_id)
    reaper.sweep()
    record = read(downloads, download_id)
    assert (record.state, record.attempt, record.stalls) == ("queued", 2, 1)
    assert store.lrange("rq:queue:hive", 0, -1) == [f"{download_id}-a2".encode()]
    event = record.last_event
    assert isinstance(event, Downloading)
    assert (event.status, event.attempt) == ("retrying", 2)


def test_what_had_arrived_stays_in_the_event(
    reaper: Reaper, downloads: DownloadContext, queue: JobQueue, store: RedisClient
) -> None:
    download_id = create(downloads)
    downloads.claims.publish(claim(downloads, download_id), 2, downloading(40, 100))
    expire(store, download_id)
    reaper.sweep()
    event = read(downloads, download_id).last_event
    assert isinstance(event, Downloading)
    assert (event.bytes_downloaded, event.bytes_total, event.speed_mbps) == (40, 100, 0.0)


def test_two_reapers_take_a_download_over_once(
    reaper: Reaper, downloads: DownloadContext, queue: JobQueue, store: RedisClient, clock: Clock
) -> None:
    other = Reaper(downloads)
    other.sweep()
    clock.now_s += LEASE_S
    download_id = start(downloads, queue, store)
    expire(store, download_id)
    reaper.sweep()
    other.sweep()
    assert read(downloads, download_id).attempt == 2
    assert store.llen("rq:queue:hive") == 1


def test_attempts_without_a_byte_come_to_an_end(
    reaper: Reaper, downloads: DownloadContext, queue: JobQueue, store: RedisClient
) -> None:
    download_id = create(downloads)
    for attempt in itertools.count(1):
        claim(downloads, download_id, f"owner {attempt}")
        expire(store, download_id)
        reaper.sweep()
        record = read(downloads, download_id)
        if record.is_terminal:
            break
    assert (attempt, record.state) == (3, "failed")
    event = record.last_event
    assert isinstance(event, Error)
    assert event.code == "WORKER_LOST"


def test_attempts_that_bring_bytes_may_die_as_often_as_they_like(
    reaper: Reaper, downloads: DownloadContext, queue: JobQueue, store: RedisClient
) -> None:
    download_id = create(downloads)
    for attempt in range(1, 12):
        held = claim(downloads, download_id, f"owner {attempt}")
        downloads.claims.publish(held, 2, downloading(attempt))
        expire(store, download_id)
        reaper.sweep()
    record = read(downloads, download_id)
    assert (record.state, record.attempt) == ("queued", 12)


def test_a_cancel_that_the_worker_did_not_live_to_see_is_done(
    reaper: Reaper, downloads: DownloadContext, queue: JobQueue, store: RedisClient
) -> None:
    download_id = start(downloads, queue, store)
    downloads.tracker.request_control(read(downloads, download_id), "cancel")
    expire(store, download_id)
    reaper.sweep()
    record = read(downloads, download_id)
    assert record.state == "cancelled"
    assert events.is_terminal(record.last_event)


def test_it_holds_off_after_it_was_started(
    store: RedisClient, downloads: DownloadContext, queue: JobQueue, clock: Clock
) -> None:
    """The process that starts may be the one that was away."""
    fresh = Reaper(downloads)
    download_id = start(downloads, queue, store)
    expire(store, download_id)
    fresh.sweep()
    assert read(downloads, download_id).state == "running"
    clock.now_s += LEASE_S
    fresh.sweep()
    assert read(downloads, download_id).state == "queued"


def test_it_holds_off_when_redis_came_back_as_another_process(
    reaper: Reaper, downloads: DownloadContext, queue: JobQueue, store: RedisClient, clock: Clock
) -> None:
    """After an outage longer than a lease every lease looks expired, though the workers live."""
    download_id = start(downloads, queue, store)
    expire(store, download_id)
    reaper._run_id = "another"
    reaper.sweep()
    assert read(downloads, download_id).state == "running"
    clock.now_s += LEASE_S
    reaper.sweep()
    assert read(downloads, download_id).state == "queued"


def test_it_holds_off_after_an_error(
    reaper: Reaper,
    downloads: DownloadContext,
    queue: JobQueue,
    store: RedisClient,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    download_id = start(downloads, queue, store)
    expire(store, download_id)

    def away() -> list[str]:
        raise redis.exceptions.TimeoutError("silent")

    with monkeypatch.context() as patch:
        patch.setattr(downloads.claims, "expired_leases", away)
        with pytest.raises(redis.exceptions.TimeoutError):
            reaper.sweep()
    reaper.sweep()
    assert read(downloads, download_id).state == "running"


def test_a_queued_download_without_a_ticket_gets_one(
    reaper: Reaper, downloads: DownloadContext, queue: JobQueue
) -> None:
    """The process that made the record died before it put the ticket in, or the worker with the ticket in hand."""
    download_id = create(downloads)
    reaper.sweep()
    assert queue.tickets() == 0, "a worker may have it in hand just now"
    reaper.sweep()
    assert queue.tickets() == 1
    assert read(downloads, download_id).attempt == 1
    for _ in range(5):
        reaper.sweep()
    assert queue.tickets() == 1


def test_a_queued_download_with_a_ticket_is_left_alone(
    reaper: Reaper, downloads: DownloadContext, queue: JobQueue
) -> None:
    download_id = create(downloads)
    queue.enqueue(download_id, 1)
    for _ in range(6):
        reaper.sweep()
    assert queue.tickets() == 1


def test_a_full_fleet_needs_no_tickets(reaper: Reaper, downloads: DownloadContext, queue: JobQueue) -> None:
    downloads.admission.set_running_limit(1)
    claim(downloads, create(downloads, "a"))
    create(downloads, "b")
    for _ in range(4):
        reaper.sweep()
    assert queue.tickets() == 0
    downloads.admission.set_running_limit(2)
    reaper.sweep()
    reaper.sweep()
    assert queue.tickets() == 1


def test_an_urgent_download_gets_the_place_of_the_youngest_low_one(
    reaper: Reaper, downloads: DownloadContext, clock: Clock, store: RedisClient
) -> None:
    running = [downloads.tracker.create(new(name, priority=word))[0] for name, word in (("a", "low"), ("b", "normal"))]
    running.append(downloads.tracker.create(new("c", priority="low"))[0])
    for number, download_id in enumerate(running):
        claim(downloads, download_id, download_id)
        store.hset(keys.record(download_id), "claimed_ms", number)
    downloads.tracker.create(new("urgent", priority="high"))
    reaper.sweep()
    words = [read(downloads, i).control for i in running]
    assert words == ["", "", ""], "a worker may be free"
    clock.now_s += reaper_module.URGENT_PATIENCE_S
    for _ in range(3):
        reaper.sweep()
    assert [read(downloads, i).control for i in running] == ["", "", "yield"]


def test_an_urgent_download_takes_no_place_of_a_normal_one(
    reaper: Reaper, downloads: DownloadContext, clock: Clock
) -> None:
    normal = create(downloads)
    claim(downloads, normal)
    downloads.tracker.create(new("urgent", priority="high"))
    for _ in range(4):
        clock.now_s += reaper_module.URGENT_PATIENCE_S
        reaper.sweep()
    assert read(downloads, normal).control == ""


def test_a_lease_without_a_record_is_forgotten(reaper: Reaper, store: RedisClient) -> None:
    store.zadd(keys.LEASES, {"gone": 1})
    reaper.sweep()
    assert store.zcard(keys.LEASES) == 0
