"""Machines whose clocks are wrong: two workers, an hour ahead and an hour behind, at one Redis. Leases go by Redis' own
clock, so a worker that dies is replaced as soon as elsewhere, and one that lives is left alone.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import requests

from tests.hub.server import HubServer
from tests.support.processes import HiveProcess, Server, Workers, stopping
from tests.support.service import CONTENT, check_right_end, slow
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

#: What shifts the clock of a program (Debian: libfaketime).
LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
#: Seconds of a lease in this test.
LEASE_S = "3"


def shifted(env: dict[str, str], by: str) -> dict[str, str]:
    if LIBRARY is None:
        assert os.environ.get("CI") != "true", "libfaketime is missing"
        pytest.skip("libfaketime is not installed")
    return {**env, "LD_PRELOAD": str(LIBRARY), "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def test_workers_an_hour_apart_hand_a_download_on(env: dict[str, str], hub: HubServer) -> None:
    env = {**env, "HIVE_LEASE_S": LEASE_S}
    model = slow(hub)
    with contextlib.ExitStack() as stack:
        server = Server(env)
        stack.enter_context(stopping(server))
        pools: list[HiveProcess] = [Workers(shifted(env, by)) for by in ("+3600s", "-3600s")]
        for pool in pools:
            stack.enter_context(stopping(pool))
        server.wait_until_ready()
        download_id = ask(server, model)
        client = SseClient(f"{server.url}/v1/models/download/progress?id={download_id}")
        wait_for(lambda: client.events and client.last.get("bytes_downloaded", 0) >= 2 << 20)
        began = [pool for pool in pools if download_id in pool.output]
        assert len(began) == 1
        end_all_of(began[0])
        wait_for(lambda: client.last["attempt"] == 2, "the other takes over")
        wait_for(lambda: client.last.get("bytes_downloaded", 0) >= 4 << 20)
        hub.limit_rate_bytes_per_s = None
        hub.close_connections()
        check_right_end(client, attempts=2)
        assert hub.bytes_sent(f"*{CONTENT.sha256()}*") < 1.5 * CONTENT.size


def ask(server: Server, model_ref: str) -> str:
    answer = requests.post(f"{server.url}/v1/models/download", json={"model_ref": model_ref}, timeout=60)
    return str(answer.json()["download_id"])


def end_all_of(pool: HiveProcess) -> None:
    """kill -9 of the pool, its workers and their horses."""
    for pid in [pool.pid, *below(pool.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    pool.wait()


def below(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *below(int(child))]
    return found
