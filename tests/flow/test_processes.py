"""`hive serve --processes N`: several processes on one port, as one server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import requests

from hive.downloads.tracker import DownloadTracker
from tests.flow.conftest import alive, children
from tests.support.downloads import claim, complete, create
from tests.support.processes import HiveProcess, environment, wait_for
from tests.support.sse_client import SseClient


class ManyProcesses(HiveProcess):
    """A server of two processes."""

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__("hive.cli", "serve", "--port", "0", "--processes", "2", env=env)
        self.url: str = self.wait_for_log("listening")["address"]
        wait_for(lambda: len(children(self.pid)) == 2)
        wait_for(self.ready)

    def ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False


def test_all_processes_serve_and_a_dead_one_is_replaced(
    redis_url: str, tracker: DownloadTracker, tmp_path: Path
) -> None:
    server = ManyProcesses(environment(redis_url, tmp_path, HIVE_DRAIN_S="0.2"))
    try:
        download_id = create(tracker)
        held = claim(tracker, download_id)
        clients = [SseClient(f"{server.url}/v1/models/download/progress?id={download_id}") for _ in range(40)]
        wait_for(lambda: all(client.events for client in clients))
        victim = children(server.pid)[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len([pid for pid in children(server.pid) if alive(pid)]) == 2 and not alive(victim))
        wait_for(server.ready)
        tracker.finish(held, 2, "complete", complete(), "/x")
        for client in clients:
            client.wait(10)
        cut = [client for client in clients if client.done == 0]
        assert len(cut) < len(clients), "the other process went on"
        again = SseClient(f"{server.url}/v1/models/download/progress?id={download_id}").wait(10)
        assert again.done == 1
    finally:
        family = children(server.pid)
        assert server.stop() == 0
    wait_for(lambda: not [pid for pid in family if alive(pid)])
    assert "Traceback" not in server.output
