"""One stream for many downloads: snapshot first, then every change, each end once."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from hive.downloads.context import DownloadContext
from hive.redis.client import RedisClient
from tests.support.downloads import claim, complete, create, download_context, downloading
from tests.support.processes import Server, environment
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

#: The id of no download.
NOBODY = "00000000-0000-4000-8000-000000000000"


def watch(api: str, query: str = "") -> SseClient:
    return SseClient(f"{api}/v1/downloads/progress?{query}")


def of(client: SseClient, download_id: str) -> list[dict[str, Any]]:
    return [event for event in client.events if event["download_id"] == download_id]


def ends(client: SseClient) -> Counter[str]:
    return Counter(event["download_id"] for event in client.events if event["stage"] != "downloading")


def test_named_downloads_are_followed_to_their_ends_and_then_done(api: str, downloads: DownloadContext) -> None:
    ids = [create(downloads, f"model-{n}") for n in range(5)]
    downloads.claims.finish(claim(downloads, ids[0]), 2, "complete", complete(), "/x")
    client = watch(api, "&".join(f"id={i}" for i in ids))
    wait_for(lambda: len(client.events) == 5)
    for download_id in ids[1:]:
        held = claim(downloads, download_id)
        downloads.claims.publish(held, 2, downloading(50))
        downloads.claims.finish(held, 3, "complete", complete(), "/x")
    client.wait()
    assert client.done == 1
    assert ends(client) == Counter(ids)
    for download_id in ids:
        versions = [i.partition(":")[2] for i in client.ids if i.startswith(download_id)]
        assert versions == sorted(versions, key=lambda text: tuple(map(int, text.split("-"))))


def test_events_are_named_for_an_event_source(api: str, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    client = watch(api, f"id={download_id}")
    wait_for(lambda: client.events)
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete("/store/a"), "/store/a")
    client.wait()
    assert client.names[0] == "progress"
    assert client.names[-1] == "end"
    assert client.last == {
        "download_id": download_id,
        "stage": "complete",
        "local_path": "/store/a",
        "status": "complete",
    }


def test_a_stream_for_the_active_ones_meets_newcomers(api: str, downloads: DownloadContext) -> None:
    ended, active = create(downloads, "ended"), create(downloads, "active")
    downloads.claims.finish(claim(downloads, ended), 2, "complete", complete(), "/x")
    client = watch(api, "status=active")
    wait_for(lambda: of(client, active))
    assert not of(client, ended)
    newcomer = create(downloads, "newcomer")
    wait_for(lambda: of(client, newcomer))
    for download_id in (active, newcomer):
        downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    wait_for(lambda: len(ends(client)) == 2)
    assert ends(client) == Counter([active, newcomer])
    assert client.done == 0
    client.close()


def test_a_stream_for_all_begins_with_the_ended_ones_too(api: str, downloads: DownloadContext) -> None:
    ended, active = create(downloads, "ended"), create(downloads, "active")
    downloads.claims.finish(claim(downloads, ended), 2, "complete", complete(), "/x")
    client = watch(api)
    wait_for(lambda: len(client.events) == 2)
    assert ends(client) == Counter([ended])
    client.close()
    assert of(client, active)


def test_a_lost_subscription_costs_nothing_and_no_end_twice(
    api: str, downloads: DownloadContext, store: RedisClient
) -> None:
    ids = [create(downloads, f"model-{n}") for n in range(20)]
    held = {download_id: claim(downloads, download_id) for download_id in ids}
    client = watch(api)
    wait_for(lambda: len(client.events) >= 20)
    for number, download_id in enumerate(ids):
        if number % 4 == 0:
            store.client_kill_filter(_type="pubsub")
        downloads.claims.finish(held[download_id], 2, "complete", complete(), "/x")
    late = create(downloads, "while-away")
    store.client_kill_filter(_type="pubsub")
    downloads.claims.finish(claim(downloads, late), 2, "complete", complete(), "/x")
    wait_for(lambda: len(ends(client)) == 21)
    assert ends(client) == Counter([*ids, late])
    client.close()


def test_silence_is_broken_also_where_nothing_is_under_way(api: str) -> None:
    client = watch(api, "status=active")
    wait_for(lambda: client.comments >= 2)
    client.close()
    assert client.events == []


def test_a_thousand_downloads_arrive_on_one_stream(redis_url: str, store: RedisClient, tmp_path: Path) -> None:
    downloads = download_context(store, ended_ttl_s=60, max_queued=2000, lease_s=6)
    ids = [create(downloads, f"model-{n}") for n in range(1000)]
    server = Server(environment(redis_url, tmp_path, HIVE_DRAIN_S="0"))
    try:
        server.wait_until_ready()
        client = watch(server.url, "status=active")
        wait_for(lambda: len({event["download_id"] for event in client.events}) == 1000)
        for download_id in ids:
            downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
        wait_for(lambda: len(ends(client)) == 1000)
        assert set(ends(client).values()) == {1}
    finally:
        assert server.stop() == 0
    assert client.wait(5).done == 0
    assert "Traceback" not in server.output


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("id=7", 404),
        (f"id={NOBODY}", 404),
        ("status=ended", 400),
        (f"status=active&id={NOBODY}", 400),
        ("&".join(f"id={uuid.UUID(int=n)}" for n in range(101)), 400),
    ],
)
def test_bad_wishes_are_told(api: str, query: str, status: int) -> None:
    answer = requests.get(f"{api}/v1/downloads/progress?{query}", timeout=60)
    assert answer.status_code == status
    assert answer.json()["error"]["code"]
    assert requests.head(f"{api}/v1/downloads/progress", timeout=60).status_code == 200
