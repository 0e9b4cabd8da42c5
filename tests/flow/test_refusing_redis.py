"""Redis is there and refuses, in each of its ways: people read why, workers wait, and everything goes on afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from hive.processes.embedded_redis import EmbeddedRedis
from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB
from tests.support.processes import Server, Workers, environment, stopping
from tests.support.refusing_redis import RefusingRedis
from tests.support.service import Service
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

#: What it answers, and what people read of it.
REFUSALS = {
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist on disk.": "MISCONF",
    "NOREPLICAS Not enough good replicas to write.": "NOREPLICAS",
    "BUSY Redis is busy running a script.": "BUSY",
    "READONLY You can't write against a read only replica.": "READONLY",
    "OOM command not allowed when used memory > 'maxmemory'.": "OOM",
    "LOADING Redis is loading the dataset in memory": "loading",
    "CLUSTERDOWN The cluster is down": "Cluster",
    "NOAUTH Authentication required.": "NOAUTH",
    "NOPERM this user has no permissions to run the command": "NOPERM",
    "MASTERDOWN Link with MASTER is down": "MASTERDOWN",
    "SOMETHINGNEW of a later release": "SOMETHINGNEW",
}
#: How many commands are refused before it is an ordinary Redis again: the server's loops and the worker's have met it.
REFUSED = 15


@pytest.fixture
def redis_that_refuses(redis_server: EmbeddedRedis, redis_url: str) -> Iterator[RefusingRedis]:
    made = RefusingRedis(redis_url.removeprefix("unix://"))
    yield made
    made.close()


@pytest.fixture
def service(redis_that_refuses: RefusingRedis, tmp_path: Path, hub: HubServer) -> Iterator[Service]:
    env = environment(
        redis_that_refuses.url, tmp_path, HF_ENDPOINT=hub.endpoint, HIVE_DRAIN_S="0.2", HF_TOKEN="", HIVE_LEASE_S="6"
    )
    made = Service(env, 1)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.slow
def test_a_refusal_is_a_503_with_its_reason_and_no_worker_quits(
    service: Service, redis_that_refuses: RefusingRedis, hub: HubServer
) -> None:
    hub.create("org/model", {"m-Q4_K_M.gguf": SyntheticFile(64 * MIB, seed=7)})
    hub.limit_rate_bytes_per_s = MIB
    workers = [worker["name"] for worker in service.listed_workers()]
    download_id = service.post("hf:org/model")["download_id"]
    watch = service.watch(download_id)
    wait_for(lambda: watch.events and watch.last["bytes_downloaded"] > 0)
    for answer, said in REFUSALS.items():
        redis_that_refuses.refused = 0
        redis_that_refuses.refuse(answer)
        wait_for(lambda: redis_that_refuses.refused > 0)
        for method, path in (("POST", "/v1/models/download"), ("GET", "/v1/downloads"), ("GET", "/v1/workers")):
            body = {"model_ref": "hf:org/other"} if method == "POST" else None
            reply = requests.request(method, service.server.url + path, json=body, timeout=60)
            assert reply.status_code == 503, (answer, path, reply.text)
            assert "STORE_UNAVAILABLE" in reply.text
            assert said in reply.text, (answer, reply.text)
            assert "does not answer" not in reply.text
        wait_for(lambda: redis_that_refuses.refused > REFUSED)
        redis_that_refuses.serve()
        service.server.wait_until_ready()
    hub.limit_rate_bytes_per_s = None
    end = watch.wait(60).last
    assert (end["stage"], end["attempt"], watch.done) == ("complete", 1, 1)
    assert [worker["name"] for worker in service.listed_workers()] == workers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "checks"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "refuse"),
        ("READONLY You can't write against a read only replica.", "refuse"),
        ("LOADING Redis is loading the dataset in memory", "refuse"),
        ("NOAUTH Authentication required.", "warn"),
    ],
)
def test_what_starts_while_redis_refuses_waits_and_works_afterwards(
    redis_that_refuses: RefusingRedis, tmp_path: Path, hub: HubServer, answer: str, checks: str
) -> None:
    hub.create("org/model", {"m-Q4_K_M.gguf": SyntheticFile(MIB, seed=7)})
    more = {"HF_ENDPOINT": hub.endpoint, "HIVE_DRAIN_S": "0.2", "HF_TOKEN": "", "HIVE_REDIS_CHECKS": checks}
    env = environment(redis_that_refuses.url, tmp_path, **more)
    redis_that_refuses.refuse(answer)
    with stopping(Server(env)) as server, stopping(Workers(env, 1)) as workers:
        assert isinstance(server, Server)
        redis_that_refuses.refused = 0
        wait_for(lambda: redis_that_refuses.refused > REFUSED)
        assert requests.get(f"{server.url}/v1/health", timeout=60).status_code == 200
        assert requests.get(f"{server.url}/readyz", timeout=60).status_code == 503
        redis_that_refuses.serve()
        server.wait_until_ready()
        body = {"model_ref": "hf:org/model"}
        download_id = requests.post(f"{server.url}/v1/models/download", json=body, timeout=60).json()["download_id"]
        watch = SseClient(f"{server.url}/v1/models/download/progress?id={download_id}").wait(30)
        assert watch.last["stage"] == "complete"
        for process in (server, workers):
            assert "Traceback" not in process.output, process.output
            assert process.logged("a process ended; replacing it") is None, "no worker quits"
