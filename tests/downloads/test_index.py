"""Filters by status go by an index: one paused download is found among thousands that have ended."""

from __future__ import annotations

import uuid
from typing import get_args

import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.reaper import Reaper
from hive.downloads.record import Record
from hive.downloads.tracker import MAX_SCANNED
from hive.redis.client import RedisClient
from hive.wire import keys
from hive.wire.events import ACTIVE, TERMINAL, State
from tests.support.downloads import claim, complete, create, download_context, downloading, failed, new

#: Ended downloads in front of the one that is looked for.
CROWD = 25_000


@pytest.fixture
def downloads(redis_client: RedisClient) -> DownloadContext:
    return download_context(redis_client)


def indexed(downloads: DownloadContext, download_id: str) -> list[str]:
    """The states under which the index has it."""
    client = downloads.client
    return [state for state in get_args(State) if client.zscore(keys.state_index(state), download_id) is not None]


def build(downloads: DownloadContext) -> None:
    cursor = downloads.tracker.build_index()
    while cursor != "0":
        cursor = downloads.tracker.build_index(cursor)


def listed(downloads: DownloadContext, *statuses: str, limit: int = 50) -> list[str]:
    found: list[str] = []
    page = downloads.tracker.page(limit=limit, keep=frozenset(statuses))
    found += [record.id for record in page.records]
    while page.cursor is not None:
        page = downloads.tracker.page(limit=limit, keep=frozenset(statuses), cursor=page.cursor)
        found += [record.id for record in page.records]
    return found


def read(downloads: DownloadContext, download_id: str) -> Record:
    record = downloads.tracker.read(download_id)
    assert record is not None
    return record


def test_every_change_of_hands_is_in_the_index(downloads: DownloadContext) -> None:
    download_id = create(downloads)
    assert indexed(downloads, download_id) == ["queued"]
    held = claim(downloads, download_id)
    assert indexed(downloads, download_id) == ["running"]
    downloads.claims.release(read(downloads, download_id), downloading(), counts=False, to="paused")
    assert indexed(downloads, download_id) == ["paused"]
    downloads.claims.release(read(downloads, download_id), downloading(), counts=False)
    assert indexed(downloads, download_id) == ["queued"]
    held = claim(downloads, download_id, "second")
    downloads.claims.finish(held, 2, "complete", complete(), "/x")
    assert indexed(downloads, download_id) == ["complete"]
    other = create(downloads, "other")
    downloads.claims.finish_unclaimed(read(downloads, other), "cancelled", failed())
    assert indexed(downloads, other) == ["cancelled"]
    on_disk, _ = downloads.tracker.create(new("disk", event=complete(), local_path="/y"))
    assert indexed(downloads, on_disk) == ["complete"]


def test_filters_find_what_is_there_newest_first_and_once(downloads: DownloadContext) -> None:
    build(downloads)
    ids = [create(downloads, f"model-{n}") for n in range(12)]
    for n, download_id in enumerate(ids):
        downloads.client.hset(keys.record(download_id), "created_ms", 1_000 + n)
        for key in (keys.DOWNLOADS, keys.state_index("queued")):
            downloads.client.zadd(key, {download_id: 1_000 + n // 2})
    for download_id in ids[:4]:
        downloads.claims.finish(claim(downloads, download_id, download_id), 2, "complete", complete(), "/x")
    build(downloads)
    paused = ids[5]
    downloads.claims.release(read(downloads, paused), downloading(), counts=False, to="paused")
    build(downloads)
    running = claim(downloads, ids[6], "w")
    build(downloads)
    assert listed(downloads, "paused", limit=1) == [paused]
    assert listed(downloads, "resolving") == [running.id]
    assert set(listed(downloads, *ACTIVE, limit=3)) == set(ids[4:])
    assert len(listed(downloads, *ACTIVE, limit=3)) == 8
    assert set(listed(downloads, *TERMINAL, limit=3)) == set(ids[:4])


def test_what_the_version_before_made_is_put_into_the_index(downloads: DownloadContext) -> None:
    ids = [create(downloads, f"model-{n}") for n in range(5)]
    downloads.claims.release(read(downloads, ids[0]), downloading(), counts=False, to="paused")
    for state in get_args(State):
        downloads.client.delete(keys.state_index(state))
    assert not downloads.tracker.has_index()
    assert listed(downloads, "paused") == [ids[0]], "until then the list is looked through"
    build(downloads)
    assert downloads.tracker.has_index()
    assert listed(downloads, "paused") == [ids[0]]
    assert set(listed(downloads, "queued")) == set(ids[1:])


def test_what_an_old_worker_moved_is_moved_in_the_index(downloads: DownloadContext) -> None:
    build(downloads)
    download_id = create(downloads)
    downloads.client.hset(keys.record(download_id), mapping={"state": "complete", "status": "complete"})
    assert listed(downloads, "queued") == []
    build(downloads)
    assert indexed(downloads, download_id) == ["complete"]
    assert listed(downloads, "complete") == [download_id]


def test_records_that_have_expired_leave_the_index(downloads: DownloadContext) -> None:
    build(downloads)
    download_id = create(downloads)
    downloads.client.delete(keys.record(download_id))
    assert listed(downloads, "queued") == []
    assert indexed(downloads, download_id) == []


def test_as_many_records_as_may_be(redis_client: RedisClient) -> None:
    downloads = download_context(redis_client, max_records=3)
    first = create(downloads, "a")
    create(downloads, "b"), create(downloads, "c")
    assert downloads.tracker.create(new("d"))[1] == "crowded"
    assert downloads.tracker.create(new("e", event=complete(), local_path="/e"))[1] == "crowded"
    assert downloads.tracker.create(new("a")) == (first, "joined")
    redis_client.delete(keys.record(first))
    assert downloads.tracker.create(new("d"))[1] == "created", "what has expired takes no room"


def crowd(client: RedisClient, template: dict[bytes, bytes]) -> None:
    """Downloads that have ended, as the version before left them."""
    with client.pipeline(transaction=False) as pipeline:
        for n in range(CROWD):
            download_id = str(uuid.UUID(int=n))
            pipeline.hset(keys.record(download_id), mapping={**template, b"id": download_id})
            pipeline.zadd(keys.DOWNLOADS, {download_id: 2_000_000_000_000 + n})
            if n % 5_000 == 0:
                pipeline.execute()
        pipeline.execute()


@pytest.mark.slow
def test_one_paused_download_is_found_behind_thousands_that_have_ended(store: RedisClient) -> None:
    downloads = download_context(store)
    paused, ended = create(downloads, "paused"), create(downloads, "ended")
    downloads.claims.release(read(downloads, paused), downloading(), counts=False, to="paused")
    downloads.claims.finish(claim(downloads, ended), 2, "complete", complete(), "/x")
    for state in get_args(State):
        store.delete(keys.state_index(state))
    crowd(store, store.hgetall(keys.record(ended)))
    reaper = Reaper(downloads)
    while not downloads.tracker.has_index():
        reaper.sweep()
    before = store.info("commandstats").get("cmdstat_hgetall", {}).get("calls", 0)
    assert [record.id for record in downloads.tracker.page(limit=50, keep=frozenset({"paused"})).records] == [paused]
    assert [record.id for record in downloads.tracker.page(limit=1000, keep=ACTIVE).records] == [paused]
    looked_at = store.info("commandstats")["cmdstat_hgetall"]["calls"] - before
    assert looked_at == 2, "one record each: the index names it"
    page = downloads.tracker.page(limit=50, keep=frozenset({"failed"}))
    assert (page.records, page.cursor) == ([], None)
    assert len(downloads.tracker.page(limit=50, keep=frozenset({"complete"})).records) == 50
    looked_at = store.info("commandstats")["cmdstat_hgetall"]["calls"] - before
    assert looked_at <= MAX_SCANNED
