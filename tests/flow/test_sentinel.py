"""A primary, two replicas, three Sentinels: the primary dies in mid-download, and nobody loses an end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.hub.server import HubServer
from tests.support.processes import Server, environment
from tests.support.redis_servers import DOWN_AFTER_MS, SentinelFleet
from tests.support.service import Service, check_right_end, slow, under_way
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

#: Seconds from the death of a primary until bytes are told of again, on a machine with other things to do: what the
#: Sentinels take, and what hive adds.
FAILOVER_S = DOWN_AFTER_MS / 1000 + 15.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SentinelFleet]:
    made = SentinelFleet(tmp_path)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def service(fleet: SentinelFleet, tmp_path: Path, hub: HubServer) -> Iterator[Service]:
    """In place of the usual one."""
    env = environment(fleet.url, tmp_path, HF_ENDPOINT=hub.endpoint, HIVE_DRAIN_S="0.2", HF_TOKEN="")
    made = Service(env)
    try:
        yield made
    finally:
        made.stop()


def bytes_told(client: SseClient) -> int:
    return int(client.last["bytes_downloaded"])


@pytest.mark.parametrize("how", ["killed", "asked", "frozen"])
def test_a_failover_in_mid_download_loses_no_end(
    fleet: SentinelFleet, service: Service, hub: HubServer, how: str
) -> None:
    other = Server(service.env)
    try:
        download_id, client = under_way(service, slow(hub))
        watchers = [client, service.watch(download_id)]
        watchers += [SseClient(f"{other.url}/v1/models/download/progress?id={download_id}") for _ in range(2)]
        former = fleet.primary()
        began_s = time.monotonic()
        if how == "killed":
            former.kill()
        elif how == "frozen":
            former.signal(signal.SIGSTOP)
        else:
            fleet.fail_over()
        fleet.wait_for_another(former)
        moved_s = time.monotonic() - began_s
        told = [bytes_told(each) for each in watchers]
        wait_for(lambda: all(bytes_told(each) > before for each, before in zip(watchers, told, strict=True)))
        back_s = time.monotonic() - began_s
        print(f"{how}: another primary after {moved_s:.1f} s, bytes told of again after {back_s:.1f} s")
        hub.limit_rate_bytes_per_s = None
        hub.close_connections()
        attempt = service.show(download_id)["attempt"]
        for each in watchers:
            check_right_end(each, attempts=attempt)
        print(f"  attempt {attempt}, end after {time.monotonic() - began_s:.1f} s")
        assert back_s < FAILOVER_S
        assert requests.get(f"{other.url}/readyz", timeout=30).status_code == 200
        assert service.bring("hf:org/slow")["stage"] == "complete"
    finally:
        other.stop()
    assert "Traceback" not in other.output, other.output
