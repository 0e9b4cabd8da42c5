"""A quota of bytes a day: what an owner has queued stops at it, and nobody else's does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB
from tests.support.keyed import Person, keys_for
from tests.support.service import Service

QUOTA, SIZE, COUNT = 7 * MIB, 2 * MIB, 8


@pytest.fixture
def keys(env: dict[str, str]) -> dict[str, str]:
    return keys_for(env, "alice", "bob")


@pytest.fixture
def service(env: dict[str, str], hub: HubServer, keys: dict[str, str]) -> Iterator[Service]:
    allowed = {"HIVE_ALLOW_HOSTS": hub.endpoint.removeprefix("http://")}
    made = Service({**env, **allowed, "HIVE_MAX_BYTES_PER_KEY_AND_DAY": str(QUOTA)}, 2, keys["ops"])
    try:
        yield made
    finally:
        made.stop()


def test_queued_downloads_of_one_owner_stop_at_the_quota(
    service: Service, keys: dict[str, str], hub: HubServer
) -> None:
    alice, bob = (Person(service.server.url, keys[owner]) for owner in ("alice", "bob"))
    urls = [hub.plain(f"/{n}.bin", SyntheticFile(SIZE, seed=n)) for n in range(COUNT)]
    ends = [alice.end_of(i) for i in [alice.start(url)["download_id"] for url in urls]]
    assert sum(end["status"] == "complete" for end in ends) == QUOTA // SIZE
    refused = [end for end in ends if end["status"] == "failed"]
    assert len(refused) == COUNT - QUOTA // SIZE
    for end in refused:
        assert end["progress"]["code"] == "QUOTA_EXCEEDED"
        assert 0 < end["progress"]["details"]["retry_after_s"] <= 86_400
    assert bob.bring(urls[-1])["status"] == "complete"
    endless = hub.plain("/endless.bin", SyntheticFile(64 * MIB, seed=99), length=False, ranges=False)
    # What comes without a length is seen as it comes, so it takes longer than from one look to the next.
    hub.limit_rate_bytes_per_s = 16 * MIB
    assert alice.bring(endless)["progress"]["code"] == "QUOTA_EXCEEDED"
    answer = alice.post(urls[0], update=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "QUOTA_EXCEEDED"), "and now it is spent"
