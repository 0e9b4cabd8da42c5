"""LLM workers through hive: loaded by any replica, listed, watched, ended; and whoever dies is noticed."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.hub import HubServer
from tests.support.engine_standin import write_standin
from tests.support.gguf_models import write_random
from tests.support.llm import RECITED, TIMEOUT_S, Fleet, LlmProcess, RawStream, events_of, text_of
from tests.support.processes import Server, children, is_alive, stopping
from tests.support.waiting import wait_for

MODEL = "hf:org/model:Q4_K_M"
COUNTED = (
    'hive_llm_workers{state="idle"}',
    'hive_llm_requests_total{outcome="MAX_TOKENS"}',
    'hive_llm_tokens_total{direction="out"}',
    "hive_llm_first_tokens_total",
)


def test_a_model_that_is_not_on_disk_is_downloaded_and_loaded_in_one_stream(fleet: Fleet, hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s, unlimited = 400_000, hub.limit_rate_bytes_per_s
    fleet.delete("/v1/models/org/model:Q4_K_M")  # a test before may have brought it
    try:
        spawned = fleet.spawn(MODEL)
    finally:
        hub.limit_rate_bytes_per_s = unlimited
    assert spawned["state"] == "loading"
    assert spawned["worker_id"].startswith("worker-")
    assert spawned["url"].startswith("http://127.0.0.1:")
    events = fleet.loading(spawned["worker_id"], replica=1)
    stages = list(dict.fromkeys(event["stage"] for event in events))
    assert stages == ["downloading", "loading_to_vram", "ready"]
    assert events[0]["download_id"] == spawned["download_id"]
    ended = fleet.get(f"/v1/downloads/{spawned['download_id']}").json()
    assert ended["status"] == "complete"
    assert text_of(fleet.infer(model=MODEL, max_tokens=100)) == RECITED


def test_a_worker_is_listed_watched_and_ended_by_any_replica(fleet: Fleet) -> None:
    spawned = fleet.load(MODEL)
    for replica in (0, 1):
        # The worker says that a request has ended after its client has read the end.
        wait_for(lambda: {fleet.workers(each)[0]["state"] for each in (0, 1)} == {"idle"}, "its slot is free")
        (listed,) = fleet.workers(replica)
        assert listed["id"] == spawned["worker_id"]
        assert (listed["state"], listed["model_ref"], listed["backend"]) == ("idle", MODEL, "cpu")
        assert (listed["slots_total"], listed["slots_available"], listed["device"]) == (1, 1, 0)
        assert is_alive(listed["pid"])
        assert fleet.loading(spawned["worker_id"], replica) == [{"stage": "ready"}]
        assert text_of(fleet.infer(replica, model=MODEL, max_tokens=100)) == RECITED
    engine = children(listed["pid"])
    assert fleet.delete(f"/v1/workers/{spawned['worker_id']}", replica=1).status_code == 200
    wait_for(lambda: fleet.workers(0) == [], "it is gone from the list")
    wait_for(lambda: not any(map(is_alive, [listed["pid"], *engine])), "its processes are gone")
    assert fleet.delete(f"/v1/workers/{spawned['worker_id']}").json()["error"]["code"] == "WORKER_NOT_FOUND"


def test_the_metrics_count_workers_requests_and_tokens(fleet: Fleet) -> None:
    def counted() -> tuple[float, ...]:
        lines = fleet.get("/metrics", replica=1).text.splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("hive_llm_"))
        return tuple(float(found.get(name, 0)) for name in COUNTED)

    fleet.load(MODEL)
    wait_for(lambda: counted()[0] == 1, "the worker is counted")
    _, requests_before, tokens_before, first_before = counted()
    end = fleet.infer(model=MODEL, max_tokens=3)[-1]
    assert end["tokens_out"] == 3
    wait_for(lambda: counted() == (1, requests_before + 1, tokens_before + 3, first_before + 1), "all is counted")


def test_two_replicas_that_load_one_model_at_once_have_one_worker(fleet: Fleet) -> None:
    found: list[dict[str, Any]] = []
    barrier = threading.Barrier(4)

    def spawn(replica: int) -> None:
        barrier.wait()
        found.append(fleet.spawn(MODEL, replica))

    threads = [threading.Thread(target=spawn, args=(number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each["worker_id"] for each in found}) == 1
    assert len({each["url"] for each in found}) == 1
    assert sum(each.get("joined", False) for each in found) == 3
    assert len(fleet.workers()) == 1


def test_a_download_that_fails_is_the_end_of_the_loading(fleet: Fleet, hub: HubServer) -> None:
    spawned = fleet.spawn("hf:org/missing:Q4_K_M")
    last = fleet.loading(spawned["worker_id"])[-1]
    assert (last["stage"], last["code"]) == ("error", "MODEL_NOT_FOUND")
    wait_for(lambda: fleet.workers() == [])


def test_a_model_that_is_no_gguf_is_refused_with_a_way_out(fleet: Fleet, hub: HubServer) -> None:
    hub.create("org/safe", {"model.safetensors": b"x" * 100, "config.json": b"{}"})
    download = fleet.post("/v1/models/download", {"model_ref": "hf:org/safe"}).json()["download_id"]
    wait_for(lambda: fleet.get(f"/v1/downloads/{download}").json()["status"] == "complete")
    answer = fleet.post("/v1/workers/spawn", {"model_ref": "hf:org/safe"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "MODEL_NOT_SERVABLE")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model_ref": "hf:org/model", "backend": "abacus"},
        {"model_ref": "hf:org/model", "device": -1},
        {"model_ref": "hf:org/model", "context": 1},
        {"model_ref": "hf:org/model", "slots": 257},
        {"model_ref": "not a reference!"},
        {"model_path": "/etc/passwd"},
        {"model_path": "relative.gguf"},
    ],
)
def test_what_cannot_be_asked_for_is_refused(fleet: Fleet, body: dict[str, Any]) -> None:
    answer = fleet.post("/v1/workers/spawn", body)
    assert answer.status_code == 400, answer.text
    assert fleet.workers() == []


@pytest.mark.parametrize("where", [{"backend": "cuda"}, {"device": 3}])
def test_a_device_that_is_not_there_is_refused_with_what_there_is(fleet: Fleet, where: dict[str, Any]) -> None:
    answer = fleet.post("/v1/workers/spawn", {"model_ref": MODEL, **where})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "BACKEND_UNAVAILABLE")
    assert [there.partition(" ")[0] for there in error["details"]["available"]] == ["cpu:0"]


def test_the_machine_says_what_it_has(fleet: Fleet) -> None:
    (device,) = fleet.get("/v1/devices").json()["devices"]
    assert (device["backend"], device["engine"], device["index"]) == ("cpu", "xllamacpp", 0)
    (host,) = fleet.get("/v1/resources").json()["hosts"]
    assert host["ram_total"] >= host["ram_available"] > 0
    backends = {each["id"]: each["available"] for each in fleet.get("/v1/backends/list").json()["backends"]}
    assert backends == {"cpu": True, "cuda": False, "metal": False}


def test_without_a_machine_that_runs_models_it_is_said_how_to_get_one(env: dict[str, str]) -> None:
    fleet = Fleet(env, with_pool=False)
    try:
        answer = fleet.post("/v1/workers/spawn", {"model_ref": MODEL})
        assert answer.json()["error"]["code"] == "BACKEND_UNAVAILABLE"
        assert "hive-models[serve]" in answer.json()["error"]["message"]
    finally:
        fleet.stop()


def test_a_model_that_does_not_fit_is_refused_before_anything_starts(fleet: Fleet) -> None:
    fleet.load(MODEL)
    fleet.end_workers()
    server = Server({**fleet.env, "HIVE_LLM_KEEP_FREE_BYTES": str(1 << 50)})
    with stopping(server):
        server.wait_until_ready()
        answer = requests.post(f"{server.url}/v1/workers/spawn", json={"model_ref": MODEL}, timeout=TIMEOUT_S)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "INSUFFICIENT_RAM")
    assert set(answer.json()["error"]["details"]) == {"required", "available"}
    assert fleet.workers() == []


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_noticed_and_leaves_nothing(fleet: Fleet) -> None:
    fleet.load(MODEL)
    (worker,) = fleet.workers()
    engine = children(worker["pid"])
    os.kill(worker["pid"], signal.SIGKILL)
    wait_for(lambda: fleet.workers(1) == [], "it is gone from the list")
    wait_for(lambda: not any(map(is_alive, engine)), "its engine is gone")


def test_a_worker_that_is_killed_while_it_loads_is_an_end_for_all_who_watch(
    env: dict[str, str], tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine", states=[0.0, 0.5], hangs=True)
    fleet = Fleet({**env, "HIVE_LLAMA_SERVER": str(standin)}, replicas=2)
    try:
        spawned = fleet.spawn(MODEL)
        wait_for(lambda: fleet.workers() and fleet.workers()[0]["pid"])
        ends: list[dict[str, Any]] = []
        threads = [
            threading.Thread(target=lambda r=r: ends.append(fleet.loading(spawned["worker_id"], r)[-1])) for r in (0, 1)
        ]
        for thread in threads:
            thread.start()
        os.kill(fleet.workers()[0]["pid"], signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert {(end["stage"], end["code"]) for end in ends} == {("error", "WORKER_LOST")}
    finally:
        fleet.stop()


def test_all_workers_end_with_the_pool(own_fleet: Fleet) -> None:
    own_fleet.load(MODEL)
    (worker,) = own_fleet.workers()
    pids = [worker["pid"], *children(worker["pid"])]
    assert own_fleet.pool is not None
    assert own_fleet.pool.stop() == 0
    assert not any(map(is_alive, pids))
    wait_for(lambda: own_fleet.workers() == [])


def test_all_workers_end_with_a_pool_that_is_killed(own_fleet: Fleet) -> None:
    own_fleet.load(MODEL)
    (worker,) = own_fleet.workers()
    pids = [worker["pid"], *children(worker["pid"])]
    assert own_fleet.pool is not None
    own_fleet.pool.signal(signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, pids)), "the workers are gone")
    wait_for(lambda: own_fleet.workers() == [], "and nobody lists them")


def test_a_worker_that_nobody_asks_rests_and_is_started_again_by_the_next_request(fleet: Fleet) -> None:
    fleet.load(MODEL, idle_seconds=1)
    (worker,) = fleet.workers()
    wait_for(lambda: fleet.workers() == [], "it has ended")
    wait_for(lambda: not is_alive(worker["pid"]))
    assert text_of(fleet.infer(model=MODEL, max_tokens=100)) == RECITED
    (again,) = fleet.workers()
    assert again["id"] != worker["id"]
    wait_for(lambda: fleet.workers() == [], "it rests again")
    wait_for(lambda: fleet.delete("/v1/models/org/model:Q4_K_M").status_code == 200)
    answer = fleet.post("/v1/inference", {"prompt": "?", "model": MODEL})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "MODEL_NOT_LOADED"), "what is deleted is gone"


def test_a_model_in_memory_is_not_deleted(fleet: Fleet) -> None:
    spawned = fleet.load(MODEL)
    answer = fleet.delete("/v1/models/org/model:Q4_K_M")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "MODEL_IN_USE")
    assert "memory" in answer.json()["error"]["message"]
    fleet.delete(f"/v1/workers/{spawned['worker_id']}")
    wait_for(lambda: fleet.workers() == [])
    assert fleet.delete("/v1/models/org/model:Q4_K_M").status_code == 200


# -- workers that come by themselves -----------------------------------------------------------------------------------


def test_a_worker_that_comes_by_itself_is_registered_asked_and_removed_when_it_is_silent(
    fleet: Fleet, tmp_path: Path, model_file: Path
) -> None:
    alien = LlmProcess({**fleet.env, "HIVE_HOME": str(tmp_path / "other")}, model_file)
    with stopping(alien):
        alien.wait_until_ready()
        body = {"worker_id": "worker-x", "url": alien.url, "model_ref": "hf:o/other", "backend": "cpu", "device": 0}
        answer = fleet.post("/v1/workers/ready", body)
        assert answer.json() == {"message": "Worker registered as ready"}
        assert next(w for w in fleet.workers(1) if w["id"] == "worker-x")["state"] == "idle"
        assert text_of(fleet.infer(1, model="hf:o/other", max_tokens=100)) == RECITED
        beat = {"worker_id": "worker-x", "timestamp": "2026-01-01T00:00:00Z", "health_status": "degraded"}
        assert fleet.post("/v1/heartbeat", beat, 1).json() == {"message": "Heartbeat received"}
        assert next(w for w in fleet.workers() if w["id"] == "worker-x")["failed_health_checks"] == 1
        assert fleet.post("/v1/heartbeat", {**beat, "worker_id": "nobody"}).status_code == 404
        assert fleet.loading("worker-x") == [{"stage": "ready"}]


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:8081", "http://example.org:80", "ftp://127.0.0.1:1", "http://127.0.0.1", "x"]
)
def test_without_keys_no_worker_of_another_machine_may_register(fleet: Fleet, url: str) -> None:
    body = {"worker_id": "w", "url": url, "model_ref": "hf:o/m", "backend": "cpu", "device": 0}
    assert fleet.post("/v1/workers/ready", body).status_code == 400


def test_a_server_is_no_worker_of_itself_or_of_another(fleet: Fleet) -> None:
    body = {"worker_id": "w", "url": fleet.servers[0].url, "model_ref": "hf:o/loop", "backend": "cpu", "device": 0}
    assert fleet.post("/v1/workers/ready", body).status_code == 400
    assert fleet.post("/v1/workers/ready", body, 1).status_code == 200, "that replica does not know the other's address"
    answer = fleet.post("/v1/inference", {"prompt": "?", "model": "hf:o/loop"}, 1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "INFERENCE_FAILED")
    assert "address of a hive server" in answer.json()["error"]["message"]
    assert fleet.delete("/v1/workers/w").status_code == 200


# -- asking ------------------------------------------------------------------------------------------------------------


def test_a_model_that_nobody_has_loaded_is_said_with_the_way_to_load_it(fleet: Fleet) -> None:
    answer = fleet.post("/v1/inference", {"prompt": "?", "model": "hf:org/none"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "MODEL_NOT_LOADED")
    assert "/v1/workers/spawn" in answer.json()["error"]["message"]
    assert "retry-after" in answer.headers


def test_with_autoload_a_model_is_brought_and_loaded_for_the_request(fleet: Fleet) -> None:
    fleet.delete("/v1/models/org/model:Q4_K_M")  # a test before may have brought it
    server = Server({**fleet.env, "HIVE_AUTOLOAD": "1"})
    with stopping(server):
        server.wait_until_ready()
        body = {"prompt": "?", "model": MODEL, "max_tokens": 100}
        answer = requests.post(f"{server.url}/v1/inference", json=body, timeout=TIMEOUT_S)
        assert text_of(events_of(answer.content)) == RECITED
        answer = requests.post(f"{server.url}/v1/inference", json={**body, "model": "hf:org/none"}, timeout=TIMEOUT_S)
        assert answer.json()["error"]["code"] == "MODEL_NOT_FOUND", "why it could not be brought, however soon that was"
    assert [worker["model_ref"] for worker in fleet.workers()] == [MODEL]
    assert "Traceback" not in server.output


def test_errors_of_the_worker_come_through_as_they_are(fleet: Fleet) -> None:
    fleet.load(MODEL)
    answer = fleet.post("/v1/inference", {"prompt": "", "model": MODEL, "max_tokens": 0})
    assert answer.status_code == 400
    assert {fault["field"] for fault in answer.json()["errors"]} == {"prompt", "max_tokens"}
    assert fleet.post("/v1/inference", {"prompt": "x" * 70_000, "model": MODEL}).status_code == 400
    assert fleet.post("/v1/inference", {"prompt": "x" * 300_000, "model": MODEL}).status_code == 413
    broken = requests.post(f"{fleet.url}/v1/inference", data=b"{", timeout=60)
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "INVALID_REQUEST")


def test_through_hive_a_busy_worker_says_so_a_client_that_leaves_frees_it_and_a_request_is_cancelled(
    slow_fleet: Fleet,
) -> None:
    fleet = slow_fleet
    fleet.load(MODEL)
    body = {"prompt": "?", "model": MODEL, "max_tokens": 2_048, "job_id": "j1"}
    stream = RawStream(fleet.url, "/v1/inference", body)
    assert [(stream.event() or {})["type"] for _ in range(2)] == ["started", "token"]
    busy = fleet.post("/v1/inference", {"prompt": "?", "model": MODEL}, 1)
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "ALL_SLOTS_BUSY")
    assert busy.json()["error"]["slots_total"] == 1
    assert "retry-after" in busy.headers
    wait_for(lambda: fleet.workers(1)[0]["state"] == "busy")
    stream.close()
    wait_for(lambda: fleet.workers(1)[0]["slots_available"] == 1, "the slot is free")
    other = RawStream(fleet.url, "/v1/inference", body)
    other.event()
    assert fleet.delete("/v1/inference/j1", replica=1).status_code == 204
    assert list(other.events())[-1]["code"] == "CANCELLED"
    assert fleet.delete("/v1/inference/j1", replica=1).status_code == 204


def test_a_worker_that_is_killed_in_the_middle_cuts_the_stream(slow_fleet: Fleet) -> None:
    slow_fleet.load(MODEL)
    stream = RawStream(slow_fleet.url, "/v1/inference", {"prompt": "?", "model": MODEL, "max_tokens": 2_048})
    stream.event()
    os.kill(slow_fleet.workers()[0]["pid"], signal.SIGKILL)
    with pytest.raises((EOFError, ConnectionResetError)):
        list(stream.events())
    stream.close()


def test_random_models_answer_too(fleet: Fleet, hub: HubServer, tmp_path: Path) -> None:
    hub.create("org/random", {"r-F32.gguf": write_random(tmp_path / "r-F32.gguf")})
    fleet.load("hf:org/random")
    events = fleet.infer(model="org/random", max_tokens=8)
    assert events[-1]["tokens_out"] == 8
