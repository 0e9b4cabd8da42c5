"""A Hub's stand-in, two replicas of hive with workers on one store, and one whose Hub is away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from tests.hub.server import HubServer
from tests.support.hub_mirror import Mirror


@pytest.fixture(scope="module")
def mirror(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    with connect(redis_server.url) as client:
        client.flushall()  # the servers of the module before had another store
    with HubServer() as hub:
        made = Mirror(tmp_path_factory.mktemp("mirror"), redis_server.url, hub)
        try:
            yield made
        finally:
            made.stop()
