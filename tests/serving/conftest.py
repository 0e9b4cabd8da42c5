"""Replicas, and a pool of workers whose machine runs models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import HubServer
from tests.support.gguf_models import write_reciting
from tests.support.llm import PIECES, Fleet
from tests.support.processes import environment


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says one text and ends, as the Hub has it."""
    return write_reciting(tmp_path_factory.mktemp("models") / "m-Q4_K_M.gguf", PIECES)


@pytest.fixture
def env(redis_url: str, tmp_path: Path, hub: HubServer, model_file: Path) -> dict[str, str]:
    hub.create("org/model", {"m-Q4_K_M.gguf": model_file})
    return environment(redis_url, tmp_path, HF_ENDPOINT=hub.endpoint, HIVE_DRAIN_S="0.2", HF_TOKEN="")


@pytest.fixture
def fleet(env: dict[str, str]) -> Iterator[Fleet]:
    """Two replicas, and one machine that runs models."""
    made = Fleet(env, replicas=2)
    try:
        yield made
    finally:
        made.stop()
    made.check()
