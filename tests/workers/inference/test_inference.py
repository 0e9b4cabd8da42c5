"""One inference at a worker's own address: every token in order, no half characters, and who has gone costs nothing."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.engine_standin import write_standin
from tests.support.gguf_models import write_random
from tests.support.llm import RECITED, LlmProcess, RawStream, StartWorker, events_of, text_of
from tests.support.vectors import assert_makes_vectors
from tests.support.waiting import AT_ONCE_S, wait_for

#: Seconds within which a slot is free whose client has gone, and the same on a machine that is busy.
SLOT_FREE_S = 0.1
BUSY_FACTOR = 20


@pytest.fixture
def worker(module_worker: LlmProcess) -> LlmProcess:
    return module_worker


@pytest.fixture(scope="module")
def rambling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("models") / "rambling.gguf")


@pytest.fixture
def busy_worker(start_worker: StartWorker, endless: Path) -> LlmProcess:
    """A worker with one slot, of a model that goes on for ever."""
    worker = start_worker(endless)
    worker.wait_until_ready()
    return worker


def slots_free(worker: LlmProcess) -> bool:
    """Whether the worker would take a request: one that is wrong in its deadline is not begun."""
    return bool(worker.get("/v1/ready").json()["state"] == "idle")


# -- the stream --------------------------------------------------------------------------------------------------------


def test_a_prompt_is_answered_token_by_token_until_the_model_ends(worker: LlmProcess) -> None:
    events = worker.infer(max_tokens=100, temperature=0)
    assert events[0]["type"] == "started"
    assert set(events[0]) == {"type", "job_id", "model", "started_at"}
    assert events[0]["model"] == "hf:org/model"
    datetime.fromisoformat(events[0]["started_at"])
    assert text_of(events) == RECITED
    end = events[-1]
    assert end["type"] == "end"
    assert end["stop_reason"] == "EOS"
    assert end["tokens_out"] == end["total_tokens"] == sum(event["type"] == "token" for event in events)
    assert end["done"] is True
    assert end["duration_ms"] >= end["decode_time_ms"] >= 0


def test_the_older_names_stand_beside_the_new_ones(worker: LlmProcess) -> None:
    tokens = [event for event in worker.infer(max_tokens=4) if event["type"] == "token"]
    assert all((event["token"], event["index"]) == (event["t"], event["i"]) for event in tokens)


def test_a_character_that_takes_four_tokens_comes_whole(worker: LlmProcess) -> None:
    tokens = [event["t"] for event in worker.infer(max_tokens=100) if event["type"] == "token"]
    assert "\U0001f980" in tokens
    assert all("\ufffd" not in token for token in tokens)


@pytest.mark.parametrize("count", [1, 5, 7, 9])
def test_as_many_tokens_come_as_were_asked_for_also_within_a_character(worker: LlmProcess, count: int) -> None:
    events = worker.infer(max_tokens=count)
    assert events[-1]["stop_reason"] == "MAX_TOKENS"
    assert events[-1]["tokens_out"] == count
    text = text_of(events)
    assert RECITED.startswith(text)
    assert "\ufffd" not in text


@pytest.mark.parametrize("stop", ["the crab", ["nothing", " crab"], "\U0001f980", "é"])
def test_a_stop_sequence_ends_the_text_before_it_and_is_named(worker: LlmProcess, stop: Any) -> None:
    events = worker.infer(max_tokens=100, stop=stop)
    end = events[-1]
    assert end["stop_reason"] == "STOP_SEQUENCE"
    matched = end["stop_sequence_matched"]
    assert matched in ([stop] if isinstance(stop, str) else stop)
    assert text_of(events) == RECITED.partition(matched)[0]


def test_without_a_stream_the_answer_is_one_object(worker: LlmProcess) -> None:
    answer = worker.post("/v1/inference", {"prompt": "?", "max_tokens": 100, "stream": False, "job_id": "mine"})
    found = answer.json()
    assert (found["text"], found["stop_reason"], found["job_id"]) == (RECITED, "EOS", "mine")


def test_frames_are_bare_data_lines_whatever_the_client_accepts(worker: LlmProcess) -> None:
    body = {"prompt": "?", "max_tokens": 3}
    answer = worker.post("/v1/inference", body, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert events_of(answer.content)[-1]["type"] == "end"


def test_the_same_seed_gives_the_same_text_and_another_another(start_worker: StartWorker, rambling: Path) -> None:
    worker = start_worker(rambling)
    worker.wait_until_ready()

    def said(**more: Any) -> str:
        return text_of(worker.infer(max_tokens=24, **more))

    assert said(seed=5, temperature=1.5) == said(seed=5, temperature=1.5) != said(seed=6, temperature=1.5)
    assert said(temperature=0) == said(temperature=0)


def test_fields_that_nobody_knows_are_passed_over(worker: LlmProcess) -> None:
    assert worker.infer(max_tokens=1, frequency=3, user="somebody")[-1]["type"] == "end"


# -- what is wrong with a request --------------------------------------------------------------------------------------


def test_all_faults_of_a_request_are_told_at_once(worker: LlmProcess) -> None:
    body = {
        "prompt": "x" * 32_769,
        "job_id": "a b",
        "max_tokens": 2_049,
        "temperature": 2.1,
        "stream": "yes",
        "top_p": -0.1,
        "top_k": 1.5,
        "min_p": True,
        "repetition_penalty": 3,
        "stop": ["a", "b", "c", "d", "e"],
        "seed": -1,
    }
    answer = worker.post("/v1/inference", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "INVALID_REQUEST"
    faults = {fault["field"]: fault for fault in answer.json()["errors"]}
    assert set(faults) == set(body)
    assert all(set(fault) == {"field", "constraint", "message", "value"} for fault in faults.values())
    assert "x" * 100 not in answer.text, "no prompt in an error"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 50_000, b'{"prompt": "\\ud800"}', b"{}", b'{"prompt": ""}'],
    ids=["nothing", "half", "a list", "a text", "no UTF-8", "deep", "half a pair", "no prompt", "an empty prompt"],
)
def test_what_is_no_request_is_refused(worker: LlmProcess, body: bytes) -> None:
    answer = requests.post(f"{worker.url}/v1/inference", data=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize("value", [0, 2_049, -1, 1.5, "10", True, [], 1e400])
def test_a_number_of_tokens_that_is_none_is_refused(worker: LlmProcess, value: Any) -> None:
    answer = requests.post(
        f"{worker.url}/v1/inference", data=json.dumps({"prompt": "?", "max_tokens": value}), timeout=60
    )
    assert answer.status_code == 400
    assert [fault["field"] for fault in answer.json()["errors"]] == ["max_tokens"]


def test_a_prompt_that_is_longer_than_the_context_is_an_error_in_the_stream(worker: LlmProcess) -> None:
    events = worker.infer(prompt="? " * 8_000, max_tokens=1)
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "INVALID_REQUEST")
    assert "context" in events[-1]["message"]


def test_a_body_that_is_too_large_is_refused(worker: LlmProcess) -> None:
    answer = requests.post(f"{worker.url}/v1/inference", data=b"x" * 300_000, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "BODY_TOO_LARGE"


def test_unknown_addresses_and_methods_are_told(worker: LlmProcess) -> None:
    assert worker.get("/v1/nothing").status_code == 404
    assert worker.get("/v1/inference").json()["error"]["code"] == "METHOD_NOT_ALLOWED"
    assert worker.post("/health", {}).json()["error"]["details"] == {"allow": "GET"}


# -- slots, and who lets go of them ------------------------------------------------------------------------------------


def test_two_requests_for_the_last_slot_are_one_answer_and_one_refusal(busy_worker: LlmProcess) -> None:
    answers: list[int] = []
    barrier = threading.Barrier(2)

    def ask() -> None:
        barrier.wait()
        stream = RawStream(busy_worker.url, "/v1/inference", {"prompt": "?", "max_tokens": 2_048}, 4096)
        answers.append(stream.status)
        if stream.status == 200:
            wait_for(lambda: len(answers) == 2)
        stream.close()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 503]


def test_a_worker_without_a_free_slot_says_how_many_there_are(busy_worker: LlmProcess) -> None:
    stream = RawStream(busy_worker.url, "/v1/inference", {"prompt": "?", "max_tokens": 2_048}, 4096)
    try:
        answer = busy_worker.post("/v1/inference", {"prompt": "?"})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        error = answer.json()["error"]
        assert (error["code"], error["slots_total"], error["slots_busy"]) == ("ALL_SLOTS_BUSY", 1, 1)
        assert busy_worker.get("/v1/ready").json()["state"] == "busy"
    finally:
        stream.close()


@pytest.mark.parametrize("how", ["DELETE", "POST /cancel"])
def test_a_cancelled_request_ends_at_once_and_frees_its_slot(busy_worker: LlmProcess, how: str) -> None:
    stream = RawStream(busy_worker.url, "/v1/inference", {"prompt": "?", "max_tokens": 2_048, "job_id": "j1"}, 4096)
    first = [stream.event() or {} for _ in range(2)]
    assert [event.get("type") for event in first] == ["started", "token"], first
    if how == "DELETE":
        answer = requests.delete(f"{busy_worker.url}/v1/inference/j1", timeout=60)
        assert (answer.status_code, answer.content) == (204, b"")
        assert requests.delete(f"{busy_worker.url}/v1/inference/j1", timeout=60).status_code == 204
    else:
        assert busy_worker.post("/cancel", {"job_id": "j1"}).status_code == 202
    assert slots_free(busy_worker)
    events = list(stream.events())
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "CANCELLED")
    assert sum(event["type"] == "error" for event in events) == 1
    assert events_count(events) < 2_048
    assert text_of(busy_worker.infer(max_tokens=2)) == "on and"


def events_count(events: list[dict[str, Any]]) -> int:
    return sum(event["type"] == "token" for event in events)


def test_a_client_that_has_gone_frees_its_slot(busy_worker: LlmProcess) -> None:
    took: list[float] = []
    for _ in range(5):
        stream = RawStream(busy_worker.url, "/v1/inference", {"prompt": "?", "max_tokens": 2_048}, 4096)
        stream.event()
        assert not slots_free(busy_worker)
        stream.close()
        began_s = time.monotonic()
        wait_for(lambda: slots_free(busy_worker), "the slot is free")
        took.append(time.monotonic() - began_s)
    assert min(took) < SLOT_FREE_S, took
    assert max(took) < SLOT_FREE_S * BUSY_FACTOR, took
    assert text_of(busy_worker.infer(max_tokens=2)) == "on and"


def test_two_requests_of_one_name_are_a_conflict(start_worker: StartWorker, endless: Path) -> None:
    worker = start_worker(endless, slots=2)
    worker.wait_until_ready()
    stream = RawStream(worker.url, "/v1/inference", {"prompt": "?", "max_tokens": 2_048, "job_id": "same"}, 4096)
    try:
        answer = worker.post("/v1/inference", {"prompt": "?", "job_id": "same"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CONFLICT")
    finally:
        stream.close()


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Deadline", "1"),
        ("X-Request-Deadline", "2001-01-01T00:00:00Z"),
        ("X-Request-Deadline", "2001-01-01T00:00:00+02:00"),
    ],
)
def test_a_deadline_that_has_passed_is_408(worker: LlmProcess, name: str, value: str) -> None:
    answer = worker.post("/v1/inference", {"prompt": "?"}, headers={name: value})
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "REQUEST_TIMEOUT")


@pytest.mark.parametrize(
    ("name", "value"), [("X-Deadline", "soon"), ("X-Deadline", "9" * 400), ("X-Request-Deadline", "tomorrow")]
)
def test_a_deadline_that_is_none_is_400(worker: LlmProcess, name: str, value: str) -> None:
    assert worker.post("/v1/inference", {"prompt": "?"}, headers={name: value}).status_code == 400


def test_a_deadline_that_passes_in_the_middle_ends_the_stream(busy_worker: LlmProcess) -> None:
    until = datetime.now(UTC) + timedelta(seconds=1)
    body = {"prompt": "?", "max_tokens": 2_048}
    stream = RawStream(busy_worker.url, "/v1/inference", body, 2048, **{"X-Request-Deadline": until.isoformat()})
    stream.event()
    # It takes nothing meanwhile, so that the model cannot be through by then.
    wait_for(lambda: slots_free(busy_worker), "the deadline has passed")
    assert list(stream.events())[-1]["code"] == "TIMEOUT"


def test_an_engine_that_falls_silent_is_a_timeout(start_worker: StartWorker, rambling: Path, tmp_path: Path) -> None:
    standin = write_standin(tmp_path / "engine", silent_after_tokens=2)
    worker = start_worker(rambling, {"HIVE_LLAMA_SERVER": str(standin), "HIVE_LLM_TOKEN_TIMEOUT_S": "1"})
    worker.wait_until_ready()
    events = worker.infer(max_tokens=50)
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "TIMEOUT")
    assert events_count(events) == 2
    assert slots_free(worker)
    passed_on = {"messages": [{"role": "user", "content": "?"}], "stream": True}
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        worker.post("/v1/chat/completions", passed_on)
    assert slots_free(worker)


def test_an_engine_that_fails_in_the_middle_is_told_in_its_own_words(
    start_worker: StartWorker, rambling: Path, tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine", fails_after_tokens=2)
    worker = start_worker(rambling, {"HIVE_LLAMA_SERVER": str(standin)})
    worker.wait_until_ready()
    events = worker.infer(max_tokens=50)
    assert events_count(events) == 2
    assert (events[-1]["code"], events[-1]["message"]) == ("INFERENCE_FAILED", "the context is full")


# -- back-pressure -----------------------------------------------------------------------------------------------------


#: Characters of a token; 2,048 of them, twice in an event, are far more than the memory that they may take.
FOUNTAIN_CHARS = 8_000


@pytest.fixture
def fountain(start_worker: StartWorker, rambling: Path, tmp_path: Path) -> LlmProcess:
    """An engine that makes 100,000 long tokens as fast as it can, however many were asked for."""
    standin = write_standin(tmp_path / "engine", tokens=100_000, token_chars=FOUNTAIN_CHARS)
    worker = start_worker(rambling, {"HIVE_LLAMA_SERVER": str(standin)})
    worker.wait_until_ready()
    return worker


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_a_slow_reader_costs_no_memory_and_loses_nothing(fountain: LlmProcess) -> None:
    fountain.infer(prompt="warm", max_tokens=1)
    before_kb = resident_kb(fountain.pid)
    stream = RawStream(fountain.url, "/v1/inference", {"prompt": "?", "max_tokens": 2_048}, 4096)
    began_s, most_kb, count = time.monotonic(), 0, 0
    for event in stream.events():
        if event["type"] == "token":
            assert event["i"] == count
            assert event["t"] == f"w{count} ".ljust(FOUNTAIN_CHARS)
            count += 1
        if count < 30:
            time.sleep(0.1 if time.monotonic() - began_s < AT_ONCE_S else 0)  # ten tokens a second at first
            most_kb = max(most_kb, resident_kb(fountain.pid))
    most_kb = max(most_kb, resident_kb(fountain.pid))
    assert count == 2_048
    assert event["stop_reason"] == "MAX_TOKENS"
    assert slots_free(fountain)
    assert most_kb - before_kb < 4_096, (before_kb, most_kb)


def test_a_token_goes_out_when_it_comes(start_worker: StartWorker, rambling: Path, tmp_path: Path) -> None:
    """The engine is silent behind the third one, and the client has it."""
    standin = write_standin(tmp_path / "engine", silent_after_tokens=3)
    worker = start_worker(rambling, {"HIVE_LLAMA_SERVER": str(standin)})
    worker.wait_until_ready()
    stream = RawStream(worker.url, "/v1/inference", {"prompt": "?", "max_tokens": 4})
    tokens = (event["t"] for event in stream.events() if event["type"] == "token")
    assert list(itertools.islice(tokens, 3)) == ["w0 ", "w1 ", "w2 "]
    stream.close()


# -- the end of a worker -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGTERM", "POST /v1/admin/shutdown"])
def test_a_worker_that_is_told_to_end_lets_running_requests_end(
    start_worker: StartWorker, rambling: Path, tmp_path: Path, how: str
) -> None:
    standin = write_standin(tmp_path / "engine", tokens_per_s=20)
    worker = start_worker(rambling, {"HIVE_LLAMA_SERVER": str(standin)})
    worker.wait_until_ready()
    stream = RawStream(worker.url, "/v1/inference", {"prompt": "?", "max_tokens": 40})
    stream.event()
    if how == "SIGTERM":
        worker.signal(signal.SIGTERM)
    else:
        assert worker.post("/v1/admin/shutdown", {}).json()["state"] == "draining"
    wait_for(lambda: worker.get("/v1/ready").json()["state"] == "draining")
    refused = worker.post("/v1/inference", {"prompt": "?"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "WORKER_DRAINING")
    events = list(stream.events())
    assert (events[-1]["type"], events[-1]["stop_reason"]) == ("end", "MAX_TOKENS")
    assert worker.wait() == 0


def test_a_worker_does_not_wait_for_ever_for_what_runs(
    start_worker: StartWorker, rambling: Path, tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine", silent_after_tokens=1)
    worker = start_worker(rambling, {"HIVE_LLAMA_SERVER": str(standin), "HIVE_LLM_DRAIN_S": "0.5"})
    worker.wait_until_ready()
    stream = RawStream(worker.url, "/v1/inference", {"prompt": "?", "max_tokens": 40})
    stream.event()
    worker.signal(signal.SIGTERM)
    assert list(stream.events())[-1]["code"] == "CANCELLED"
    assert worker.wait() == 0


# -- other forms -------------------------------------------------------------------------------------------------------


def test_openai_chat_is_passed_to_the_engine_and_back(worker: LlmProcess) -> None:
    body = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 100}
    whole = worker.post("/v1/chat/completions", body)
    assert whole.status_code == 200, whole.text
    assert whole.json()["choices"][0]["message"]["content"] == RECITED
    answer = worker.post("/v1/chat/completions", {**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    chunks = [json.loads(line[6:]) for line in answer.content.decode().split("\n\n") if line.startswith("data: {")]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == RECITED
    assert answer.text.endswith("data: [DONE]\n\n")


def test_what_is_passed_to_the_engine_has_a_deadline_too(worker: LlmProcess) -> None:
    body = {"messages": [{"role": "user", "content": "?"}]}
    late = worker.post("/v1/chat/completions", body, headers={"X-Deadline": "1"})
    assert (late.status_code, late.json()["error"]["code"]) == (408, "REQUEST_TIMEOUT")


def test_an_error_of_the_engine_comes_as_it_is(worker: LlmProcess) -> None:
    answer = worker.post("/v1/chat/completions", {"messages": 5})
    assert answer.status_code >= 400
    assert "error" in answer.json()


def test_no_prompt_and_no_text_is_in_the_logs(start_worker: StartWorker, reciting: Path, tmp_path: Path) -> None:
    worker = start_worker(reciting, {"HIVE_LOG_LEVEL": "debug"})
    worker.wait_until_ready()
    worker.infer(prompt="canary-prompt-7", max_tokens=100)
    worker.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "canary-prompt-7"}]})
    worker.stop()
    logs = [path.read_text() for path in (tmp_path / "home" / "llm").iterdir()]
    assert logs
    assert all("canary" not in text and "upon a" not in text for text in [*logs, worker.output])


# -- vectors -----------------------------------------------------------------------------------------------------------


def test_a_model_for_vectors_is_started_so_that_it_makes_them(start_worker: StartWorker, tmp_path: Path) -> None:
    worker = start_worker(write_random(tmp_path / "v.gguf", pooling=1))
    worker.wait_until_ready()
    assert_makes_vectors(worker)
    for body, words in (
        ({"input": "x" * 20_000}, "is too large to process"),
        ({"input": "x", "dimensions": 8}, "vectors of 64 numbers"),
    ):
        refused = worker.post("/v1/embeddings", body)
        assert refused.status_code == 400
        assert words in refused.json()["error"]["message"]
        assert refused.json()["error"]["type"] == "invalid_request_error"
    assert worker.post("/v1/embeddings", {"input": "x", "dimensions": 64}).status_code == 200


def test_a_picture_for_a_model_that_sees_none_is_the_requests_mistake(worker: LlmProcess) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    refused = worker.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [picture]}]})
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_model_that_makes_text_says_that_it_makes_no_vectors(worker: LlmProcess) -> None:
    refused = worker.post("/v1/embeddings", {"input": "?"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "MODEL_NOT_SERVABLE")
    assert "Load one for embeddings" in refused.json()["error"]["message"]
