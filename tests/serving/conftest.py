"""Replicas, and a pool of workers whose machine runs models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.processes.embedded_redis import EmbeddedRedis
from tests.hub import HubServer
from tests.support.engine_standin import write_standin
from tests.support.gguf_models import write_reciting
from tests.support.llm import PIECES, Fleet
from tests.support.processes import environment


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says one text and ends, as the Hub has it."""
    return write_reciting(tmp_path_factory.mktemp("models") / "m-Q4_K_M.gguf", PIECES)


@pytest.fixture(scope="module")
def hub(model_file: Path) -> Iterator[HubServer]:
    """A Hub with that model, for the tests of a module."""
    with HubServer() as made:
        made.create("org/model", {"m-Q4_K_M.gguf": model_file})
        yield made


def _environment(redis_url: str, folder: Path, hub: HubServer, **settings: str) -> dict[str, str]:
    settings = {"HF_ENDPOINT": hub.endpoint, "HIVE_DRAIN_S": "0.2", "HF_TOKEN": "", **settings}
    return environment(redis_url, folder, **settings)


@pytest.fixture
def env(redis_url: str, tmp_path: Path, hub: HubServer) -> dict[str, str]:
    return _environment(redis_url, tmp_path, hub)


@pytest.fixture
def own_fleet(env: dict[str, str]) -> Iterator[Fleet]:
    """Two replicas, and one machine that runs models, for a test that ends some of it."""
    with _running(env) as made:
        yield made


@contextlib.contextmanager
def _running(env: dict[str, str]) -> Iterator[Fleet]:
    made = Fleet(env, replicas=2)
    try:
        yield made
    finally:
        made.stop()
    made.check()


@pytest.fixture(scope="module")
def module_fleet(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Iterator[Fleet]:
    """The same with a Redis of its own for all other tests of a module: starting it takes longer than most of them."""
    with (
        EmbeddedRedis(tmp_path_factory.mktemp("r")) as redis,
        _running(_environment(redis.url, tmp_path_factory.mktemp("fleet"), hub)) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def slow_module_fleet(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Iterator[Fleet]:
    """The same over an engine that makes 20 tokens a second, and goes on for as long as it may."""
    folder = tmp_path_factory.mktemp("fleet")
    standin = write_standin(folder / "engine", tokens_per_s=20, tokens=10_000)
    with (
        EmbeddedRedis(tmp_path_factory.mktemp("r")) as redis,
        _running(_environment(redis.url, folder, hub, HIVE_LLAMA_SERVER=str(standin))) as made,
    ):
        yield made


@pytest.fixture
def fleet(module_fleet: Fleet) -> Iterator[Fleet]:
    """That of the module; no worker runs when a test begins."""
    yield module_fleet
    module_fleet.end_workers()


@pytest.fixture
def slow_fleet(slow_module_fleet: Fleet) -> Iterator[Fleet]:
    """The slow one of the module; no worker runs when a test begins."""
    yield slow_module_fleet
    slow_module_fleet.end_workers()
