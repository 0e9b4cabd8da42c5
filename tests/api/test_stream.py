"""The progress stream of a real server: Running -> SendingDone -> Done, for every moment at which a client may come."""

from __future__ import annotations

import json
import socket
import uuid
from pathlib import Path

import pytest
import requests

from hive.downloads.context import DownloadContext
from hive.redis.client import RedisClient
from tests.support.downloads import claim, complete, create, downloading, failed
from tests.support.processes import Server, environment
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for


def watch(api: str, download_id: str, **headers: str) -> SseClient:
    return SseClient(
        f"{api}/v1/models/download/progress?id={download_id}", {k.replace("_", "-"): v for k, v in headers.items()}
    )


def test_a_client_sees_the_state_the_progress_the_end_and_done(api: str, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    client = watch(api, download_id)
    wait_for(lambda: client.events)
    held = claim(downloads, download_id)
    downloads.claims.publish(held, 2, downloading(40))
    wait_for(lambda: client.last["bytes_downloaded"] == 40)
    downloads.claims.finish(held, 3, "complete", complete("/store/x.gguf"), "/store/x.gguf")
    client.wait()
    assert client.status == 200
    assert client.events[0]["status"] == "queued"
    assert client.last == {"stage": "complete", "local_path": "/store/x.gguf", "status": "complete"}
    assert (client.done, client.after_done) == (1, 0)
    assert client.ids == sorted(client.ids, key=lambda text: tuple(map(int, text.split("-"))))


def test_the_headers_suit_proxies_and_browsers(api: str, downloads: DownloadContext) -> None:
    client = watch(api, create(downloads))
    wait_for(lambda: client.events)
    client.close()
    assert client.headers["content-type"] == "text/event-stream"
    assert client.headers["cache-control"] == "no-store, no-transform"
    assert client.headers["x-accel-buffering"] == "no"
    assert client.retries == [2000]


@pytest.mark.parametrize("event", [complete(), failed()])
def test_a_client_that_comes_after_the_end_gets_it_and_done(
    api: str, downloads: DownloadContext, event: object
) -> None:
    download_id = create(downloads)
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", event, "/x")  # type: ignore[arg-type]
    client = watch(api, download_id).wait()
    stages = [seen["stage"] for seen in client.events]
    assert client.done == 1
    assert stages[-1] in ("complete", "error")
    assert stages[:-1] in ([], ["downloading"]), "what the process knew a moment before, at most"


def test_an_unknown_id_is_404_in_the_shape_of_every_error(api: str) -> None:
    answer = requests.get(f"{api}/v1/models/download/progress?id={uuid.uuid4()}", timeout=60)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "DOWNLOAD_NOT_FOUND"


@pytest.mark.parametrize("query", ["", "id=", "id=7", "id=../../etc/passwd", "id=%00", "id=" + "a" * 5000])
def test_an_id_that_is_no_uuid_is_unknown(api: str, query: str) -> None:
    answer = requests.get(f"{api}/v1/models/download/progress?{query}", timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "DOWNLOAD_NOT_FOUND")


def test_head_answers_at_once_and_post_is_refused(api: str, downloads: DownloadContext) -> None:
    url = f"{api}/v1/models/download/progress?id={create(downloads)}"
    head = requests.head(url, timeout=60)
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
    assert requests.post(url, timeout=60).status_code == 405


def test_silence_is_broken_by_comments(api: str, downloads: DownloadContext) -> None:
    client = watch(api, create(downloads))
    wait_for(lambda: client.comments >= 2)
    client.close()
    assert len(client.events) == 1


def test_a_client_that_has_seen_the_end_gets_204(api: str, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    downloads.claims.finish(held, 2, "complete", complete(), "/x")
    assert watch(api, download_id, Last_Event_ID=f"{held.fence}-2").wait().status == 204
    older = watch(api, download_id, Last_Event_ID=f"{held.fence}-1").wait()
    assert (older.status, older.last["stage"], older.done) == (200, "complete", 1)
    url = f"{api}/v1/models/download/progress?id={download_id}&last_event_id={held.fence}-2"
    assert requests.get(url, timeout=60).status_code == 204
    assert watch(api, download_id, Last_Event_ID="nonsense").wait().done == 1


def test_clients_that_leave_are_forgotten(api: str, downloads: DownloadContext, store: RedisClient) -> None:
    """A client that is gone and not noticed would keep its topic, and the server from stopping."""
    download_id = create(downloads)
    clients = [watch(api, download_id) for _ in range(50)]
    for client in clients:
        wait_for(lambda client=client: client.events)  # type: ignore[misc]
        client.close()
    last = watch(api, download_id)
    wait_for(lambda: last.events)
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    assert last.wait().done == 1


def test_a_drain_ends_streams_without_done_and_the_process_exits(
    redis_url: str, downloads: DownloadContext, tmp_path: object
) -> None:
    process = Server(environment(redis_url, tmp_path, HIVE_DRAIN_S="0.5"))  # type: ignore[arg-type]
    clients = [watch(process.url, create(downloads)) for _ in range(20)]
    for client in clients:
        wait_for(lambda client=client: client.events)  # type: ignore[misc]
    assert process.stop() == 0
    for client in clients:
        client.wait(5)
        assert client.done == 0
        assert len(client.retries) == 2, "the last word is when to come back"
    assert "Traceback" not in process.output


def test_a_server_that_stops_answers_those_who_wait_for_an_end(
    redis_url: str, downloads: DownloadContext, tmp_path: Path
) -> None:
    process = Server(environment(redis_url, tmp_path, HIVE_DRAIN_S="0"))
    process.wait_until_ready()
    path = f"/v1/downloads/{create(downloads)}"
    polls = [socket.create_connection(("127.0.0.1", process.port), 30) for _ in range(5)]
    for poll in polls:
        poll.sendall(f"GET {path}?wait=50s HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    # Asked behind them, and answered: they wait by now.
    assert requests.get(process.url + path, timeout=60).json()["status"] == "queued"
    assert process.stop() == 0
    for poll in polls:
        with poll, poll.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert json.loads(body)["status"] == "queued"
    assert "Traceback" not in process.output
