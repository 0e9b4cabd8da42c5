"""One engine: watched while it loads, told of when it dies, ended with its supervisor whatever happens to that."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pytest

from hive.redis.client import connect
from hive.serving.orders import SpawnOrder
from hive.serving.record import LlmRecord
from hive.serving.registry import LlmRegistry
from tests.support.engine_standin import write_standin
from tests.support.gguf_models import Shape, read_from_disk, write_random, write_reciting
from tests.support.llm import StartWorker, events_of
from tests.support.processes import environment, is_alive
from tests.support.waiting import AT_ONCE_S, DEADLINE_S, wait_for


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of seven layers, for engines that read nothing of it."""
    return write_random(tmp_path / "m.gguf", Shape(64, 6))


def test_loading_is_told_in_layers_and_ends_with_ready(start_worker: StartWorker, model: Path, tmp_path: Path) -> None:
    standin = write_standin(tmp_path / "engine", states=[0.0, 0.3, 0.6, 1.0], state_pause_s=0.3)
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin)})
    events = worker.loading()
    assert [event["stage"] for event in events][-1] == "ready"
    layers = [event["layers_loaded"] for event in events if event["stage"] == "loading_to_vram"]
    assert layers == [n for n in (0, 2, 4, 7) if n in layers]
    assert layers[-1] == 7
    assert {event["layers_total"] for event in events if "layers_total" in event} == {7}


def test_who_comes_late_is_told_the_end_at_once(start_worker: StartWorker, model: Path, tmp_path: Path) -> None:
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(write_standin(tmp_path / "engine"))})
    worker.wait_until_ready()
    assert worker.loading() == [{"stage": "ready"}]


def test_states_that_nobody_knows_are_signs_of_life_and_no_more(
    start_worker: StartWorker, model: Path, tmp_path: Path
) -> None:
    prefix = "cmd_child_to_router:state:"
    strange = [
        f"{prefix}{{",
        f'{prefix}{{"state":"dancing"}}',
        f"{prefix}[1]",
        f'{prefix}{{"state":"loading"}}',
        f'{prefix}{{"state":"loading","payload":{{"stages":"x","current":"y","value":1}}}}',
        f'{prefix}{{"state":"loading","payload":{{"current":"text_model","value":1{"0" * 400}}}}}',
        f"{prefix}{'[' * 20_000}",
        "hello",
    ]
    standin = write_standin(tmp_path / "engine", states=[0.5, *strange, 1.0])
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin)})
    assert worker.loading()[-1] == {"stage": "ready"}


def test_an_engine_that_says_no_states_is_ready_when_its_health_says_so(
    start_worker: StartWorker, model: Path, tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine", states=[], says_ready=False)
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin)})
    assert worker.loading()[-1] == {"stage": "ready"}


def test_an_engine_that_dies_while_loading_is_told_with_its_last_lines(
    start_worker: StartWorker, model: Path, tmp_path: Path, redis_url: str
) -> None:
    standin = write_standin(
        tmp_path / "engine",
        states=[0.0, 0.5],
        dies_with=3,
        stderr=["first words", "0.00.080.790 E load: error: the cause"],
    )
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin)})
    last = worker.loading()[-1]
    assert (last["stage"], last["code"]) == ("error", "ENGINE_FAILED")
    assert last["message"].startswith("The engine ended with code 3. It said: load: error: the cause. Its log: ")
    assert [last["details"]["last_lines"][place] for place in (0, -1)] == ["first words", "error: the stand-in dies"]
    with connect(redis_url) as client:
        registry = LlmRegistry(client)
        wait_for(lambda: (found := registry.read(worker.worker_id)) is not None and found.state == "failed")
        assert registry.alive() == []
    assert worker.wait() == 1


def test_an_engine_that_is_killed_while_loading_is_told_within_a_second(
    start_worker: StartWorker, model: Path, tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine", states=[0.0, 0.5], hangs=True)
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin)})
    (pid,) = wait_for(worker.engine_pids)
    wait_for(lambda: '"layers_loaded":3' in first_bytes(worker.url))
    os.kill(pid, signal.SIGKILL)
    began_s = time.monotonic()
    last = worker.loading()[-1]
    assert time.monotonic() - began_s < AT_ONCE_S
    assert last["code"] == "ENGINE_FAILED"
    assert "SIGKILL" in last["message"]


def first_bytes(url: str) -> str:
    """The present state, as a stream has it that is left at once."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /v1/loading/progress HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = b""
        while b"data: " not in data:
            data += connection.recv(4096)
        return data.decode()


def test_an_engine_that_gets_stuck_is_a_timeout_that_names_the_layer(
    start_worker: StartWorker, model: Path, tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine", states=[0.0, 0.9], hangs=True)
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin), "HIVE_LLM_STALL_S": "1.5"})
    last = worker.loading()[-1]
    assert last["code"] == "LOADING_TIMEOUT"
    assert "stuck at 6/7 layers" in last["message"]
    assert str(tmp_path) in last["message"], "it says where the log is"


def test_loading_takes_so_long_in_all_and_no_longer(start_worker: StartWorker, model: Path, tmp_path: Path) -> None:
    states = [n / 200 for n in range(200)]
    standin = write_standin(tmp_path / "engine", states=states, state_pause_s=0.2)
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin), "HIVE_LLM_LOADING_TIMEOUT_S": "2"})
    assert worker.loading()[-1]["code"] == "LOADING_TIMEOUT"


@pytest.mark.parametrize("loads", [True, False], ids=["while it loads", "when it has loaded"])
def test_an_engine_ends_with_its_supervisor_also_when_that_is_killed(
    start_worker: StartWorker, model: Path, tmp_path: Path, loads: bool
) -> None:
    standin = write_standin(tmp_path / "engine", hangs=loads)
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin)})
    (pid,) = wait_for(worker.engine_pids)
    if not loads:
        worker.wait_until_ready()
    worker.signal(signal.SIGKILL)
    wait_for(lambda: not is_alive(pid), "the engine is gone")


def test_a_real_engine_ends_with_its_supervisor_also_when_that_is_killed(
    start_worker: StartWorker, reciting: Path
) -> None:
    worker = start_worker(reciting)
    worker.wait_until_ready()
    (pid,) = worker.engine_pids()
    worker.signal(signal.SIGKILL)
    wait_for(lambda: not is_alive(pid), "the engine is gone")


def test_what_a_killed_supervisor_leaves_behind_is_removed_by_the_next(
    start_worker: StartWorker, model: Path, tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine")
    settings = {"HIVE_LLAMA_SERVER": str(standin), "TMPDIR": tempfile.mkdtemp(prefix="t")}
    first = start_worker(model, settings)
    first.wait_until_ready()
    (left,) = Path(settings["TMPDIR"]).iterdir()
    first.signal(signal.SIGKILL)
    first.wait()
    second = start_worker(model, settings)
    second.wait_until_ready()
    assert not left.exists()
    assert second.stop() == 0
    assert list(Path(settings["TMPDIR"]).iterdir()) == []


def test_an_engine_that_does_not_want_to_end_is_killed(start_worker: StartWorker, model: Path, tmp_path: Path) -> None:
    standin = write_standin(tmp_path / "engine", ignores_end=True)
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin)})
    worker.wait_until_ready()
    (pid,) = worker.engine_pids()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert not is_alive(pid)


def test_an_engine_that_dies_later_ends_the_worker_and_what_it_answers(
    start_worker: StartWorker, model: Path, tmp_path: Path, redis_url: str
) -> None:
    standin = write_standin(tmp_path / "engine", dies_after_tokens=3, tokens_per_s=50)
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin)})
    worker.wait_until_ready()
    events = worker.infer(max_tokens=50)
    assert events[-1]["type"] == "error"
    assert events[-1]["code"] == "INFERENCE_FAILED"
    assert [event["t"] for event in events if event["type"] == "token"] == ["w0 ", "w1 ", "w2 "]
    assert worker.wait() == 1
    with connect(redis_url) as client:
        assert LlmRegistry(client).alive() == []


def test_an_engine_that_is_not_well_three_times_is_given_up(
    start_worker: StartWorker, model: Path, tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine", healthy=False)
    settings = {"HIVE_LLAMA_SERVER": str(standin), "HIVE_LLM_HEALTH_INTERVAL_S": "0.1"}
    worker = start_worker(model, settings)
    assert worker.wait() == 1
    assert worker.output.count("the engine is not well") == 3


def test_a_worker_that_nobody_asks_gives_its_memory_back(start_worker: StartWorker, reciting: Path) -> None:
    worker = start_worker(reciting, idle_s=1.0)
    worker.wait_until_ready()
    assert worker.wait() == 0
    assert worker.logged("idle for too long; the memory goes back")


def test_a_taken_port_leads_to_the_next(start_worker: StartWorker, reciting: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = start_worker(reciting, {"HIVE_LLM_PORTS": f"{port}-{min(port + 20, 65_535)}"})
        assert int(worker.url.rpartition(":")[2]) > port


def test_a_range_of_ports_that_is_full_is_an_error_that_says_so(reciting: Path, redis_url: str, tmp_path: Path) -> None:
    order = SpawnOrder(worker_id="worker-full", model_ref="hf:org/model", path=str(reciting))
    with socket.create_server(("127.0.0.1", 0)) as taken, connect(redis_url) as client:
        registry = LlmRegistry(client)
        registry.create(LlmRecord(id=order.worker_id, lease_ms=60_000))
        env = environment(redis_url, tmp_path, HIVE_LLM_PORTS=str(taken.getsockname()[1]))
        command = [sys.executable, "-m", "workers.inference", msgspec.json.encode(order).decode()]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 1
        assert "HIVE_LLM_PORTS is taken" in done.stderr
        (state,) = registry.read_states([order.worker_id])
    assert state is not None
    assert state.message.terminal
    assert b"NO_PORT_FREE" in state.message.data


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not begin with 'GGUF'"),
        (b"PK\x03\x04 a zip", "does not begin with 'GGUF'"),
        (b"GGUF\x03\x00\x00\x00", "no whole GGUF file"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 64, "no whole GGUF file"),
        (b"GGUF\x09\x00\x00\x00" + bytes(64), "version 9"),
    ],
    ids=["empty", "a zip", "cut", "wild lengths", "a version"],
)
def test_what_is_no_model_is_told_before_an_engine_starts(
    start_worker: StartWorker, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    last = start_worker(tmp_path / "bad.gguf").loading()[-1]
    assert last["code"] == "MODEL_NOT_SERVABLE"
    assert said in last["message"]


def test_a_model_whose_weights_are_cut_is_told_by_the_engine(start_worker: StartWorker, tmp_path: Path) -> None:
    model = write_reciting(tmp_path / "cut.gguf", (b"a", b"b"))
    with model.open("r+b") as file:
        file.truncate(model.stat().st_size // 2)
    last = start_worker(model).loading()[-1]
    assert last["code"] == "ENGINE_FAILED"
    assert last["details"]["last_lines"]


def test_a_model_without_a_file_and_one_that_is_a_folder_are_told(start_worker: StartWorker, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.gguf", tmp_path):
        assert start_worker(path).loading()[-1]["code"] == "MODEL_NOT_SERVABLE"


def test_a_model_that_does_not_fit_is_refused_with_the_figures(start_worker: StartWorker, reciting: Path) -> None:
    worker = start_worker(reciting, {"HIVE_LLM_KEEP_FREE_BYTES": str(1 << 50)})
    last = worker.loading()[-1]
    assert last["code"] == "INSUFFICIENT_RAM"
    assert last["details"]["required"] > 1 << 50 > last["details"]["available"] > 0


def test_a_machine_without_the_engine_that_is_named_says_so(start_worker: StartWorker, reciting: Path) -> None:
    worker = start_worker(reciting, {"HIVE_LLAMA_SERVER": "/nonexistent/llama-server"})
    last = worker.loading()[-1]
    assert last["code"] == "BACKEND_UNAVAILABLE"
    assert "/nonexistent/llama-server" in last["message"]


@pytest.mark.slow
def test_the_loading_of_a_large_model_shows_its_steps(start_worker: StartWorker, tmp_path: Path) -> None:
    """Real weights, read by the real engine: over 700 MB that are random, which take it a second and more."""
    model = write_random(tmp_path / "large.gguf", Shape(1024, 64, heads=16, inner=1024, context=512))
    assert model.stat().st_size > 600 << 20
    read_from_disk(model)
    try:
        events = start_worker(model, context=256).loading()
    finally:
        model.unlink()
    layers = [event["layers_loaded"] for event in events if event["stage"] == "loading_to_vram"]
    assert len(layers) >= 4
    assert layers == sorted(layers)
    assert events[-1] == {"stage": "ready"}


def test_two_who_watch_are_told_the_same_and_each_the_end_once(
    start_worker: StartWorker, model: Path, tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine", state_pause_s=0.2)
    worker = start_worker(model, {"HIVE_LLAMA_SERVER": str(standin)})
    answers = [worker.get("/v1/loading/progress").content for _ in range(2)]
    assert all(events_of(answer)[-1] == {"stage": "ready"} for answer in answers)
