"""Two URLs that crawl do not hold two workers while others wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import SyntheticFile, faults
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.service import Service
from tests.support.waiting import wait_for

#: Bytes per second of a source that crawls: more than a stall, less than the least.
CRAWL = 40_000


@pytest.fixture
def service(env: dict[str, str], hub: HubServer) -> Iterator[Service]:
    allowed = {"HIVE_ALLOW_HOSTS": hub.endpoint.removeprefix("http://"), "HIVE_LEASE_S": "3"}
    made = Service({**env, **allowed, "HIVE_MIN_RATE_WINDOW_S": "2", "HIVE_MIN_BYTES_PER_SECOND": "100000"}, 2)
    try:
        yield made
    finally:
        made.stop()


def test_urls_that_crawl_go_behind_those_that_wait_and_keep_their_parts(service: Service, hub: HubServer) -> None:
    content = SyntheticFile(3 * MIB, seed=1)
    rule = hub.faults.add(faults.trickle(CRAWL), "/slow*")
    slow = [service.post(hub.plain(f"/slow{n}.bin", content))["download_id"] for n in range(2)]
    wait_for(lambda: all(service.show(one)["progress"]["bytes_downloaded"] > 0 for one in slow))

    quick = service.bring(hub.plain("/quick.bin", content), timeout_s=60)

    assert quick["stage"] == "complete"
    given_back = wait_for(lambda: [one for one in slow if service.show(one)["attempt"] > 1])
    assert service.show(given_back[0])["progress"]["stage"] == "downloading"
    hub.faults.remove(rule)
    hub.close_connections()
    for one in slow:
        end = service.watch(one).wait(60).last
        assert (end["stage"], file_sha256(end["local_path"])) == ("complete", content.sha256())
        assert end.get("bytes_refetched", 0) < MIB
    assert Path(end["local_path"]).exists()
