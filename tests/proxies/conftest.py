"""Two replicas, and each of the proxies in front of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from hive.settings import Settings
from tests.proxies.guarded import Guarded
from tests.proxies.programs import NAMES, SETTINGS, Proxy, running
from tests.support.downloads import download_context
from tests.support.keyed import keys_for
from tests.support.processes import Server, environment, serving


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """For all tests that end no replica: starting two takes longer than most of these tests."""
    folder = tmp_path_factory.mktemp("guarded")
    with EmbeddedRedis(tmp_path_factory.mktemp("r")) as redis, connect(redis.url) as client:
        env = environment(redis.url, folder)
        keys = keys_for(env)
        with serving(redis.url, folder, **SETTINGS) as start:
            downloads = download_context(client, lease_s=3600)
            replicas = [start(), start()]
            for replica in replicas:
                replica.is_shared = True
            yield Guarded(replicas, downloads, keys["ops"], Settings.from_env(env))


@pytest.fixture(params=NAMES)
def guarded_proxy(request: pytest.FixtureRequest, guarded: Guarded, tmp_path: Path) -> Iterator[Proxy]:
    """Each program with its file of deploy/proxies, in front of those."""
    with running(request.param, tmp_path, guarded.ports) as made:
        yield made


@pytest.fixture
def replicas(own_redis: EmbeddedRedis, tmp_path: Path) -> Iterator[list[Server]]:
    """Two replicas without keys, to be killed."""
    with serving(own_redis.url, tmp_path, **SETTINGS) as start:
        yield [start(), start()]


@pytest.fixture(params=NAMES)
def proxy(request: pytest.FixtureRequest, replicas: list[Server], tmp_path: Path) -> Iterator[Proxy]:
    """Each program with its file of deploy/proxies, in front of those."""
    with running(request.param, tmp_path, [replica.port for replica in replicas]) as made:
        yield made
