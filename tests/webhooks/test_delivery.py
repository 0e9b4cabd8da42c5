"""From an end to the receiver, over real servers: signed, tried again, at least once, whoever dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from hive.client import Client
from hive.downloads.context import DownloadContext
from hive.redis.client import RedisClient
from hive.wire import keys
from tests.support.downloads import claim, complete, create, downloading, failed
from tests.support.processes import Serve, Server, environment
from tests.support.settings import settings_for
from tests.support.store import WHOLE, put, put_tree
from tests.support.waiting import wait_for
from tests.support.webhook_receiver import (
    SECRET,
    Receiver,
    Reply,
    cancel,
    documented_verify,
    hits,
    nothing_due,
    receiving,
)

MODEL = "hf:org/name"
CANARY = "canary0123456789"


def post(server: Server, **body: Any) -> requests.Response:
    return requests.post(f"{server.url}/v1/models/download", json={"model_ref": MODEL, **body}, timeout=60)


def test_every_end_is_told_signed_and_as_the_api_shows_it(
    everywhere: Server, receiver: Receiver, downloads: DownloadContext, store: RedisClient
) -> None:
    verify = documented_verify()
    ids = {kind: create(downloads, kind) for kind in ("completed", "failed", "cancelled")}
    downloads.claims.finish(claim(downloads, ids["completed"]), 2, "complete", complete("/store/x"), "/store/x")
    downloads.claims.finish(claim(downloads, ids["failed"]), 2, "failed", failed("DISK_FULL"))
    cancel(everywhere, ids["cancelled"])
    hits(receiver, 3)
    for hit in receiver.hits:
        assert verify(SECRET, hit.headers, hit.body)
        assert hit.headers["content-type"] == "application/json"
        assert hit.headers["user-agent"].startswith("hive/")
        kind = hit.message["type"].removeprefix("download.")
        assert hit.message["data"] == requests.get(f"{everywhere.url}/v1/downloads/{ids[kind]}", timeout=60).json()
        assert hit.message["timestamp"].endswith("Z")
        assert hit.id == ids[kind]
    assert Counter(hit.id for hit in receiver.hits) == Counter(ids.values())
    by_kind = {hit.message["type"]: hit.message["data"] for hit in receiver.hits}
    assert by_kind["download.completed"]["local_path"] == "/store/x"
    assert by_kind["download.failed"]["progress"]["code"] == "DISK_FULL"
    wait_for(lambda: nothing_due(store), what="nothing is left in Redis")


def test_the_webhooks_of_requests_are_told_also_of_one_that_was_joined(
    serve: Serve, receiver: Receiver, store: RedisClient
) -> None:
    server = serve(HIVE_ALLOW_HOSTS=receiver.host)
    first = post(server, webhook_url=receiver.url + "/first").json()
    with Client(server.url) as client:
        second = client.download(MODEL, webhook_url=receiver.url + "/second?x=1")
    assert (second.joined, second.download_id) == (True, first["download_id"])
    post(server, webhook_url=receiver.url + "/second?x=1")
    other = post(server, model_ref="hf:org/other").json()
    for download_id in (other["download_id"], first["download_id"]):
        cancel(server, download_id)
    hits(receiver, 2)
    wait_for(lambda: nothing_due(store), what="nothing is left in Redis")
    assert sorted(hit.path for hit in receiver.hits) == ["/hook/first", "/hook/second?x=1"]
    assert {hit.id for hit in receiver.hits} == {first["download_id"]}


def test_a_model_on_disk_is_told_to_who_asked_each_time_and_to_nobody_else(
    everywhere: Server, serve: Serve, receiver: Receiver, store: RedisClient, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path)
    snapshot = put(settings, "org/name", WHOLE)
    put_tree(settings, "org/name", WHOLE)
    everywhere.stop()
    with receiving() as own:
        server = serve(HIVE_WEBHOOK_URLS=receiver.url, HIVE_ALLOW_HOSTS=own.host)
        for count in (1, 2):
            answer = post(server, webhook_url=own.url)
            assert (answer.status_code, answer.json()["local_path"]) == (200, str(snapshot))
            hits(own, count)
        wait_for(lambda: nothing_due(store))
        assert {hit.message["type"] for hit in own.hits} == {"download.completed"}
        assert {hit.message["data"]["local_path"] for hit in own.hits} == {str(snapshot)}
        assert {hit.message["data"]["id"] for hit in own.hits} == {answer.json()["download_id"]}
        assert len({hit.id for hit in own.hits}) == 2
    assert receiver.hits == []


def test_a_ninth_webhook_of_a_download_is_refused_and_the_download_goes_on(serve: Serve, receiver: Receiver) -> None:
    server = serve(HIVE_ALLOW_HOSTS=receiver.host)
    answers = [post(server, webhook_url=f"{receiver.url}/{n}") for n in range(9)]
    assert [answer.status_code for answer in answers] == [202] * 8 + [409]
    assert answers[8].json()["error"]["code"] == "TOO_MANY_WEBHOOKS"


def test_a_retry_takes_a_webhook_of_its_own(serve: Serve, receiver: Receiver) -> None:
    server = serve(HIVE_ALLOW_HOSTS=receiver.host)
    first = post(server).json()["download_id"]
    cancel(server, first)
    again = requests.post(f"{server.url}/v1/downloads/{first}/retry", json={"webhook_url": receiver.url}, timeout=60)
    second = again.json()["download_id"]
    cancel(server, second)
    hits(receiver)
    assert [hit.id for hit in receiver.hits] == [second]
    assert receiver.hits[0].message["data"]["retry_of"] == first


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:8080/" + CANARY, "UNSAFE_URL"),
        ("https://user:" + CANARY + "@example.org/", "UNSAFE_URL"),
        ("https://example.org:22/" + CANARY, "UNSAFE_URL"),
        ("not a url " + CANARY, "UNSAFE_URL"),
        ("", "INVALID_REQUEST"),
        ("https://example.org/" + "x" * 2100, "INVALID_REQUEST"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused_before_anything_is_made(
    everywhere: Server, store: RedisClient, url: str, code: str
) -> None:
    answer = post(everywhere, webhook_url=url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert CANARY not in answer.text
    assert store.zcard(keys.DOWNLOADS) == 0


def test_without_a_secret_a_webhook_is_refused(serve: Serve) -> None:
    answer = post(serve(HIVE_WEBHOOK_SECRET=""), webhook_url="https://example.org/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_REQUEST")
    assert "HIVE_WEBHOOK_SECRET" in answer.json()["error"]["message"]


def test_a_server_without_the_secret_that_its_webhooks_need_does_not_start(redis_url: str, tmp_path: Path) -> None:
    env = environment(redis_url, tmp_path, HIVE_WEBHOOK_URLS=f"https://example.org/{CANARY}", PATH=os.environ["PATH"])
    command = [sys.executable, "-m", "hive.cli", "serve", "--port", "0"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "HIVE_WEBHOOK_SECRET" in done.stderr
    assert CANARY not in done.stdout + done.stderr


def test_it_is_tried_again_with_the_same_id_until_it_is_taken(
    everywhere: Server, receiver: Receiver, downloads: DownloadContext
) -> None:
    receiver.replies = [Reply(500), Reply(404), Reply(302, {"location": receiver.url + "/elsewhere"})]
    download_id = create(downloads)
    cancel(everywhere, download_id)
    hits(receiver, 4)
    assert {hit.id for hit in receiver.hits} == {download_id}
    assert {hit.path for hit in receiver.hits} == {"/hook"}
    assert {hit.body for hit in receiver.hits} == {receiver.hits[0].body}
    assert all(documented_verify()(SECRET, hit.headers, hit.body) for hit in receiver.hits)
    reasons = [line for line in everywhere.lines if "webhook not taken" in line]
    assert [f"status {status}" in line for status, line in zip((500, 404, 302), reasons, strict=True)] == [True] * 3


def test_a_receiver_that_is_not_there_yet_is_tried_again(
    serve: Serve, downloads: DownloadContext, store: RedisClient
) -> None:
    # Bound all the time, and listened at by nobody: a port that was let go would be given to another program.
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        server = serve(HIVE_WEBHOOK_URLS=f"http://127.0.0.1:{port}/hook", HIVE_WEBHOOK_RETRY_S=",".join(["0.3"] * 24))
        wait_for(lambda: store.zcard(keys.WEBHOOKS_STANDING))
        cancel(server, create(downloads))
        wait_for(lambda: "Connection refused" in server.output, what="a try was refused")
        with receiving(port) as receiver:
            hits(receiver)
    wait_for(lambda: nothing_due(store))


def test_410_and_the_last_try_end_it(
    everywhere: Server, receiver: Receiver, downloads: DownloadContext, store: RedisClient
) -> None:
    receiver.replies = [Reply(410)]
    cancel(everywhere, create(downloads, "gone"))
    wait_for(lambda: "410 Gone" in everywhere.output)
    wait_for(lambda: nothing_due(store))
    assert len(receiver.hits) == 1
    receiver.default = Reply(500)
    cancel(everywhere, create(downloads, "never"))
    wait_for(lambda: "given up at try 6" in everywhere.output, what="it was given up")
    wait_for(lambda: nothing_due(store))
    assert len(receiver.hits) == 1 + 6, "the first try, and one after each wait"


def test_retry_after_is_waited_for(
    everywhere: Server, receiver: Receiver, downloads: DownloadContext, store: RedisClient
) -> None:
    receiver.replies = [Reply(503, {"retry-after": "1000"})]
    cancel(everywhere, create(downloads))
    hits(receiver)
    wait_for(lambda: '"again_in_s": 1000' in everywhere.output)

    def due_in_s() -> float:
        ((_, at_ms),) = store.zrange(keys.WEBHOOKS_DUE, 0, -1, withscores=True)
        return float(at_ms) / 1000 - time.time()

    wait_for(lambda: 900 < due_in_s() <= 1000, what="the next try is as far away as was asked")


def test_a_receiver_that_does_not_answer_is_tried_again_and_holds_up_nobody(
    everywhere: Server, receiver: Receiver, downloads: DownloadContext
) -> None:
    gate = threading.Event()
    receiver.replies = [Reply(gate=gate)]
    cancel(everywhere, create(downloads, "slow"))
    hits(receiver)
    other = create(downloads, "other")
    cancel(everywhere, other)
    wait_for(lambda: any(hit.id == other for hit in receiver.hits), what="the other was told")
    assert requests.get(f"{everywhere.url}/v1/health", timeout=60).status_code == 200
    hits(receiver, 3)
    gate.set()
    wait_for(lambda: "no answer within 5 s" in everywhere.output, "it says what it gave up")


def test_no_url_and_no_secret_is_shown_anywhere(
    serve: Serve, receiver: Receiver, downloads: DownloadContext, store: RedisClient
) -> None:
    """While it waits, when it is refused, when it is given up, when it is sent."""
    server = serve(
        HIVE_WEBHOOK_URLS=f"{receiver.url}/{CANARY}/settings",
        HIVE_ALLOW_HOSTS=receiver.host,
        HIVE_LOG_LEVEL="debug",
        HIVE_WEBHOOK_RETRY_S="0.1,0.1",
    )
    wait_for(lambda: store.zcard(keys.WEBHOOKS_STANDING))
    receiver.default = Reply(500)
    download_id = post(server, webhook_url=f"{receiver.url}/{CANARY}?key={CANARY}").json()["download_id"]
    events = store.pubsub()
    events.psubscribe(keys.DOWNLOAD_CHANNELS.pattern(0))

    def clean() -> None:
        texts = (CANARY.encode(), SECRET.encode(), SECRET.removeprefix("whsec_").encode())
        for key in store.keys("*"):
            value = store.dump(key) or b""
            assert not any(text in value or text in key for text in texts), key

    clean()
    cancel(server, download_id)
    hits(receiver, 2)
    clean()
    wait_for(lambda: server.output.count("given up at try 3") == 2)
    receiver.default = Reply()
    cancel(server, post(server, model_ref="hf:org/b", webhook_url=f"{receiver.url}/{CANARY}").json()["download_id"])
    hits(receiver, 8)
    clean()
    while (message := events.get_message(timeout=0.1)) is not None:
        assert CANARY not in repr(message)
    events.close()
    wait_for(lambda: '"host": "127.0.0.1"' in server.output, "nothing is logged")
    assert CANARY not in server.output
    assert SECRET not in server.output
    assert CANARY not in requests.get(f"{server.url}/v1/downloads", timeout=60).text
    assert all(CANARY not in hit.body.decode() for hit in receiver.hits)


def test_progress_tells_nobody(everywhere: Server, receiver: Receiver, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    downloads.claims.publish(held, 2, downloading(10))
    ended = create(downloads, "ended")
    cancel(everywhere, ended)
    hits(receiver)
    assert [hit.id for hit in receiver.hits] == [ended]
