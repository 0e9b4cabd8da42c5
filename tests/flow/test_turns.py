"""Two people with keys: one's crawling downloads hold the workers for the window of the minimum rate, not for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.hub import SyntheticFile, faults
from tests.hub.server import HubServer
from tests.support.content import MIB
from tests.support.keyed import Person, keys_for
from tests.support.service import Service
from tests.support.waiting import wait_for

#: Bytes per second of a source that crawls: more than a stall, less than the least.
CRAWL = 40_000
#: Seconds of the window, and downloads of who crawls.
WINDOW_S, CRAWLING = 4, 12
#: How long whoever comes may wait for a worker (docs/limits.md: the window and 10 s), and what a busy machine adds.
BOUND_S, BUSY_S = WINDOW_S + 10, 15


@pytest.fixture
def keys(env: dict[str, str]) -> dict[str, str]:
    """Made before the service starts: a server without keys serves everybody, as nobody, until it sees the first."""
    return keys_for(env, "alice", "bob")


@pytest.fixture
def service(env: dict[str, str], hub: HubServer, keys: dict[str, str]) -> Iterator[Service]:
    allowed = {"HIVE_ALLOW_HOSTS": hub.endpoint.removeprefix("http://")}
    rates = {"HIVE_MIN_RATE_WINDOW_S": str(WINDOW_S), "HIVE_MIN_BYTES_PER_SECOND": "100000"}
    made = Service({**env, **allowed, **rates}, 2, keys["ops"])
    try:
        yield made
    finally:
        made.stop()


def test_one_model_comes_though_anothers_twelve_crawl(service: Service, keys: dict[str, str], hub: HubServer) -> None:
    alice, bob = (Person(service.server.url, keys[owner]) for owner in ("alice", "bob"))
    content = SyntheticFile(3 * MIB, seed=1)  # one connection or two
    hub.faults.add(faults.trickle(CRAWL), "/slow*")
    slow = [bob.start(hub.plain(f"/slow{n}.bin", content))["download_id"] for n in range(CRAWLING)]
    running = wait_for(lambda: [i for i in slow if bob.show(i)["status"] == "downloading"][1:], "both workers are held")
    assert running
    asked_s = time.monotonic()
    quick = alice.start(hub.plain("/quick.bin", SyntheticFile(MIB, seed=2)))["download_id"]
    assert alice.show(quick).get("ahead", 0) == 0, "she is before all of bob's that wait"
    assert alice.end_of(quick)["status"] == "complete"
    assert time.monotonic() - asked_s < BOUND_S + BUSY_S
    waited = [i for i in slow if bob.show(i)["status"] == "queued" and bob.show(i)["attempt"] == 1]
    assert len(waited) >= CRAWLING - 5, "and bob's others wait still"
