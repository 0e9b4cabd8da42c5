"""One server process for the tests of a file; each test gets an empty Redis and an empty store.

Not one for all of the run: its reaper would look after the downloads of other tests, which share its Redis.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.auth.keys import KeyFile
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from hive.settings import Settings
from tests.support.processes import Server, environment
from tests.support.store import empty_store


@pytest.fixture(scope="module")
def server_env(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(redis_server.url, tmp_path_factory.mktemp("api"), HIVE_KEEPALIVE_S="0.5", HIVE_DRAIN_S="0.5")


@pytest.fixture(scope="module")
def server(server_env: dict[str, str]) -> Iterator[Server]:
    with connect(server_env["REDIS_URL"]) as client:
        client.flushall()  # the server of the file before had another store, and may have been the last to say so
    process = Server(server_env)
    try:
        process.wait_until_ready()
        yield process
    finally:
        status = process.stop()
    assert status == 0
    assert "Traceback" not in process.output


@pytest.fixture
def api(server: Server, server_env: dict[str, str], redis_url: str) -> str:
    """The address of the server."""
    empty_store(Path(server_env["HIVE_STORE"]))
    with connect(redis_url) as client:
        client.flushall()  # again: the server may have brought downloads of the test before back from its store
    return server.url


@pytest.fixture
def settings(server_env: dict[str, str]) -> Settings:
    """The settings of that server."""
    return Settings.from_env(server_env)


@pytest.fixture(scope="module")
def keyed_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of servers with keys, which share a Redis of their own. All tests come from one address: what is
    refused there is not counted.
    """
    folder = tmp_path_factory.mktemp("k")
    settings = {"HIVE_DRAIN_S": "0", "HIVE_KEEPALIVE_S": "0.5", "HIVE_MAX_ANONYMOUS_REQUESTS_PER_SECOND": "0"}
    with EmbeddedRedis(folder) as redis:
        yield environment(redis.url, folder, HF_ENDPOINT="http://127.0.0.1:1", **settings)


@pytest.fixture(scope="module")
def key_file(keyed_env: dict[str, str]) -> KeyFile:
    """Their keys."""
    return KeyFile(Path(keyed_env["HIVE_HOME"]) / "keys.json")
