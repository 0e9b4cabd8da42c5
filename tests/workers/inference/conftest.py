"""A real engine with a model that recites, in a worker of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hive.processes.embedded_redis import EmbeddedRedis
from tests.support.gguf_models import write_reciting
from tests.support.llm import PIECES, LlmProcess, StartWorker
from tests.support.processes import environment, stopping


@pytest.fixture(scope="session")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says one text and ends."""
    return write_reciting(tmp_path_factory.mktemp("models") / "reciting.gguf", PIECES)


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that begins again when it is through."""
    return write_reciting(tmp_path_factory.mktemp("models") / "endless.gguf", (b"on", b" and"), endless=True)


@pytest.fixture(scope="module")
def module_worker(
    redis_server: EmbeddedRedis, reciting: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlmProcess]:
    """One worker with two slots, its model loaded, for all tests of a module that only ask."""
    env = environment(redis_server.url, tmp_path_factory.mktemp("worker"))
    with stopping(LlmProcess(env, reciting, slots=2, idle_s=0)) as worker:  # however long the tests between take
        assert isinstance(worker, LlmProcess)
        worker.wait_until_ready()
        yield worker
    assert "Traceback" not in worker.output, worker.output


@pytest.fixture
def start_worker(redis_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    """A function that starts workers; at the end of the test they are ended, and none may have made a mistake."""
    started: list[LlmProcess] = []
    with contextlib.ExitStack() as stack:

        def start(path: Path, settings: Mapping[str, str] | None = None, **order: Any) -> LlmProcess:
            worker = LlmProcess(environment(redis_url, tmp_path, **(settings or {})), path, **order)
            started.append(worker)
            stack.callback(worker.stop)
            return worker

        yield start
    for worker in started:
        assert "Traceback" not in worker.output, worker.output
