"""The whole service as processes: a Hub's stand-in, Redis, servers, workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from hive.redis_client import RedisClient
from tests.hub.server import HubServer
from tests.support.processes import Server, Workers, environment, wait_for
from tests.support.sse_client import SseClient


class Service:
    """A server, workers, and what tests do with them."""

    def __init__(self, env: dict[str, str], workers: int = 2) -> None:
        self.env = env
        with contextlib.ExitStack() as on_failure:
            self.server = Server(env)
            on_failure.callback(self.server.stop)
            self.workers = Workers(env, workers)
            on_failure.callback(self.workers.stop)
            self._wait_until_ready(workers)
            on_failure.pop_all()

    def _wait_until_ready(self, workers: int) -> None:
        wait_for(lambda: requests.get(f"{self.server.url}/readyz", timeout=5).status_code == 200)
        wait_for(lambda: len(self.listed_workers()) == workers)

    def post(self, model_ref: str, **body: Any) -> dict[str, Any]:
        answer = requests.post(
            f"{self.server.url}/v1/models/download", json={"model_ref": model_ref, **body}, timeout=5
        )
        found: dict[str, Any] = answer.json()
        assert answer.status_code in (200, 202), found
        return found

    def watch(self, download_id: str) -> SseClient:
        return SseClient(f"{self.server.url}/v1/models/download/progress?id={download_id}")

    def bring(self, model_ref: str, timeout_s: float = 60.0, **body: Any) -> dict[str, Any]:
        """The terminal event of a download."""
        client = self.watch(self.post(model_ref, **body)["download_id"]).wait(timeout_s)
        assert client.done == 1
        return client.last

    def show(self, download_id: str) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.server.url}/v1/downloads/{download_id}", timeout=5).json()
        return found

    def listed_workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = requests.get(f"{self.server.url}/v1/workers", timeout=5).json()["data"]
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


@pytest.fixture
def env(redis_url: str, tmp_path: Path, hub: HubServer) -> dict[str, str]:
    return environment(redis_url, tmp_path, HF_ENDPOINT=hub.endpoint, HIVE_DRAIN_S="0.2", HF_TOKEN="")


@pytest.fixture
def service(env: dict[str, str], redis_url: str) -> Iterator[Service]:
    made = Service(env)
    try:
        yield made
    finally:
        made.stop()


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def secrets_in(store: RedisClient, secret: str) -> list[bytes]:
    """The keys whose values hold this text in clear."""
    return [key for key in store.keys("*") if secret.encode() in (store.dump(key) or b"")]


def now() -> float:
    return time.monotonic()
