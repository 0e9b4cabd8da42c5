"""The store's filesystem stops answering, as a share does whose server is gone: what needs no disk goes on, who needs
it is told so within bounds, processes start and end all the same, and all is well again when it answers.

The filesystem is a FUSE program that is stopped: calls into it last until it is continued, or their process is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from hive.downloads.service import LOOKUP_THREADS
from hive.downloads.threads import PATIENCE_S
from hive.processes.prefork import KILLED_S, STOP_S
from hive.store.probe import ANSWER_TIMEOUT_S, FRESH_S, START_TIMEOUT_S
from tests.hub.server import HubServer
from tests.support.mounts import mounted, program_of
from tests.support.processes import Server, Workers, stopping
from tests.support.service import check_right_end, slow
from tests.support.sse_client import SseClient
from tests.support.waiting import AT_ONCE_S, wait_for

#: Seconds of a busy machine on top of what is bounded.
BUSY_S = 30.0

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted("exfat", tmp_path / "share") as made:
        yield made


@pytest.fixture
def hive_env(env: dict[str, str], disk: Path) -> dict[str, str]:
    return {**env, "HIVE_STORE": str(disk), "HIVE_KEEP_FREE_PERCENT": "0", "HIVE_LLM_DRAIN_S": "0"}


@contextlib.contextmanager
def silent(disk: Path) -> Iterator[None]:
    """Nothing that is on it answers inside the block."""
    pid = program_of(disk)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def under_way(server: Server, model_ref: str) -> tuple[SseClient, str]:
    """A client of a download of which something has arrived, and its id."""
    answer = requests.post(f"{server.url}/v1/models/download", json={"model_ref": model_ref}, timeout=60)
    download_id = answer.json()["download_id"]
    client = SseClient(f"{server.url}/v1/models/download/progress?id={download_id}")
    wait_for(lambda: client.events and client.last.get("bytes_downloaded", 0) >= 1 << 20)
    return client, download_id


def code_of(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, "" if answer.ok else answer.json()["error"]["code"]


def test_a_server_says_so_and_goes_on_with_what_needs_no_disk(
    hive_env: dict[str, str], hub: HubServer, disk: Path
) -> None:
    with contextlib.ExitStack() as stack:
        server = Server(hive_env)
        stack.enter_context(stopping(server))
        server.wait_until_ready()
        stack.enter_context(stopping(Workers(hive_env)))
        client, _ = under_way(server, slow(hub))
        with silent(disk), ThreadPoolExecutor(LOOKUP_THREADS) as asking:

            def ask(_: int = 0) -> tuple[int, str]:
                body = {"model_ref": "hf:org/other"}
                return code_of(requests.post(f"{server.url}/v1/models/download", json=body, timeout=120))

            began_s = time.monotonic()
            asked = [asking.submit(ask, number) for number in range(LOOKUP_THREADS)]
            wait_for(
                lambda: requests.get(f"{server.url}/readyz", timeout=60).status_code == 503,
                "it says that it is ready",
                FRESH_S + ANSWER_TIMEOUT_S + BUSY_S,
            )
            for path in ("/healthz", "/v1/health", "/v1/downloads", "/v1/workers", "/v1/limits", "/v1/scaling"):
                at_s = time.monotonic()
                assert requests.get(f"{server.url}{path}", timeout=60).status_code in (200, 404)
                assert time.monotonic() - at_s < AT_ONCE_S, path
            assert [each.result() for each in asked] == [(503, "STORE_MISSING")] * LOOKUP_THREADS
            assert PATIENCE_S <= time.monotonic() - began_s < PATIENCE_S + BUSY_S
            # As long as all threads hang, nobody else has to find out.
            at_s = time.monotonic()
            assert ask() == (503, "STORE_MISSING")
            assert time.monotonic() - at_s < AT_ONCE_S
        hub.limit_rate_bytes_per_s = None
        hub.close_connections()
        check_right_end(client, attempts=1)
        server.wait_until_ready()
        assert ask()[0] == 202


def test_processes_start_and_end_all_the_same(hive_env: dict[str, str], hub: HubServer, disk: Path) -> None:
    with contextlib.ExitStack() as stack:
        server, workers = Server(hive_env), Workers(hive_env)
        for process in (server, workers):
            stack.enter_context(stopping(process))
        server.wait_until_ready()
        _, download_id = under_way(server, slow(hub))
        with silent(disk):
            began_s = time.monotonic()
            late = Server(hive_env)
            stack.enter_context(stopping(late))
            stack.enter_context(stopping(late_workers := Workers(hive_env)))
            assert time.monotonic() - began_s < 4 * START_TIMEOUT_S + BUSY_S
            assert requests.get(f"{late.url}/readyz", timeout=60).status_code == 503
            # Held by the disk in the midst of a download and of a request.
            with contextlib.suppress(requests.Timeout):
                requests.get(f"{server.url}/v1/models", timeout=1)
            for process in (server, workers):
                process.signal(signal.SIGTERM)
            # Not until nobody has their output any more: what the disk holds is left behind, until it answers.
            wait_for(lambda: server.ended and workers.ended, "they do not end", STOP_S + KILLED_S + BUSY_S, look_s=0.1)
        hub.limit_rate_bytes_per_s = None
        hub.close_connections()
        late.wait_until_ready()
        end = SseClient(f"{late.url}/v1/models/download/progress?id={download_id}").wait(90)
        assert end.last["stage"] == "complete", end.last
        for process in (server, workers, late, late_workers):
            assert "Traceback" not in process.output, process.output
