"""Redis loses everything: what was under way goes on under its ids, and what is on the disk stays what it is."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import RedisClient, connect
from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.processes import Server, Workers, children, environment, is_alive
from tests.support.service import CONTENT, TOKEN, Service, act, check_right_end, slow, under_way
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

#: Seconds within which a download must be back.
BACK_S = 60.0


@pytest.fixture
def slow_model(hub: HubServer) -> str:
    return slow(hub)


@pytest.fixture
def replica(service: Service) -> Iterator[Server]:
    """A second server."""
    made = Server(service.env)
    wait_for(lambda: requests.get(f"{made.url}/readyz", timeout=60).status_code == 200)
    yield made
    made.stop()
    assert "Traceback" not in made.output, made.output


def watch(server: Server, download_id: str, last_id: str | None = None) -> SseClient:
    headers = {"Last-Event-ID": last_id} if last_id else None
    return SseClient(f"{server.url}/v1/models/download/progress?id={download_id}", headers)


def at_full_speed(hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()


def models(server: Server) -> Any:
    return requests.get(f"{server.url}/v1/models", timeout=60).json()["data"]


def intent_files(service: Service) -> list[str]:
    return [p.name for p in (Path(service.env["HIVE_STORE"]) / "hive" / "downloads").glob("*/*")]


def test_a_running_download_goes_on_under_its_id_for_everyone_who_watches(
    service: Service, replica: Server, hub: HubServer, slow_model: str, store: RedisClient
) -> None:
    hub.create("org/before", {"m-Q4_K_M.gguf": SyntheticFile(MIB, seed=3)})
    assert service.bring("hf:org/before")["stage"] == "complete"
    catalog = models(service.server)
    hub.reset_log()
    download_id, client = under_way(service, slow_model)
    clients = [client, watch(replica, download_id), watch(replica, download_id)]
    wait_for(lambda: all(c.events for c in clients))
    for _ in range(2):
        store.flushall()
        lost_s, seen = time.monotonic(), client.last["bytes_downloaded"]
        wait_for(lambda: client.last["bytes_downloaded"] > seen + MIB, deadline_s=BACK_S)  # noqa: B023 - awaited in this turn
        assert time.monotonic() - lost_s < BACK_S
        assert service.show(download_id)["id"] == download_id
    assert models(replica) == catalog
    assert service.post(slow_model) == {"download_id": download_id, "local_path": None, "joined": True}
    at_full_speed(hub)
    for each in clients:
        check_right_end(each, attempts=1)
        assert each.after_done == 0
    assert hub.bytes_sent("org/slow/*", origin="cdn") < CONTENT.size + 34 * MIB
    wait_for(lambda: intent_files(service) == [])


def test_a_client_that_comes_at_the_worst_moment_gets_a_stream_and_not_404(
    service: Service, replica: Server, hub: HubServer, slow_model: str, store: RedisClient
) -> None:
    service.workers.stop()
    queued = service.post(slow_model)["download_id"]
    store.flushall()
    assert requests.get(f"{replica.url}/v1/downloads/{queued}", timeout=60).status_code == 200
    store.flushall()
    late = watch(replica, queued)
    wait_for(lambda: late.status)
    assert late.status == 200
    store.flushall()
    many = SseClient(f"{replica.url}/v1/downloads/progress?id={queued}")
    wait_for(lambda: many.status)
    assert many.status == 200
    at_full_speed(hub)
    service.workers = Workers(service.env, 1)
    check_right_end(late, attempts=1)
    assert many.wait(30).done == 1


def listed(url: str) -> dict[str, Any]:
    """The downloads that a server lists, by their ids."""
    return {d["id"]: d for d in requests.get(f"{url}/v1/downloads", timeout=60).json()["data"]}


def test_queued_and_paused_downloads_come_back_as_they_were(
    service: Service, replica: Server, hub: HubServer, slow_model: str, store: RedisClient
) -> None:
    hub.create("org/waits", {"m-Q4_K_M.gguf": SyntheticFile(2 * MIB, seed=4)})
    paused, client = under_way(service, slow_model)
    act(service, paused, "pause")
    wait_for(lambda: client.last.get("status") == "paused")
    before = client.last["bytes_downloaded"]
    service.workers.stop()
    queued = service.post("hf:org/waits", priority="low")["download_id"]
    watching = service.watch(queued)
    wait_for(lambda: watching.events)
    store.flushall()
    store.script_flush()
    for server in (service.server, replica):
        wait_for(lambda url=server.url: {paused, queued} <= listed(url).keys())  # type: ignore[misc]
        found = listed(server.url)
        assert found[paused]["status"] == "paused"
        assert found[paused]["progress"]["bytes_downloaded"] == before
        assert (found[queued]["status"], found[queued]["priority"]) == ("queued", "low")
    service.workers = Workers(service.env, 1)
    assert watching.wait().last["stage"] == "complete"
    assert service.show(paused)["status"] == "paused"
    assert act(service, paused, "resume").status_code == 202
    at_full_speed(hub)
    hub.reset_log()
    client.wait(60)
    assert (client.last["stage"], client.done) == ("complete", 1)
    assert file_sha256(client.last["local_path"]) == CONTENT.sha256()
    assert hub.bytes_sent("org/slow/*", origin="cdn") < CONTENT.size - before + 8 * MIB


def test_a_worker_that_dies_in_the_same_moment_is_replaced(
    service: Service, replica: Server, hub: HubServer, slow_model: str, store: RedisClient
) -> None:
    download_id, client = under_way(service, slow_model)
    worker = service.busy_worker(download_id)
    (horse,) = children(worker["pid"])
    os.kill(worker["pid"], signal.SIGKILL)
    wait_for(lambda: not is_alive(horse))
    last_id = client.ids[-1]
    store.flushall()
    lost_s = time.monotonic()
    again = watch(replica, download_id, last_id)
    wait_for(lambda: client.last.get("attempt") == 2 and client.last.get("status") == "downloading", deadline_s=BACK_S)
    assert time.monotonic() - lost_s < BACK_S
    at_full_speed(hub)
    for each in (client, again):
        each.wait(60)
        assert (each.last["stage"], each.done) == ("complete", 1)
    assert file_sha256(client.last["local_path"]) == CONTENT.sha256()
    versions = [tuple(map(int, i.split("-"))) for i in (last_id, *again.ids)]
    assert versions == sorted(set(versions)), "nothing older than what it had seen at the other server"


def test_the_end_comes_through_when_redis_lost_everything_just_before(
    service: Service, hub: HubServer, slow_model: str, store: RedisClient
) -> None:
    """A worker that does not speak for a moment, stopped, comes back to an empty Redis and ends its download."""
    download_id, client = under_way(service, slow_model)
    (horse,) = children(service.busy_worker(download_id)["pid"])
    os.kill(horse, signal.SIGSTOP)
    store.flushall()
    at_full_speed(hub)
    os.kill(horse, signal.SIGCONT)
    client.wait(60)
    assert (client.last["stage"], client.done, client.last["attempt"]) == ("complete", 1, 1)


def test_a_cancel_and_a_url_whose_query_is_gone_end_with_a_reason(
    service: Service, hub: HubServer, env: dict[str, str], store: RedisClient
) -> None:
    service.workers.stop()
    url = hub.plain("/signed.gguf", b"GGUF" * 1000)
    lost = service.post(f"{url}?signature={TOKEN}")["download_id"]
    client = service.watch(lost)
    wait_for(lambda: client.events)
    assert all(TOKEN not in p.read_text() for p in Path(env["HIVE_STORE"]).rglob("*.json"))
    store.flushall()
    service.workers = Workers({**service.env, "HIVE_ALLOW_HOSTS": "127.0.0.1"}, 1)
    end = client.wait(30).last
    assert (end["stage"], end["code"], client.done) == ("error", "CREDENTIALS_LOST", 1)
    wait_for(lambda: intent_files(service) == [])


def test_a_download_survives_the_loss_of_everything_but_the_store(
    tmp_path_factory: pytest.TempPathFactory, hub: HubServer, slow_model: str
) -> None:
    folder = tmp_path_factory.mktemp("l")
    redis = EmbeddedRedis(folder / "own").start()
    env = environment(redis.url, folder, HF_ENDPOINT=hub.endpoint, HIVE_DRAIN_S="0.2", HF_TOKEN="", HIVE_LEASE_S="3")
    service = Service(env)
    try:
        download_id, client = under_way(service, slow_model, 10 * MIB)
        os.kill(service.server.pid, signal.SIGKILL)
        service.server.wait()
        service.workers.stop()
        service.server.stop()
        redis.stop()
        shutil.rmtree(folder / "own" / "redis")
        redis.start()
        hub.limit_rate_bytes_per_s = None
        hub.reset_log()
        service = Service(env)
        back_s = time.monotonic()
        again = watch(service.server, download_id, client.ids[-1])
        again.wait(60)
        assert time.monotonic() - back_s < BACK_S + 10
        assert (again.last["stage"], again.done) == ("complete", 1)
        assert file_sha256(again.last["local_path"]) == CONTENT.sha256()
        assert hub.bytes_sent("org/slow/*", origin="cdn") < CONTENT.size - 6 * MIB
        versions = [tuple(map(int, i.split("-"))) for i in (client.ids[-1], *again.ids)]
        assert versions == sorted(set(versions)), "nothing older than what it had seen"
        with connect(redis.url) as store:
            assert store.zcard("hive:leases") == 0
    finally:
        service.stop()
        redis.stop()
