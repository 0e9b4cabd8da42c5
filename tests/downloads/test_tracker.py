"""The record and its scripts, on a real server: who may change a download, and what is told of it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import pytest
import redis

from hive.downloads.context import DownloadContext
from hive.downloads.record import Ack, AttemptBytes, TopicState
from hive.redis.client import RedisClient
from hive.wire import keys
from hive.wire.events import Complete, Version, parse_message
from tests.support.downloads import claim, complete, create, download_context, downloading, failed, new, read


@pytest.fixture
def store(redis_client: RedisClient) -> RedisClient:
    """Both kinds, for the records are the same on either."""
    return redis_client


def expire_lease(store: RedisClient, download_id: str) -> None:
    store.zadd(keys.LEASES, {download_id: 1})


def test_a_new_download_is_queued_and_listed(downloads: DownloadContext) -> None:
    download_id, outcome = downloads.tracker.create(new())
    record = read(downloads, download_id)
    assert (outcome, record.state, record.attempt, record.is_terminal) == ("created", "queued", 1, False)
    assert downloads.admission.pending() == [download_id]
    assert [r.id for r in downloads.tracker.page(limit=10).records] == [download_id]


def test_a_second_request_for_the_same_identity_joins(downloads: DownloadContext) -> None:
    first = create(downloads)
    assert downloads.tracker.create(new()) == (first, "joined")
    assert downloads.tracker.create(new("model-b"))[1] == "created"


def test_requests_that_race_share_one_download(redis_url: str) -> None:
    found: list[str] = []
    gate = threading.Barrier(8)

    def ask() -> None:
        with redis.Redis.from_url(redis_url) as client:
            downloads = download_context(client, ended_ttl_s=60, max_queued=100, lease_s=6)
            gate.wait()
            found.append(downloads.tracker.create(new())[0])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_creating_again_with_the_same_id_changes_nothing(downloads: DownloadContext) -> None:
    """redis-py sends a script again when its reply was lost."""
    download_id = str(uuid.uuid4())
    assert downloads.tracker.create(new(), download_id) == (download_id, "created")
    before = read(downloads, download_id)
    assert downloads.tracker.create(new(), download_id) == (download_id, "created")
    assert read(downloads, download_id) == before


def test_a_full_queue_refuses(store: RedisClient) -> None:
    downloads = download_context(store, ended_ttl_s=60, max_queued=2, lease_s=6)
    create(downloads, "a"), create(downloads, "b")
    assert downloads.tracker.create(new("c"))[1] == "full"
    assert downloads.tracker.create(new("a"))[1] == "joined"


def test_a_model_on_disk_gets_one_real_id_that_is_given_again(downloads: DownloadContext) -> None:
    on_disk = new(event=complete(), local_path="/store/model.gguf")
    download_id, outcome = downloads.tracker.create(on_disk)
    record = read(downloads, download_id)
    assert (outcome, record.state, record.local_path) == ("created", "complete", "/store/model.gguf")
    assert downloads.tracker.create(on_disk) == (download_id, "known")
    assert downloads.tracker.create(new(event=complete("/elsewhere"), local_path="/elsewhere"))[1] == "created"


def test_an_ended_download_is_not_joined(downloads: DownloadContext) -> None:
    first = create(downloads)
    held = claim(downloads, first)
    assert downloads.claims.finish(held, 2, "failed", failed())
    second, outcome = downloads.tracker.create(new())
    assert (outcome, second != first) == ("created", True)


def test_ended_records_expire_and_live_ones_do_not(downloads: DownloadContext, store: RedisClient) -> None:
    download_id = create(downloads)
    assert store.ttl(keys.record(download_id)) == -1
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    assert 0 < store.ttl(keys.record(download_id)) <= 3600


def test_only_one_of_two_workers_gets_a_download(downloads: DownloadContext) -> None:
    record = read(downloads, create(downloads))
    event = downloading(status="resolving")
    first = downloads.claims.claim(record, "one", "w1", event)
    assert first is not None
    assert downloads.claims.claim(record, "two", "w2", event) is None
    assert downloads.claims.claim(record, "one", "w1", event) == first, "the same claim again, after a lost reply"


def test_a_job_of_an_earlier_attempt_claims_nothing(downloads: DownloadContext) -> None:
    stale = read(downloads, create(downloads))
    assert downloads.claims.release(stale, downloading(), counts=False) == 2
    assert downloads.claims.claim(stale, "late", "w", downloading()) is None


def test_fences_grow_with_every_change_of_hands(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    fences = [read(downloads, download_id).fence]
    for attempt in range(3):
        fences.append(claim(downloads, download_id, f"owner {attempt}").fence)
        downloads.claims.release(read(downloads, download_id), downloading(), counts=True)
        fences.append(read(downloads, download_id).fence)
    assert fences == sorted(set(fences))


def test_fences_grow_over_a_clock_that_went_back(downloads: DownloadContext, store: RedisClient) -> None:
    download_id = create(downloads)
    far = int(time.time() * 1000) + 10_000_000
    store.hset(keys.record(download_id), "fence", far)
    assert claim(downloads, download_id).fence == far + 1


def test_what_is_published_is_what_is_stored(downloads: DownloadContext, store: RedisClient) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    pubsub = store.pubsub()
    pubsub.subscribe(keys.events(download_id, 0))
    assert pubsub.get_message(timeout=60)
    assert downloads.claims.publish(held, 2, downloading(40)).held
    told = pubsub.get_message(timeout=60)
    pubsub.close()
    assert told is not None
    message = parse_message(told["data"])
    assert message is not None
    assert downloads.tracker.read_states([download_id]) == [TopicState(message, ())]
    assert message.version == Version(held.fence, 2)
    assert read(downloads, download_id).bytes_done == 40


def test_a_publish_that_comes_again_or_late_does_not_go_back(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    downloads.claims.publish(held, 3, downloading(50))
    assert downloads.claims.publish(held, 2, downloading(10)).held
    assert read(downloads, download_id).bytes_done == 50


def test_a_zombie_is_refused_everywhere(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    zombie = claim(downloads, download_id, "zombie")
    downloads.claims.release(read(downloads, download_id), downloading(), counts=True)
    owner = claim(downloads, download_id, "owner")
    assert not downloads.claims.publish(zombie, 99, downloading(99)).held
    assert not downloads.claims.renew(zombie).held
    assert not downloads.claims.finish(zombie, 100, "complete", complete("/zombie"), "/zombie")
    assert downloads.claims.finish(owner, 2, "complete", complete("/owner"), "/owner")
    assert read(downloads, download_id).local_path == "/owner"


def test_there_is_exactly_one_end(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    assert downloads.claims.finish(held, 2, "complete", complete(), "/x")
    assert downloads.claims.finish(held, 2, "complete", complete(), "/x"), "the same end again, after a lost reply"
    assert not downloads.claims.finish(held, 3, "failed", failed())
    assert not downloads.claims.finish_unclaimed(read(downloads, download_id), "cancelled", failed("CANCELLED"))
    assert not downloads.claims.publish(held, 4, downloading(1)).held
    record = read(downloads, download_id)
    assert (record.state, record.seq) == ("complete", 2)


def test_the_end_leaves_no_lease_no_place_in_the_queue_and_no_secret(
    downloads: DownloadContext, store: RedisClient
) -> None:
    download_id, _ = downloads.tracker.create(new(secret=b"sealed", secret_ttl_s=60))
    assert downloads.tracker.read_secret(download_id) == b"sealed"
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    assert downloads.tracker.read_secret(download_id) is None
    assert store.zcard(keys.LEASES) == store.zcard(keys.PENDING) == 0


def test_a_lease_that_still_runs_is_not_taken(downloads: DownloadContext, store: RedisClient) -> None:
    download_id = create(downloads)
    claim(downloads, download_id)
    record = read(downloads, download_id)
    assert downloads.claims.expired_leases() == []
    assert downloads.claims.release(record, downloading(), counts=True, expired_only=True) is None
    assert not downloads.claims.finish_unclaimed(record, "failed", failed(), expired_only=True)
    expire_lease(store, download_id)
    assert downloads.claims.expired_leases() == [download_id]
    assert downloads.claims.release(record, downloading(), counts=True, expired_only=True) == 2


def test_a_renewal_and_a_publish_both_keep_the_lease(downloads: DownloadContext, store: RedisClient) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    keeps: list[Callable[[], Ack]] = [
        lambda: downloads.claims.renew(held),
        lambda: downloads.claims.publish(held, 2, downloading(1)),
    ]
    for keep in keeps:
        expire_lease(store, download_id)
        assert keep().held
        assert downloads.claims.expired_leases() == []


def test_attempts_that_bring_bytes_do_not_count(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    stalls = []
    for attempt, bytes_done in enumerate((0, 0, 10, 10, 10)):
        held = claim(downloads, download_id, f"owner {attempt}")
        downloads.claims.publish(held, 2, downloading(bytes_done))
        downloads.claims.release(read(downloads, download_id), downloading(bytes_done), counts=True)
        stalls.append(read(downloads, download_id).stalls)
    assert stalls == [1, 2, 0, 1, 2]


def test_an_orderly_release_does_not_count(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    claim(downloads, download_id)
    downloads.claims.release(read(downloads, download_id), downloading(), counts=False)
    record = read(downloads, download_id)
    assert (record.stalls, record.attempt, record.state) == (0, 2, "queued")


def test_a_word_reaches_the_worker_with_its_next_renewal(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    assert downloads.claims.renew(held).control == ""
    assert downloads.tracker.request_control(read(downloads, download_id), "cancel")
    assert downloads.claims.renew(held).control == "cancel"
    assert downloads.claims.publish(held, 2, downloading()).control == "cancel"


def test_a_word_for_a_download_that_changed_hands_is_not_left(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    seen = read(downloads, download_id)
    claim(downloads, download_id)
    assert not downloads.tracker.request_control(seen, "cancel")
    assert not downloads.claims.finish_unclaimed(seen, "cancelled", failed("CANCELLED"))


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
def test_pages_give_every_download_once_newest_first(
    downloads: DownloadContext, store: RedisClient, limit: int
) -> None:
    ids = [create(downloads, f"model-{n}") for n in range(23)]
    made_ms = {download_id: 1_700_000_000_000 + n for n, download_id in enumerate(ids)}
    store.zadd(
        keys.DOWNLOADS, {**made_ms, **dict.fromkeys(ids[5:15], 1_600_000_000_000)}
    )  # ten of the same millisecond
    seen: list[str] = []
    cursor = None
    while True:
        page = downloads.tracker.page(limit=limit, cursor=cursor)
        assert len(page.records) <= limit
        seen += [record.id for record in page.records]
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(ids)
    assert seen[:13] == [i for i in reversed(ids) if i not in ids[5:15]]


def test_a_filtered_list_gives_only_those(downloads: DownloadContext) -> None:
    first, second = create(downloads, "a"), create(downloads, "b")
    downloads.claims.finish(claim(downloads, first), 2, "complete", complete(), "/x")
    assert [r.id for r in downloads.tracker.page(limit=5, keep=frozenset({"complete"})).records] == [first]
    assert [r.id for r in downloads.tracker.page(limit=5, keep=frozenset({"queued"})).records] == [second]


def test_the_list_forgets_what_has_expired(downloads: DownloadContext, store: RedisClient) -> None:
    gone, kept = create(downloads, "a"), create(downloads, "b")
    store.delete(keys.record(gone))
    assert [r.id for r in downloads.tracker.page(limit=5).records] == [kept]
    assert store.zrange(keys.DOWNLOADS, 0, -1) == [kept.encode()]


def test_the_history_counts_what_all_attempts_took(downloads: DownloadContext, store: RedisClient) -> None:
    """The first attempt received 70 bytes and kept 50; 20 of 100 were on disk already."""
    download_id = create(downloads)
    held = claim(downloads, download_id)
    for _ in range(2):
        downloads.claims.publish(held, 2, downloading(70, 100), AttemptBytes(70, 4), found=20)
    store.hincrby(keys.record(download_id), "claimed_ms", -3000)
    downloads.claims.release(read(downloads, download_id), downloading(70, 100), counts=True)
    held = claim(downloads, download_id, "other")
    downloads.claims.publish(held, 2, downloading(100, 100), AttemptBytes(20, 0), found=70)
    store.hincrby(keys.record(download_id), "claimed_ms", -2000)
    downloads.claims.finish(held, 3, "complete", Complete(local_path="/x", bytes_total=100), "/x", AttemptBytes(30, 0))
    record = read(downloads, download_id)
    assert (record.bytes_received, record.bytes_refetched) == (100, 20)
    assert 5000 <= record.active_ms < 6000
    counters = {name.decode(): int(count) for name, count in store.hgetall(keys.METRICS).items()}
    assert counters == {
        "created": 1,
        "claims": 2,
        "recovered": 1,
        "queue_wait_ms": counters["queue_wait_ms"],
        **{f"queue_wait_le_{s}": 2 for s in (1, 5, 30, 120, 600, 3600)},
        "ended_complete": 1,
        "bytes_received": 100,
        "bytes_refetched": 20,
    }


def test_faults_are_counted_by_their_code(downloads: DownloadContext, store: RedisClient) -> None:
    for name in "ab":
        downloads.claims.finish(claim(downloads, create(downloads, name)), 2, "failed", failed("DISK_FULL"))
    assert store.hget(keys.METRICS, "fault_DISK_FULL") == b"2"


def test_a_person_is_heard_before_an_urgent_download(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    claim(downloads, download_id)
    record = read(downloads, download_id)
    assert downloads.tracker.request_control(record, "cancel")
    assert not downloads.tracker.request_control(record, "yield")
    assert read(downloads, download_id).control == "cancel"


def test_one_that_another_reaper_has_queued_again_is_not_taken_over_twice(
    downloads: DownloadContext, store: RedisClient
) -> None:
    download_id = create(downloads)
    claim(downloads, download_id)
    store.zrem(keys.LEASES, download_id)
    assert downloads.claims.release(read(downloads, download_id), downloading(), counts=True, expired_only=True) == 2
    waiting = read(downloads, download_id)
    assert downloads.claims.release(waiting, downloading(), counts=True, expired_only=True) is None
    assert not downloads.claims.finish_unclaimed(waiting, "failed", failed(), expired_only=True)
    assert read(downloads, download_id).attempt == 2
