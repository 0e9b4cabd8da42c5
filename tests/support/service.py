"""The whole service as processes, and what tests of whole journeys do with it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import Any

import requests

from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.cli import COMMAND_TIMEOUT_S
from tests.support.content import MIB, file_sha256
from tests.support.processes import Server, Workers
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for


class Service:
    """A server, workers, and what tests do with them."""

    def __init__(self, env: dict[str, str], workers: int = 2, key: str = "") -> None:
        """`key`: whose the calls here are, where keys are on."""
        self.env = env
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        with contextlib.ExitStack() as on_failure:
            self.server = Server(env)
            on_failure.callback(self.server.stop)
            self.workers = Workers(env, workers)
            on_failure.callback(self.workers.stop)
            self._wait_until_ready(workers)
            on_failure.pop_all()

    def _wait_until_ready(self, workers: int) -> None:
        self.server.wait_until_ready()
        wait_for(lambda: len(self.listed_workers()) == workers)

    def post(self, model_ref: str, **body: Any) -> dict[str, Any]:
        answer = requests.post(
            f"{self.server.url}/v1/models/download",
            json={"model_ref": model_ref, **body},
            headers=self.headers,
            timeout=60,
        )
        found: dict[str, Any] = answer.json()
        assert answer.status_code in (200, 202), found
        return found

    def watch(self, download_id: str) -> SseClient:
        return SseClient(f"{self.server.url}/v1/models/download/progress?id={download_id}", headers=self.headers)

    def bring(self, model_ref: str, timeout_s: float = 60.0, **body: Any) -> dict[str, Any]:
        """The terminal event of a download."""
        client = self.watch(self.post(model_ref, **body)["download_id"]).wait(timeout_s)
        assert client.done == 1
        return client.last

    def show(self, download_id: str) -> dict[str, Any]:
        answer = requests.get(f"{self.server.url}/v1/downloads/{download_id}", headers=self.headers, timeout=60)
        found: dict[str, Any] = answer.json()
        return found

    def listed_workers(self) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.server.url}/v1/workers", headers=self.headers, timeout=60)
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    def busy_worker(self, download_id: str) -> dict[str, Any]:
        """The worker that runs this download."""

        def look() -> dict[str, Any] | None:
            return next((w for w in self.listed_workers() if w["download_id"] == download_id), None)

        found: dict[str, Any] = wait_for(look)
        return found

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.server.stop)
            stack.callback(self.workers.stop)
        for process in (self.server, self.workers):
            assert "Traceback" not in process.output, process.output


TOKEN = "hf_canary_abcdef0123456789"


CONTENT = SyntheticFile(60 * MIB, seed=11)


def under_way(service: Service, model_ref: str, at_least: int = 2 * MIB) -> tuple[str, SseClient]:
    """A download of which some bytes have arrived, and one who watches it."""
    download_id = service.post(model_ref)["download_id"]
    client = service.watch(download_id)
    wait_for(lambda: client.events and client.last.get("bytes_downloaded", 0) >= at_least)
    return download_id, client


def check_right_end(client: SseClient, *, attempts: int) -> None:
    client.wait(90)
    assert client.last["stage"] == "complete", client.last
    assert client.done == 1
    assert client.last["attempt"] == attempts
    assert file_sha256(client.last["local_path"]) == CONTENT.sha256()
    versions = [tuple(map(int, i.split("-"))) for i in client.ids]
    assert versions == sorted(set(versions))
    done = [event["bytes_downloaded"] for event in client.events[:-1]]
    assert done == sorted(done), "progress went back"


def act(service: Service, download_id: str, word: str) -> requests.Response:
    return requests.post(f"{service.server.url}/v1/downloads/{download_id}/{word}", timeout=60)


#: Bytes a second of each of up to 16 connections: CONTENT takes half a minute, which a busy machine takes as well for
#: what a test does meanwhile.
SLOW_BYTES_PER_S = 0.12 * MIB


def slow(hub: HubServer, bytes_per_s: float = SLOW_BYTES_PER_S) -> str:
    """A model that takes a while."""
    hub.create("org/slow", {"m-Q4_K_M.gguf": CONTENT})
    hub.limit_rate_bytes_per_s = bytes_per_s
    return "hf:org/slow"


def hive(service: Service, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**service.env, "PATH": os.environ["PATH"], "HIVE_HOST": service.server.url}
    return subprocess.run(
        [sys.executable, "-m", "hive.cli", *args], env=env, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
    )


#: A file that two downloads want, and one beside it.
SHARED = SyntheticFile(30 * MIB, seed=31)
OTHER = SyntheticFile(MIB, seed=32)


def start_two(service: Service, hub: HubServer) -> list[str]:
    """Two downloads under way that share a file; the first one is fetching it."""
    hub.create("org/shared", {"m-Q4_K_M.gguf": SHARED, "m-Q8_0.gguf": OTHER})
    hub.limit_rate_bytes_per_s = SLOW_BYTES_PER_S
    first = service.post("hf:org/shared:Q4_K_M")["download_id"]
    watch = service.watch(first)
    wait_for(lambda: watch.events and watch.last["bytes_downloaded"] > 2 * MIB)
    watch.close()
    second = service.post("hf:org/shared/m-Q4_K_M.gguf")["download_id"]
    return [first, second]
