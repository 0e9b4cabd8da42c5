"""The fleet's limit, measured where the bytes leave: at the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.service import Service
from tests.support.waiting import DEADLINE_S, wait_for

MB = 1_000_000
WORKERS = 4
#: So low that a machine which has other work as well can do it.
LIMIT_BYTES_PER_S = 12 * MB
WINDOW_S = 10.0
#: Bytes that must have left before the measurement: the server's buffers, some megabytes a connection, are filled at
#: once.
RUN_UP_BYTES = 120 * MB
#: How far above the limit is still the limit, and what a machine that is busy must reach of it at least: how near to it
#: a quiet one comes is `scripts/bench bandwidth`.
TOLERANCE = 0.05
LEAST_USED = 0.7
CONTENTS = [SyntheticFile(100 * MB, seed=60 + number) for number in range(WORKERS)]


@pytest.fixture
def four_workers(env: dict[str, str]) -> Iterator[Service]:
    made = Service(env, WORKERS)
    try:
        yield made
    finally:
        made.stop()


def bandwidth(service: Service, **put: Any) -> requests.Response:
    url = f"{service.server.url}/v1/settings/bandwidth"
    return requests.put(url, json=put, timeout=60) if put else requests.get(url, timeout=60)


def bytes_left(hub: HubServer) -> int:
    """Bytes that the server has sent so far, without waiting for those under way."""
    return sum(hit.bytes_sent for hit in hub.log if hit.origin == "cdn")


def rate_over(hub: HubServer, window_s: float) -> float:
    """Bytes per second that leave the server."""
    began, before = time.monotonic(), bytes_left(hub)
    wait_for(lambda: time.monotonic() - began >= window_s, deadline_s=window_s + DEADLINE_S)
    return (bytes_left(hub) - before) / (time.monotonic() - began)


@pytest.mark.slow
def test_four_workers_keep_to_the_limit_use_it_and_follow_a_change(four_workers: Service, hub: HubServer) -> None:
    assert bandwidth(four_workers).json() == {"bytes_per_second": None}
    assert bandwidth(four_workers, bytes_per_second=LIMIT_BYTES_PER_S).status_code == 200
    assert bandwidth(four_workers).json() == {"bytes_per_second": LIMIT_BYTES_PER_S}
    for number, content in enumerate(CONTENTS):
        hub.create(f"org/m{number}", {"model.safetensors": content})
    ids = [four_workers.post(f"hf:org/m{number}")["download_id"] for number in range(WORKERS)]
    wait_for(lambda: bytes_left(hub) > RUN_UP_BYTES)

    rate = rate_over(hub, WINDOW_S)
    each = [four_workers.show(download_id)["progress"]["bytes_downloaded"] for download_id in ids]

    print(f"{rate / MB:.2f} MB/s at a limit of {LIMIT_BYTES_PER_S / MB:.0f} MB/s, shares {[n // MB for n in each]} MB")
    assert LEAST_USED * LIMIT_BYTES_PER_S < rate < (1 + TOLERANCE) * LIMIT_BYTES_PER_S
    assert min(each) > 0.5 * max(each), "the line is shared"

    assert bandwidth(four_workers, bytes_per_second=None).json() == {"bytes_per_second": None}
    wait_for(lambda: bytes_left(hub) >= sum(content.size for content in CONTENTS), deadline_s=DEADLINE_S)
    for download_id in ids:
        assert four_workers.watch(download_id).wait(30).last["stage"] == "complete"


def test_one_download_keeps_to_a_limit_of_its_own(service: Service, hub: HubServer) -> None:
    content = SyntheticFile(24 * MB, seed=70)
    hub.create("org/own", {"model.safetensors": content})
    began = time.monotonic()
    end = service.bring("hf:org/own", max_bytes_per_second=8 * MB)
    took_s = time.monotonic() - began
    assert end["stage"] == "complete"
    assert took_s >= content.size / (8 * MB) * (1 - TOLERANCE)
    assert took_s < 30, "a limit is no standstill"


@pytest.mark.parametrize("value", [0, -1, 65_535, 1.5, "fast", 2**60])
def test_a_limit_that_is_none_is_refused(service: Service, value: Any) -> None:
    assert bandwidth(service, bytes_per_second=value).status_code == 400
    url = f"{service.server.url}/v1/models/download"
    body = {"model_ref": "hf:org/own", "max_bytes_per_second": value}
    assert requests.post(url, json=body, timeout=60).status_code == 400
