"""The unmodified client of Ollama against hive: pull, list, show, ask, unload, delete."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import ollama
import pytest
import requests

from hive.processes.embedded_redis import EmbeddedRedis
from hive.settings import Settings
from tests.hub import HubServer, SyntheticFile
from tests.support import open_webui
from tests.support.content import MIB
from tests.support.gguf_models import write_random, write_reciting
from tests.support.keyed import new_key
from tests.support.llm import PIECES, RECITED, Fleet
from tests.support.oci_registry import OciRegistry
from tests.support.open_webui import OpenWebui
from tests.support.processes import Server, environment, stopping

NAME = "hf.co/org/model:Q4_K_M"
VECTORS = "hf.co/org/vectors:F16"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer() as made:
        made.create("org/model", {"m-Q4_K_M.gguf": write_reciting(tmp_path_factory.mktemp("m") / "m.gguf", PIECES)})
        two = {f"m-{quant}.gguf": b"GGUF" + quant.encode() for quant in ("Q4_K_M", "Q8_0", "Q2_K")}
        made.create("org/two", dict(two))
        made.create("org/vectors", {"v-F16.gguf": write_random(tmp_path_factory.mktemp("v") / "v.gguf", pooling=1)})
        made.create("org/large", {"config.json": b"{}", "model.safetensors": SyntheticFile(40 * MIB)})
        yield made


@pytest.fixture(scope="module")
def fleet(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with EmbeddedRedis(tmp_path_factory.mktemp("r")) as redis, OciRegistry(hub) as registry:
        content = write_reciting(tmp_path_factory.mktemp("o") / "o.gguf", PIECES).read_bytes()
        layer = registry.layer(content, "application/vnd.ollama.image.model")
        registry.put("library/tiny", "1b", {"layers": [layer]})
        env = environment(
            redis.url, tmp_path_factory.mktemp("f"), HF_ENDPOINT=hub.endpoint, HF_TOKEN="", HIVE_DRAIN_S="0.2"
        )
        env |= {
            "HIVE_OLLAMA_REGISTRY": f"http://{registry.host}",
            "HIVE_ALLOW_HOSTS": hub.endpoint.removeprefix("http://"),
        }
        made = Fleet(env)
        try:
            yield made
        finally:
            made.stop()
        made.check()


@pytest.fixture
def client(fleet: Fleet) -> Iterator[ollama.Client]:
    with ollama.Client(host=fleet.url, timeout=120) as made:
        yield made


def test_a_pull_is_told_with_a_bar_and_is_a_download_like_any_other(client: ollama.Client, fleet: Fleet) -> None:
    said = list(client.pull("hf.co/org/large", stream=True))
    assert said[0].status == "pulling manifest"
    assert [each.status for each in said[-3:]] == ["verifying sha256 digest", "writing manifest", "success"]
    bars = [each for each in said if each.digest]
    assert all(each.total == 40 * MIB + 2 and len(each.digest or "") == 71 for each in bars)
    done = [each.completed or 0 for each in bars]
    assert done == sorted(done)
    (found,) = fleet.get("/v1/downloads?model=org/large").json()["data"]
    assert (found["origin"], found["status"]) == ("ollama", "complete")
    assert client.pull("hf.co/org/large").status == "success"  # on the disk, and without a stream


def test_a_model_is_listed_shown_asked_unloaded_and_deleted(client: ollama.Client, fleet: Fleet) -> None:
    assert client.pull("HF.co/org/model:q4_k_m").status == "success"
    listed = {model.model: model for model in client.list().models}
    details = listed[NAME].details
    assert details is not None
    assert (details.format, details.quantization_level) == ("gguf", "Q4_K_M")
    assert len(listed[NAME].digest or "") == 64
    shown = client.show(NAME)
    assert shown.modelinfo is not None
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.context_length"] > 0
    assert shown.modelinfo["general.parameter_count"] > 0
    assert shown.capabilities is not None
    assert shown.capabilities[0] == "completion"
    asked = [{"role": "user", "content": "?"}]
    whole = client.chat(NAME, messages=asked, options={"num_predict": 100})
    assert whole.message.content == RECITED  # loaded by this
    assert (whole.done, whole.done_reason) == (True, "stop")
    pieces = list(client.chat(NAME, messages=asked, stream=True, options={"num_predict": 100}))
    assert "".join(piece.message.content or "" for piece in pieces) == RECITED
    assert [piece.done for piece in pieces][-2:] == [False, True]
    assert pieces[-1].eval_count
    cut = client.generate(NAME, prompt="?", raw=True, options={"num_predict": 4})
    assert (cut.response, cut.done_reason) == ("Once upon a time", "length")
    likely = client.chat(NAME, messages=asked, logprobs=True, top_logprobs=2, options={"num_predict": 2}).logprobs
    assert likely is not None
    assert [(each.token, len(each.top_logprobs or ())) for each in likely] == [("Once", 2), (" upon", 2)]
    alone = client.generate(NAME, prompt="?", raw=True, logprobs=True, stream=True, options={"num_predict": 2})
    told = [each for piece in alone for each in piece.logprobs or ()]
    assert [(each.token, each.top_logprobs) for each in told] == [("Once", None), (" upon", None)]
    assert [model.model for model in client.ps().models] == [NAME]
    with pytest.raises(ollama.ResponseError) as used:
        client.delete(NAME)
    assert used.value.status_code == 409
    for _ in range(2):  # it is out of the memory when that is said, and the next question loads it
        assert client.generate(NAME, prompt="", keep_alive=0).done_reason == "unload"
        assert client.ps().models == []
        again = client.chat(NAME, messages=asked, keep_alive=-1, options={"num_predict": 1})
        assert again.message.content == "Once"
    (running,) = client.ps().models
    assert running.expires_at is not None
    assert running.expires_at.year > datetime.now(UTC).year + 100  # it stays
    fleet.end_workers()
    assert client.delete("hf.co/ORG/Model").status == "success"
    assert NAME not in {model.model for model in client.list().models}


def test_a_name_without_a_tag_means_what_a_pull_of_it_brings(client: ollama.Client) -> None:
    for name in ("hf.co/org/two", "hf.co/org/two:Q8_0", "hf.co/org/two:Q2_K"):
        client.pull(name)

    def means(name: str) -> str | None:
        details = client.show(name).details
        assert details is not None
        return details.quantization_level

    assert (means("org/two"), means("hf.co/ORG/two:latest")) == ("Q4_K_M", "Q4_K_M")
    client.delete("hf.co/org/two:Q4_K_M")
    assert means("org/two") in ("Q8_0", "Q2_K")


def test_texts_become_vectors_and_a_model_for_text_says_that_it_makes_none(client: ollama.Client, fleet: Fleet) -> None:
    assert client.pull("hf.co/org/vectors").status == "success"
    both = client.embed("hf.co/org/vectors", ["one", "two"], keep_alive="1h")
    assert len(both.embeddings) == 2
    assert both.prompt_eval_count
    alone = client.embed("hf.co/org/vectors", "one").embeddings[0]
    assert alone == pytest.approx(both.embeddings[0], abs=1e-3)
    assert client.embeddings("hf.co/org/vectors", "one").embedding == pytest.approx(alone, abs=1e-3)
    short = client.embed("hf.co/org/vectors", "one", dimensions=2).embeddings[0]
    assert short == pytest.approx([number / math.hypot(*alone[:2]) for number in alone[:2]], abs=1e-3)
    with pytest.raises(ollama.ResponseError) as long:
        client.embed("hf.co/org/vectors", "x" * 20_000)
    assert long.value.status_code == 400
    assert client.embed("hf.co/org/vectors", []).embeddings == []
    assert client.embed("hf.co/org/vectors", "").embeddings == []
    with pytest.raises(ollama.ResponseError, match="an empty text, at place 1"):
        client.embed("hf.co/org/vectors", ["one", "", "two"])
    (running,) = client.ps().models
    assert running.expires_at is not None
    assert (running.expires_at - datetime.now(UTC)).total_seconds() > 3_000  # as long as who loaded it has said
    with pytest.raises(ollama.ResponseError, match="no text"):
        client.chat("hf.co/org/vectors", messages=[{"role": "user", "content": "?"}])
    fleet.end_workers()
    assert client.delete("hf.co/org/vectors").status == "success"


def test_a_model_of_ollamas_own_registry_has_its_own_name(client: ollama.Client, fleet: Fleet) -> None:
    assert list(client.pull("tiny:1b", stream=True))[-1].status == "success"
    assert "tiny:1b" in {model.model for model in client.list().models}
    answer = client.chat("tiny:1b", messages=[{"role": "user", "content": "?"}], options={"num_predict": 4})
    assert answer.message.content == "Once upon a time"
    assert client.generate("registry.ollama.ai/library/tiny:1b", prompt="", keep_alive=0).done_reason == "unload"
    fleet.end_workers()
    assert client.delete("Tiny:1b").status == "success"


@pytest.fixture(scope="module")
def webui() -> Iterator[OpenWebui]:
    with stopping(OpenWebui()) as made:
        yield made
    assert "Connection error" not in made.output, made.output  # so it says where it cannot read an answer


@pytest.fixture(scope="module")
def locked_door(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server with keys before the same store and workers, and a key of it."""
    env = fleet.env | {"HIVE_API_KEYS_FILE": str(tmp_path_factory.mktemp("k") / "keys.json")}
    key = new_key(Settings.from_env(env), "webui", "read", "pull", "run", "admin")
    with stopping(Server(env)) as server:
        server.wait_until_ready()
        yield server.url, key
    assert "Traceback" not in server.output, server.output


def test_what_is_called_open_webui_here_is_its_wheel_s_byte_for_byte(webui: OpenWebui) -> None:
    assert open_webui.changed() == set()


@pytest.mark.parametrize("has_keys", [False, True], ids=["without a key", "with a key"])
def test_open_webui_pulls_lists_shows_asks_unloads_and_deletes(
    webui: OpenWebui, fleet: Fleet, locked_door: tuple[str, str], has_keys: bool
) -> None:
    """What its page does, by its own code: no request here is ours."""
    url, key = locked_door if has_keys else (fleet.url, None)
    webui.connect(url, key)
    assert webui.good("POST", "/verify", {"url": url, "key": key})["version"]
    assert [int(part) for part in webui.good("GET", "/api/version")["version"].split(".")] >= [0, 1, 0]
    pulled = webui.stream("/api/pull", {"name": "hf.co/org/large"})  # its bar: completed of total, by digest
    assert pulled[0]["status"] == "pulling manifest"
    assert pulled[-1] == {"status": "success"}
    assert all(line["completed"] <= line["total"] == 40 * MIB + 2 for line in pulled if "digest" in line)
    for name in (NAME, VECTORS):
        assert webui.stream("/api/pull", {"name": name})[-1] == {"status": "success"}
    listed = {model["model"]: model for model in webui.good("GET", "/api/tags")["models"]}
    assert listed[NAME]["urls"] == [0]
    assert {"name", "size", "modified_at", "digest", "details"} <= listed[NAME].keys()
    assert webui.good("GET", "/api/ps") == {"models": []}
    assert "completion" in webui.good("POST", "/api/show", {"model": NAME})["capabilities"]
    messages = [{"role": "user", "content": "?"}]
    asked = {"model": NAME, "messages": messages, "options": {"num_predict": 4, "temperature": 0.5}, "metadata": {}}
    said = webui.stream("/api/chat", {**asked, "stream": True})
    assert "".join(each["message"]["content"] for each in said) == "Once upon a time"
    assert (said[-1]["done"], said[-1]["done_reason"]) == (True, "length")
    whole = webui.good("POST", "/api/chat", {**asked, "stream": False})
    assert whole["message"]["content"] == "Once upon a time"
    assert webui.stream("/api/generate", {"model": NAME, "prompt": "?", "raw": True})[-1]["done"]
    assert chat_at_its_page(webui, messages) == RECITED
    assert webui.good("GET", "/api/ps")["models"][0]["model"] == NAME
    shown = {model["model"]: model for model in webui.good("GET", "/api/tags")["models"]}
    assert shown[NAME]["expires_at"] > time.time()
    vectors = webui.good("POST", "/api/embed", {"model": VECTORS, "input": ["one", "two"]})["embeddings"]
    assert len(vectors) == 2
    legacy = webui.good("POST", "/api/embeddings", {"model": VECTORS, "prompt": "one"})["embedding"]
    assert legacy == pytest.approx(vectors[0], abs=1e-3)
    assert webui.refusal("DELETE", "/api/delete", {"model": NAME})[0] == 409
    assert webui.good("POST", "/api/unload", {"model": NAME}) == {"status": True}
    fleet.end_workers()
    for name in (NAME, VECTORS):
        assert webui.good("DELETE", "/api/delete", {"model": name}) is True
    assert not {NAME, VECTORS} & {model["model"] for model in webui.good("GET", "/api/tags")["models"]}


def chat_at_its_page(webui: OpenWebui, messages: list[dict[str, str]]) -> str:
    """What a chat at its page shows; its code turns it from OpenAI's form into Ollama's and back."""
    body = {"model": NAME, "messages": messages, "stream": True, "max_tokens": 100}
    events = webui.call("POST", "/api/chat/completions", body).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] >= len(PIECES)
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_open_webui_shows_what_hive_says_where_a_pull_or_a_key_is_refused(
    webui: OpenWebui, fleet: Fleet, locked_door: tuple[str, str]
) -> None:
    webui.connect(fleet.url)
    told = webui.stream("/api/pull", {"name": "hf.co/org/none"})  # its page looks for `error` in each line
    assert told[-1]["error"].startswith("pull model manifest: file does not exist")
    assert webui.refusal("POST", "/api/copy/0", {"source": NAME, "destination": "x"})[0] == 501
    url, _ = locked_door
    for key, said in ((None, "wants an API key"), (f"hive_{'w' * 40}", "key")):
        webui.connect(url, key)
        status, text = webui.refusal("POST", "/api/pull", {"name": NAME})
        assert (status, said in text, "www" in text) == (401, True, False)
        assert webui.refusal("GET", "/api/tags/0")[0] == 401
    assert said in webui.refusal("POST", "/verify", {"url": url, "key": key})[1]


def test_what_is_not_there_is_said_in_the_words_that_clients_look_for(client: ollama.Client, fleet: Fleet) -> None:
    for name in ("llama3.2", "hf.co/org/none"):
        with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist") as unknown:
            client.pull(name)
        assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist"):
        list(client.pull("hf.co/org/none", stream=True))
    for call in (client.show, client.delete, client.generate):
        with pytest.raises(ollama.ResponseError, match=r"model 'llama3\.2' not found") as missing:
            call("llama3.2")
        assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as other:
        client.copy("a", "b")
    assert other.value.status_code == 501
    assert requests.head(fleet.url, timeout=60).status_code < 400
    assert "Ollama is running" in requests.get(fleet.url, timeout=60).text
    assert fleet.get("/api/version").json() == {"version": "0.13.5"}
    image = base64.b64encode(b"no picture").decode()
    odd: list[object] = [
        *(None, [], "x", 1, {}, {"model": 5}, {"model": "hf.co/../.."}, {"model": "x" * 5_000}),
        {"model": "hf.co/org/large", "prompt": "?"},
        {"model": "hf.co/org/large", "messages": [{"role": "user", "images": [image]}]},
        {"model": "file:///etc/passwd"},
        {"model": "http://127.0.0.1/a.gguf"},
    ]
    for path in ("/api/show", "/api/pull", "/api/generate", "/api/chat"):
        for body in odd if path != "/api/pull" else odd[:-4] + odd[-2:]:
            answer = fleet.post(path, body)
            assert answer.status_code in (200, 400, 404), (path, body, answer.text)
            assert answer.status_code == 200 or isinstance(json.loads(answer.text)["error"], str)


def test_a_store_and_a_log_hold_no_token_of_a_pull(fleet: Fleet, tmp_path: Path) -> None:
    token = "hf_" + "z" * 20
    fleet.post("/api/pull", {"model": "hf.co/org/model:Q4_K_M", "stream": False}, headers={"x-hf-token": token})
    for process in (*fleet.servers, fleet.pool):
        assert process is not None
        assert token not in process.output
