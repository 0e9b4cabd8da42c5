"""A receiver, and servers that send to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis_client import RedisClient
from hive.settings import Settings
from hive.wire import keys
from tests.support.processes import Server, environment
from tests.support.waiting import wait_for
from tests.support.webhook_receiver import SECRET, Receiver, receiving

#: Starts a replica with these settings.
Serve = Callable[..., Server]

#: Settings of a server that is quick to try again, and has a time-out that a busy machine keeps.
QUICK = {"HIVE_WEBHOOK_SECRET": SECRET, "HIVE_WEBHOOK_RETRY_S": "0.1,0.1,0.1,0.1,0.1", "HIVE_WEBHOOK_TIMEOUT_S": "2"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may kill."""
    with EmbeddedRedis(tmp_path_factory.mktemp("o")) as redis:
        yield redis


@pytest.fixture
def webhook_settings(tmp_path: Path, redis_url: str, receiver: Receiver) -> Settings:
    """Settings under which every end goes to the receiver."""
    return Settings.from_env(
        {
            "REDIS_URL": redis_url,
            "HIVE_STORE": str(tmp_path / "store"),
            "HIVE_HOME": str(tmp_path / "home"),
            "HIVE_WEBHOOK_URLS": receiver.url,
            **QUICK,
        }
    )


@pytest.fixture
def serve(redis_url: str, tmp_path: Path) -> Iterator[Serve]:
    """Gives replicas of one Redis; all must end in order, unless the test has ended them."""
    servers: list[Server] = []
    with contextlib.ExitStack() as stack:

        def start(url: str = redis_url, **settings: str) -> Server:
            server = Server(environment(url, tmp_path, HIVE_DRAIN_S="0", **{**QUICK, **settings}))
            servers.append(server)
            stack.callback(server.stop)
            wait_for(lambda: requests.get(f"{server.url}/readyz", timeout=5).status_code == 200)
            return server

        yield start
    for server in servers:
        assert "Traceback" not in server.output, server.output


@pytest.fixture
def everywhere(serve: Serve, receiver: Receiver, store: RedisClient) -> Server:
    """A server whose settings send every end to the receiver."""
    server = serve(HIVE_WEBHOOK_URLS=receiver.url)
    wait_for(lambda: store.zcard(keys.WEBHOOKS_STANDING), what="the server has said where ends go")
    return server
