"""The whole service as processes: a Hub's stand-in, Redis, servers, workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.settings import Settings
from tests.hub.server import HubServer
from tests.support.processes import environment
from tests.support.service import Service


@pytest.fixture
def env(redis_url: str, tmp_path: Path, hub: HubServer) -> dict[str, str]:
    return environment(redis_url, tmp_path, HF_ENDPOINT=hub.endpoint, HIVE_DRAIN_S="0.2", HF_TOKEN="")


@pytest.fixture
def service(env: dict[str, str], redis_url: str) -> Iterator[Service]:
    made = Service(env)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def settings(env: dict[str, str]) -> Settings:
    """The settings of that environment."""
    return Settings.from_env(env)
