"""What kills: horses, workers, servers, Redis. The download goes on or ends, once, with the right bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from redis.exceptions import ResponseError

from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import RedisClient, connect
from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.processes import Server, Workers, children, environment, is_alive
from tests.support.service import CONTENT, Service, check_right_end, slow, under_way
from tests.support.sse_client import SseClient
from tests.support.waiting import AT_ONCE_S, DEADLINE_S, wait_for


@pytest.fixture
def slow_model(hub: HubServer) -> str:
    return slow(hub)


@pytest.fixture
def patient(env: dict[str, str]) -> Iterator[Service]:
    """A service in which no lease runs out while a test waits: who is replaced was not replaced because of that."""
    made = Service({**env, "HIVE_LEASE_S": str(2 * DEADLINE_S)})
    try:
        yield made
    finally:
        made.stop()


def test_a_killed_horse_is_replaced_at_once(patient: Service, hub: HubServer, slow_model: str) -> None:
    service = patient
    download_id, client = under_way(service, slow_model)
    worker = service.busy_worker(download_id)
    (horse,) = children(worker["pid"])
    os.kill(horse, signal.SIGKILL)
    wait_for(lambda: client.last.get("attempt") == 2)
    arrived = client.last["bytes_downloaded"]
    wait_for(lambda: client.last["bytes_downloaded"] > arrived)
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    check_right_end(client, attempts=2)


def test_a_killed_worker_is_taken_over_after_its_lease(service: Service, hub: HubServer, slow_model: str) -> None:
    download_id, client = under_way(service, slow_model)
    worker = service.busy_worker(download_id)
    (horse,) = children(worker["pid"])
    os.kill(worker["pid"], signal.SIGKILL)
    killed_s = time.monotonic()
    wait_for(lambda: not is_alive(horse), what="the horse's death with its parent")
    wait_for(lambda: client.last.get("attempt") == 2)
    wait_for(lambda: client.last.get("status") == "downloading")
    assert time.monotonic() - killed_s < 3 * AT_ONCE_S
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    check_right_end(client, attempts=2)
    fetched = hub.bytes_sent("*.gguf", origin="cdn")
    assert fetched < CONTENT.size + 66 * MIB


def test_stopped_workers_give_their_download_back_and_it_goes_on(
    service: Service, hub: HubServer, slow_model: str
) -> None:
    download_id, client = under_way(service, slow_model)
    began = time.monotonic()
    assert service.workers.stop() == 0
    assert time.monotonic() - began < AT_ONCE_S
    assert service.show(download_id)["status"] == "queued"
    assert client.last["status"] == "retrying"
    assert client.done == 0
    hub.limit_rate_bytes_per_s = None
    service.workers = Workers(service.env, 1)
    check_right_end(client, attempts=2)
    assert hub.bytes_sent("*.gguf", origin="cdn") < CONTENT.size + 12 * MIB


def test_a_running_download_is_cancelled_at_once(service: Service, hub: HubServer, slow_model: str) -> None:
    download_id, client = under_way(service, slow_model, at_least=10 * MIB)
    began = time.monotonic()
    assert requests.delete(f"{service.server.url}/v1/downloads/{download_id}", timeout=60).status_code == 202
    client.wait(AT_ONCE_S)
    assert time.monotonic() - began < AT_ONCE_S
    assert (client.last["stage"], client.last["code"], client.last["status"]) == ("error", "CANCELLED", "cancelled")
    assert client.last["bytes_downloaded"] >= 10 * MIB
    hub.limit_rate_bytes_per_s = None
    hub.reset_log()
    assert service.bring(slow_model)["stage"] == "complete"
    assert hub.bytes_sent("*.gguf", origin="cdn") < CONTENT.size - 5 * MIB, "what had arrived was used"


def test_a_cancel_while_the_hub_is_slow_does_not_wait_for_it(service: Service, hub: HubServer) -> None:
    from tests.hub import faults

    hub.create("org/asleep", {"m-Q4_K_M.gguf": b"GGUF"})
    hub.faults.add(faults.status(503), "/api/*")
    download_id = service.post("hf:org/asleep")["download_id"]
    client = service.watch(download_id)
    wait_for(lambda: client.events and client.last["status"] == "retrying")
    requests.delete(f"{service.server.url}/v1/downloads/{download_id}", timeout=60)
    client.wait(5)
    assert client.last["code"] == "CANCELLED"


def test_a_killed_server_loses_nothing(service: Service, hub: HubServer, slow_model: str) -> None:
    download_id, client = under_way(service, slow_model)
    os.kill(service.server.pid, signal.SIGKILL)
    service.server.wait()
    client.wait()
    assert client.done == 0
    service.server.stop()
    service.server = Server(service.env)
    again = SseClient(
        f"{service.server.url}/v1/models/download/progress?id={download_id}", {"Last-Event-ID": client.ids[-1]}
    )
    wait_for(lambda: again.events)
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    check_right_end(again, attempts=1)


class WithOwnRedis:
    """A service on a Redis that a test may kill."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.redis = EmbeddedRedis(folder / "own").start()
        self.env = environment(
            self.redis.url, folder, HF_ENDPOINT=hub.endpoint, HIVE_DRAIN_S="0.2", HF_TOKEN="", HIVE_LEASE_S="3"
        )
        self.service = Service(self.env)

    def kill_redis(self) -> None:
        """Kill it when what it has said yes to is in its file. While a sync of a busy disk lasts it says yes to writes
        that it holds back for up to two seconds, and the claim of a moment ago would be lost with it.
        """
        with connect(self.redis.url, reply_timeout_s=DEADLINE_S) as client:
            client.set("written", 1)
            with contextlib.suppress(ResponseError):  # before Redis 7.2
                client.execute_command("WAITAOF", 1, 0, int(DEADLINE_S * 1000))
        self.redis.kill()

    def stop(self) -> None:
        try:
            self.service.stop()
        finally:
            self.redis.stop()


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Iterator[WithOwnRedis]:
    made = WithOwnRedis(tmp_path_factory.mktemp("o"), hub)
    yield made
    made.stop()


def test_a_redis_that_is_killed_and_comes_back_costs_no_attempt_and_no_byte(
    own: WithOwnRedis, hub: HubServer, slow_model: str
) -> None:
    """Away for longer than a lease: the workers hold their breath, the streams stay open."""
    _, client = under_way(own.service, slow_model)
    seen = len(client.events)
    own.kill_redis()
    gone_s = time.monotonic()
    wait_for(lambda: time.monotonic() - gone_s > 5, what="an outage longer than the lease of 3 s")
    assert not client.closed.is_set()
    own.redis.launch()
    back_s = time.monotonic()
    wait_for(lambda: len(client.events) > seen)
    assert time.monotonic() - back_s < 3 * AT_ONCE_S
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    check_right_end(client, attempts=1)
    assert hub.bytes_sent("*.gguf", origin="cdn") < CONTENT.size + 24 * MIB


def test_the_end_comes_through_when_redis_was_away_at_the_time(
    own: WithOwnRedis, hub: HubServer, slow_model: str
) -> None:
    download_id, client = under_way(own.service, slow_model)
    own.kill_redis()
    hub.limit_rate_bytes_per_s = None
    wait_for(
        lambda: own.service.workers.logged("Redis does not take the end of the download; trying again") or _held(own)
    )
    own.redis.launch()
    check_right_end(client, attempts=1)
    assert own.service.show(download_id)["status"] == "complete"


def _held(own: WithOwnRedis) -> Any:
    return own.service.workers.logged("the lease is unconfirmed; holding the transfer")


def test_a_new_client_gets_a_stream_while_redis_is_away(own: WithOwnRedis, hub: HubServer, slow_model: str) -> None:
    download_id, _ = under_way(own.service, slow_model)
    own.kill_redis()
    late = own.service.watch(download_id)
    wait_for(lambda: late.status)
    assert late.status == 200
    own.redis.launch()
    wait_for(lambda: late.events)
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    check_right_end(late, attempts=1)


def test_idle_workers_outlive_a_redis_that_is_away(own: WithOwnRedis, hub: HubServer) -> None:
    pids = children(own.service.workers.pid)
    own.kill_redis()
    wait_for(lambda: '"Redis' in own.service.workers.output or "could not connect" in own.service.workers.output)
    own.redis.launch()
    hub.create("org/after", {"m-Q4_K_M.gguf": SyntheticFile(MIB, seed=1)})
    own.service.server.wait_until_ready()
    assert own.service.bring("hf:org/after")["stage"] == "complete"
    assert children(own.service.workers.pid) == pids


def test_two_requests_for_the_same_file_by_different_references_both_end_well(
    service: Service, hub: HubServer, store: RedisClient
) -> None:
    content = SyntheticFile(20 * MIB, seed=2)
    hub.create("org/same", {"m-Q4_K_M.gguf": content})
    ids = [
        service.post(ref)["download_id"] for ref in ("hf:org/same", "hf:org/same:Q4_K_M", "hf:org/same/m-Q4_K_M.gguf")
    ]
    assert len(set(ids)) == 3
    for download_id in ids:
        end = service.watch(download_id).wait(60)
        assert end.last["stage"] == "complete", end.last
        assert file_sha256(end.last["local_path"]) == content.sha256()
