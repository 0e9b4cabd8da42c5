"""`hive serve --processes N`: several processes on one port, as one server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hive.downloads.context import DownloadContext
from tests.support.downloads import claim, complete, create
from tests.support.processes import ManyProcesses, children, environment, is_alive
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for


def test_all_processes_serve_and_a_dead_one_is_replaced(
    redis_url: str, downloads: DownloadContext, tmp_path: Path
) -> None:
    server = ManyProcesses(environment(redis_url, tmp_path, HIVE_DRAIN_S="0.2"))
    try:
        download_id = create(downloads)
        held = claim(downloads, download_id)
        clients = [SseClient(f"{server.url}/v1/models/download/progress?id={download_id}") for _ in range(40)]
        wait_for(lambda: all(client.events for client in clients))
        victim = children(server.pid)[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len([pid for pid in children(server.pid) if is_alive(pid)]) == 2 and not is_alive(victim))
        wait_for(server.ready)
        downloads.claims.finish(held, 2, "complete", complete(), "/x")
        for client in clients:
            client.wait(10)
        cut = [client for client in clients if client.done == 0]
        assert len(cut) < len(clients), "the other process went on"
        again = SseClient(f"{server.url}/v1/models/download/progress?id={download_id}").wait(10)
        assert again.done == 1
    finally:
        family = children(server.pid)
        assert server.stop() == 0
    wait_for(lambda: not [pid for pid in family if is_alive(pid)])
    assert "Traceback" not in server.output
