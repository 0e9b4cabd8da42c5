"""`hive up` as a person runs it: stopped and killed in the middle, it goes on when it runs again."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.processes import HiveProcess, children, is_alive
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

CONTENT = SyntheticFile(40 * MIB, seed=21)


class Up(HiveProcess):
    """`hive up --port 0`, and its address."""

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__("hive.cli", "up", "--port", "0", env=env)
        with self.killed_unless_ready():
            self.url = wait_for(lambda: re.search(r"ready at (http://127\.0\.0\.1:\d+)", self.output))[1]

    def family(self) -> list[int]:
        """All processes below it."""
        found, todo = [], [self.pid]
        while todo:
            todo += (below := children(todo.pop()))
            found += below
        return found

    def watch(self, download_id: str) -> SseClient:
        return SseClient(f"{self.url}/v1/models/download/progress?id={download_id}")


@pytest.fixture
def home_env(hub: HubServer, tmp_path: Path) -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="hive-") as home:
        yield {
            "HIVE_HOME": home,
            "HIVE_STORE": str(tmp_path / "store"),
            "HF_ENDPOINT": hub.endpoint,
            "HIVE_DRAIN_S": "0.2",
            "NO_COLOR": "1",
        }


def start_slow_download(up: Up, hub: HubServer) -> str:
    hub.create("org/slow", {"m-Q4_K_M.gguf": CONTENT})
    hub.limit_rate_bytes_per_s = 0.3 * MIB
    answer = requests.post(f"{up.url}/v1/models/download", json={"model_ref": "hf:org/slow"}, timeout=60)
    download_id: str = answer.json()["download_id"]
    client = up.watch(download_id)
    wait_for(lambda: client.events and client.last["bytes_downloaded"] > 3 * MIB)
    client.close()
    return download_id


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_download_goes_on_when_it_runs_again(home_env: dict[str, str], hub: HubServer, sig: signal.Signals) -> None:
    up = Up(home_env)
    download_id = start_slow_download(up, hub)
    family = up.family()
    assert len(family) >= 5, "Redis, the server, the pool, a worker, its horse"
    os.kill(up.pid, sig)
    code = up.wait()
    up.stop()
    assert code in ((0, 130) if sig != signal.SIGKILL else (-signal.SIGKILL,))
    wait_for(lambda: not [pid for pid in family if is_alive(pid)], what="the end of all processes")
    before = hub.bytes_sent("*.gguf", origin="cdn")
    hub.limit_rate_bytes_per_s = None
    again = Up(home_env)
    try:
        client = again.watch(download_id).wait(40)
    finally:
        assert again.stop() == 0
    assert client.last["stage"] == "complete", client.last
    assert client.last["attempt"] == 2
    assert file_sha256(client.last["local_path"]) == CONTENT.sha256()
    assert hub.bytes_sent("*.gguf", origin="cdn") < CONTENT.size + 16 * MIB
    assert before > 3 * MIB
    assert "Traceback" not in up.output + again.output


def test_a_second_one_on_the_same_home_says_that_one_is_running(home_env: dict[str, str]) -> None:
    first = Up(home_env)
    try:
        second = HiveProcess("hive.cli", "up", "--port", "0", env=home_env)
        assert second.wait() == 1
        second.stop()
        assert first.url in second.output
        assert "Traceback" not in second.output
        assert requests.get(f"{first.url}/v1/health", timeout=60).status_code == 200
    finally:
        first.stop()
