"""`hive serve --processes N`: several processes on one port, as one server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from hive.downloads.context import DownloadContext
from hive.processes import pulse
from tests.support.downloads import claim, complete, create
from tests.support.processes import ManyProcesses, children, environment, is_alive
from tests.support.service import Service
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for


def connections(pid: int, url: str) -> int:
    """How many clients of this address a process has."""
    local = f":{int(url.rpartition(':')[2]):04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1].endswith(local) and row[3] == "01"}
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(descriptor).removeprefix("socket:[").rstrip("]") in inodes
    return found


def test_all_processes_serve_and_a_dead_one_is_replaced(
    redis_url: str, downloads: DownloadContext, tmp_path: Path
) -> None:
    server = ManyProcesses(environment(redis_url, tmp_path, HIVE_DRAIN_S="0.2"))
    try:
        download_id = create(downloads)
        held = claim(downloads, download_id)
        clients: list[SseClient] = []
        # Whichever process looks first takes a client: it may be one and the same for a while.
        while len(clients) < 10 or not all(connections(pid, server.url) for pid in children(server.pid)):
            clients.append(SseClient(f"{server.url}/v1/models/download/progress?id={download_id}"))
            wait_for(lambda: clients[-1].events)
        victim = children(server.pid)[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len([pid for pid in children(server.pid) if is_alive(pid)]) == 2 and not is_alive(victim))
        wait_for(server.ready)
        downloads.claims.finish(held, 2, "complete", complete(), "/x")
        for client in clients:
            client.wait()
        cut = [client for client in clients if client.done == 0]
        assert 0 < len(cut) < len(clients), "the other process went on"
        again = SseClient(f"{server.url}/v1/models/download/progress?id={download_id}").wait()
        assert again.done == 1
    finally:
        family = children(server.pid)
        assert server.stop() == 0
    wait_for(lambda: not [pid for pid in family if is_alive(pid)])
    assert "Traceback" not in server.output


def test_a_supervisor_is_told_whether_the_workers_are_well(service: Service, env: dict[str, str]) -> None:
    def alive() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hive.cli", "worker", "--alive"]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    assert (alive().returncode, alive().stdout) == (0, "2 workers\n")
    victim = service.listed_workers()[0]["pid"]
    os.kill(victim, signal.SIGSTOP)
    for path in Path(env["HIVE_HOME"], pulse.FOLDER).glob(f"*.{victim}"):
        os.utime(path, (0, 0))
    hanging = alive()
    os.kill(victim, signal.SIGCONT)
    assert hanging.returncode == 1
    assert f"pid {victim}" in hanging.stderr
    wait_for(lambda: alive().returncode == 0)
    service.workers.stop()
    assert alive().returncode == 1
