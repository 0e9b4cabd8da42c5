"""Answers that are no streams: vectors, what the engine refuses, what is too long, a model that is still loading."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.api.passing import MAX_WHOLE_BYTES
from hive.downloads.service import DownloadService
from hive.redis.client import CommandThread
from hive.serving import service as service_module
from hive.serving.record import LlmRecord
from hive.serving.service import ServingService
from hive.serving_errors import ModelLoading
from hive.settings import Settings
from hive.wire.encoding import encode_json
from hive.wire.llm import LoadingToVram
from tests.hub import HubServer
from tests.support.engine_standin import write_standin
from tests.support.gguf_models import write_random
from tests.support.llm import Fleet
from tests.support.processes import environment

MODEL = "hf:org/model:Q4_K_M"
VECTORS = "hf:org/vectors"
ASKED = {"model": VECTORS, "input": "?"}


@pytest.fixture
def vectors(hub: HubServer, tmp_path: Path) -> str:
    """A model that makes them."""
    hub.create("org/vectors", {"v-F32.gguf": write_random(tmp_path / "v-F32.gguf", pooling=1)})
    return VECTORS


def test_vectors_come_as_the_engine_has_made_them(env: dict[str, str], tmp_path: Path, vectors: str) -> None:
    fleet = Fleet({**env, "HIVE_LLAMA_SERVER": str(write_standin(tmp_path / "engine"))})
    try:
        fleet.load(vectors)
        assert [worker["model_id"] for worker in fleet.workers()] == ["org/vectors:F32"], "known once it is on disk"
        answer = fleet.post("/v1/embeddings", ASKED)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["data"][0]["embedding"] == [0.5] + [0] * 32
    finally:
        fleet.stop()
    fleet.check()


def test_an_answer_that_is_too_long_is_given_up_with_a_way_out(
    env: dict[str, str], tmp_path: Path, vectors: str
) -> None:
    standin = write_standin(tmp_path / "engine", vector_bytes=2 * MAX_WHOLE_BYTES)
    fleet = Fleet({**env, "HIVE_LLAMA_SERVER": str(standin)})
    try:
        fleet.load(vectors)
        answer = fleet.post("/v1/embeddings", ASKED)
        assert answer.status_code == 502
        error = answer.json()["error"]
        assert (error["code"], error["details"]) == ("INFERENCE_FAILED", {"limit_bytes": MAX_WHOLE_BYTES})
        assert "16 MiB" in error["message"]
        assert fleet.post("/v1/embeddings", ASKED).status_code == 502, "its slot is free again"
    finally:
        fleet.stop()
    fleet.check()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def commands(redis_url: str) -> Iterator[CommandThread]:
    made = CommandThread(redis_url)
    yield made
    made.close()


@pytest.mark.anyio
async def test_whoever_waits_for_a_model_for_too_long_is_told_how_far_it_is(
    redis_url: str, tmp_path: Path, commands: CommandThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "LOAD_WAIT_S", 0.1)
    settings = Settings.from_env(environment(redis_url, tmp_path))
    serving = ServingService(settings, commands, DownloadService.__new__(DownloadService))  # which is not asked here
    event = encode_json(LoadingToVram(layers_loaded=24, layers_total=32, vram_mb=1)).decode()
    record = LlmRecord(id="worker-1", model_ref=MODEL, state="loading", lease_ms=60_000, event=event)
    await commands.run(serving.registry.create, record)

    async def may_use(path: str) -> bool:
        return True

    began_s = time.monotonic()
    with pytest.raises(ModelLoading) as caught:
        await serving.serving("org/model:Q4_K_M", may_use)
    assert time.monotonic() - began_s >= 0.1
    assert (caught.value.code, caught.value.status) == ("MODEL_LOADING", 503)
    details = caught.value.details
    assert (details["worker_id"], details["progress"]) == ("worker-1", 0.75)
    assert 0 <= details["eta_seconds"] <= details["retry_after_s"] <= 60
