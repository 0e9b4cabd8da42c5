"""A small disk that two downloads share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.redis.client import RedisClient
from hive.wire import keys
from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.service import Service
from tests.support.tmpfs import tmpfs
from tests.support.waiting import wait_for

#: Each of two models fits alone, not both.
DISK_MIB, MODEL_MIB = 96, 60


@pytest.fixture
def cramped(env: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    """A service with two workers, whose store is a small filesystem of its own."""
    with tmpfs(tmp_path / "cramped", DISK_MIB) as folder:
        made = Service({**env, "HIVE_STORE": str(folder), "HIVE_KEEP_FREE_PERCENT": "0"})
        try:
            yield made
        finally:
            made.stop()


def test_of_two_that_do_not_fit_together_one_is_refused_before_its_first_byte(
    cramped: Service, hub: HubServer, store: RedisClient
) -> None:
    shards = {f"m-Q8_0-0000{n}-of-00003.gguf": SyntheticFile(MODEL_MIB // 3 * MIB, seed=n) for n in (1, 2, 3)}
    hub.create("org/first", shards)
    hub.create("org/second", {"m-Q8_0.gguf": SyntheticFile(MODEL_MIB * MIB, seed=4)})
    hub.limit_rate_bytes_per_s = 0.2 * MIB
    first = cramped.watch(cramped.post("hf:org/first:Q8_0")["download_id"])
    wait_for(lambda: first.events and first.last.get("bytes_downloaded", 0) >= MIB)
    second = cramped.watch(cramped.post("hf:org/second")["download_id"]).wait(20)
    assert second.last["code"] == "DISK_FULL"
    details = second.last["details"]
    assert details["needed"] == MODEL_MIB * MIB > details["available"]
    assert hub.bytes_sent("org/second/*", origin="cdn") == 0
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    first.wait(60)
    assert first.last["stage"] == "complete"
    folder = Path(first.last["local_path"]).parent
    assert all(file_sha256(str(folder / name)) == content.sha256() for name, content in shards.items())
    wait_for(lambda: store.hlen(keys.RESERVED) == 0)
