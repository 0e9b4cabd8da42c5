"""A Redis of the test's own, and replicas of `hive serve` on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from hive.downloads.tracker import DownloadTracker
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis_client import connect
from tests.support.processes import Server, environment
from tests.support.waiting import wait_for

#: Starts a replica with these settings.
Serve = Callable[..., Server]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that hive serves with."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may kill or freeze."""
    with EmbeddedRedis(tmp_path_factory.mktemp("o")) as redis:
        yield redis


@pytest.fixture
def own_tracker(own_redis: EmbeddedRedis) -> Iterator[DownloadTracker]:
    with connect(own_redis.url) as client:
        yield DownloadTracker(client, ended_ttl_s=3600, max_queued=100, lease_s=3600)


@pytest.fixture
def serve(own_redis: EmbeddedRedis, tmp_path: Path) -> Iterator[Serve]:
    """Gives replicas; all must end in order, unless the test has ended them."""
    with contextlib.ExitStack() as stack:

        def start(**settings: str) -> Server:
            server = Server(environment(own_redis.url, tmp_path, **settings))
            stack.callback(server.stop)
            wait_for(lambda: requests.get(f"{server.url}/readyz", timeout=5).status_code == 200)
            return server

        yield start
