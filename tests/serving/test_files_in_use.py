"""A model in memory is neither deleted nor collected, whoever asks: commands without a server, another hive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.file_use import FileUse, is_in_use
from tests.support.cli import COMMAND_TIMEOUT_S
from tests.support.gc import age
from tests.support.llm import LlmProcess
from tests.support.processes import environment
from tests.support.store import put
from tests.support.waiting import wait_for

REPO = "org/model"
MODEL = f"{REPO}:Q4_K_M"
#: An address at which nobody answers.
NOBODY = "127.0.0.1:1"


@pytest.fixture
def env(redis_url: str, tmp_path: Path) -> dict[str, str]:
    return environment(redis_url, tmp_path)


@pytest.fixture
def store(env: dict[str, str], model_file: Path) -> Settings:
    """A store with two variants, one of which can be loaded."""
    settings = Settings.from_env(env)
    put(settings, REPO, {"m-Q4_K_M.gguf": model_file.read_bytes(), "m-Q8_0.gguf": b"eight"})
    return settings


@pytest.fixture
def worker(env: dict[str, str], store: Settings) -> Iterator[LlmProcess]:
    """A worker that has the first in memory."""
    worker = LlmProcess(env, ModelCatalog(store).get(MODEL).path)
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        worker.stop()


def hive(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """A command that finds no server, whatever else runs on this machine, and has no Redis."""
    own = {name: value for name, value in env.items() if name != "REDIS_URL"}
    own |= {"PATH": os.environ["PATH"], "HIVE_HOST": NOBODY}
    line = [
        sys.executable,
        "-c",
        f"from hive.cli import main, server; server.DEFAULT_ADDRESS = {NOBODY!r}; main()",
        *args,
    ]
    return subprocess.run(line, env=own, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)


def test_rm_without_a_server_leaves_a_model_that_is_in_memory_until_its_worker_has_gone(
    env: dict[str, str], store: Settings, worker: LlmProcess
) -> None:
    refused = hive(env, "rm", "--yes", MODEL)
    assert refused.returncode == 1
    assert "MODEL_IN_USE" in refused.stderr
    assert "hive stop" in refused.stderr
    assert hive(env, "rm", "--yes", f"{REPO}:Q8_0").returncode == 0, "the other variant is nobody's"
    assert [model.id for model in ModelCatalog(store).list()] == [MODEL]
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: hive(env, "rm", "--yes", MODEL).returncode == 0, "the lock ended with its process")
    assert ModelCatalog(store).list() == []


def test_gc_without_a_server_leaves_the_content_of_a_model_that_is_in_memory(
    env: dict[str, str], store: Settings, worker: LlmProcess
) -> None:
    model = ModelCatalog(store).get(MODEL)
    link = Path(model.path)
    blob = link.resolve()
    link.unlink()  # by another tool: nothing refers to the content any more
    age(blob)
    kept = hive(env, "gc", "--older-than", "1h")
    assert kept.returncode == 0, kept.stderr
    assert "It is in use." in kept.stderr
    assert "It is in use." in hive(env, "gc", "--older-than", "1h", "--dry-run").stderr
    assert blob.exists()
    worker.stop()
    age(blob)
    assert hive(env, "gc", "--older-than", "1h").returncode == 0
    assert not blob.exists()


def test_a_file_is_in_use_until_the_last_who_uses_it_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"model")
    one, other = FileUse().hold([path]), FileUse().hold([path])
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert is_in_use(path)
        one.close()
        assert is_in_use(path.name, folder)
        other.close()
        assert not is_in_use(path)
        assert not is_in_use(tmp_path / "missing")
    finally:
        os.close(folder)
