"""`hive up 2>pipe` and nobody reads: everything goes on, and ends when it is asked to."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from hive.processes.children import bound_to_us
from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.child import Child
from tests.support.content import MIB
from tests.support.ports import free_port
from tests.support.waiting import wait_for

#: Seconds within which it must end; hive's own grace is 5 and a little.
END_S = 15.0


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The end to write to of a pipe into which nothing goes any more."""
    read_end, write_end = os.pipe()
    flags = fcntl.fcntl(write_end, fcntl.F_GETFL)
    fcntl.fcntl(write_end, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    for size in (4096, 1):
        while True:
            try:
                os.write(write_end, b"x" * size)
            except BlockingIOError:
                break
    fcntl.fcntl(write_end, fcntl.F_SETFL, flags)
    yield write_end
    os.close(read_end)
    os.close(write_end)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["json", "console"])
def test_a_log_that_nobody_reads_stops_nothing(full_pipe: int, hub: HubServer, tmp_path: Path, style: str) -> None:
    hub.create("org/model", {"m-Q4_K_M.gguf": SyntheticFile(2 * MIB, seed=7)})
    port = free_port()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HIVE_HOME": str(tmp_path / "home"),
        "HIVE_STORE": str(tmp_path / "store"),
        "HIVE_LOG_LEVEL": "debug",
        "HIVE_LOG_FORMAT": style,
        "HF_ENDPOINT": hub.endpoint,
    }
    command = [sys.executable, "-m", "hive.cli", "up", "--port", str(port), "--workers", "2"]
    url = f"http://127.0.0.1:{port}"
    with Child(bound_to_us(command), env=env, stdout=subprocess.DEVNULL, stderr=full_pipe) as process:
        try:
            wait_for(lambda: is_ready(url), "the server is ready")
            body = {"model_ref": "hf:org/model"}
            download_id = requests.post(f"{url}/v1/models/download", json=body, timeout=60).json()["download_id"]

            def is_complete() -> bool:
                found = requests.get(f"{url}/v1/downloads/{download_id}", timeout=60).json()
                return bool(found["status"] == "complete")

            wait_for(is_complete, "the download is complete")
            assert requests.get(f"{url}/v1/health", timeout=60).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(END_S) == 0
        finally:
            process.kill()


def is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=60).status_code == 200
    except requests.ConnectionError:
        return False
