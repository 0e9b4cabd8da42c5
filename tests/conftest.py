"""What tests of several packages need: a real Redis server, and settings that point into a temporary folder."""

from __future__ import annotations

import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from hive.downloads.context import DownloadContext
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import RedisClient, connect
from hive.settings import Settings
from hive.store.root_guard import GUARD
from tests.support import warm
from tests.support.downloads import download_context
from tests.support.processes import none_left_behind
from tests.support.settings import settings_for
from tests.support.waiting import DEADLINE_S

pytest_plugins = ["tests.hub.fixtures"]

# What a shell starts in the background, or nohup, ignores these, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)

#: What takes longest begins first: a file of two minutes that begins last would keep one processor busy, and the other
#: idle.
LONGEST = (
    "serving",
    "flow",
    "fuzz",
    "proxies",
    "soak",
    "upgrade",
    "browser",
    "webhooks",
    "downloads",
    "workers",
    "cli",
)

#: A lease that runs out while a test waits, yet is renewed in time on a busy machine.
LEASE_S = 6.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the packages, and leave the order in each as it is."""
    ranks = {package: rank for rank, package in enumerate(LONGEST)}
    here = Path(__file__).parent
    items.sort(key=lambda item: ranks.get(item.path.relative_to(here).parts[0], len(ranks)))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def no_fork_server_left_behind() -> Iterator[None]:
    yield
    warm.close()


@pytest.fixture(scope="module", autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """The first fixture of a module to begin, and so the last to end."""
    with none_left_behind():
        yield


@pytest.fixture(autouse=True)
def no_store_guarded() -> Iterator[None]:
    """A process keeps to the store that it has begun with; that of a test is another one than that of the next."""
    yield
    GUARD.forget()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """A real server for the whole run, on a socket whose path is short enough."""
    with tempfile.TemporaryDirectory(prefix="hive-") as home, EmbeddedRedis(Path(home)) as server:
        with connect(server.url) as client:
            # A disk that is slow to sync would hold up all that it is asked; what a machine loses is no test's matter.
            client.config_set("appendfsync", "no")
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The address of an empty Redis."""
    with connect(redis_server.url, reply_timeout_s=DEADLINE_S) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisClient]:
    """A client of an empty Redis."""
    with connect(redis_url, reply_timeout_s=DEADLINE_S) as client:
        yield client


@pytest.fixture(params=["fake", "real"])
def redis_client(request: pytest.FixtureRequest) -> Iterator[RedisClient]:
    """A client of an empty Redis: in this process first, which is quick, and on a real server, which is right."""
    if request.param == "fake":
        with fakeredis.FakeRedis() as client:
            yield client
    else:
        with connect(request.getfixturevalue("redis_url")) as client:
            yield client


@pytest.fixture
def downloads(store: RedisClient) -> DownloadContext:
    return download_context(store, ended_ttl_s=3600, max_queued=100, lease_s=LEASE_S)


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    """Settings of a process that works in the temporary folder."""
    return settings_for(tmp_path, REDIS_URL=redis_url)


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may kill or freeze."""
    with EmbeddedRedis(tmp_path_factory.mktemp("o")) as redis:
        yield redis


@pytest.fixture
def own_downloads(own_redis: EmbeddedRedis) -> Iterator[DownloadContext]:
    """A downloads in it, whose leases do not run out while the test takes Redis away."""
    with connect(own_redis.url) as client:
        yield download_context(client, ended_ttl_s=3600, max_queued=100, lease_s=3600)


@pytest.fixture
def canary() -> Iterator[tuple[int, list[Any]]]:
    """A port on all addresses of this machine, and the connections that were made to it."""
    server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    visits: list[Any] = []

    def serve() -> None:
        while True:
            try:
                connection, peer = server.accept()
            except OSError:
                return
            visits.append(peer)
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1], visits
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
