"""The unmodified client of OpenAI against hive: chat, completions, streams, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import requests

from tests.support.engine_standin import write_standin
from tests.support.llm import RECITED, Fleet, RawStream

MODEL = "hf:org/model:Q4_K_M"
INVALID = "invalid_request_error"


@pytest.fixture
def client(fleet: Fleet) -> Iterator[openai.OpenAI]:
    fleet.load(MODEL)
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="-", max_retries=0, timeout=60) as made:
        yield made


def test_chat_and_completions_are_answered_whole_and_as_streams(client: openai.OpenAI) -> None:
    asked: list[openai.types.chat.ChatCompletionUserMessageParam] = [{"role": "user", "content": "?"}]
    whole = client.chat.completions.create(model=MODEL, messages=asked, max_tokens=100)
    assert whole.choices[0].message.content == RECITED
    assert whole.model == MODEL.removeprefix("hf:")
    pieces = client.chat.completions.create(model=MODEL, messages=asked, max_tokens=100, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == RECITED
    text = client.completions.create(model="org/model:Q4_K_M", prompt="?", max_tokens=4)
    assert text.choices[0].text == "Once upon a time"
    assert text.choices[0].finish_reason == "length"
    texts = client.completions.create(model=MODEL, prompt="?", max_tokens=4, stream=True)
    assert "".join(piece.choices[0].text for piece in texts) == "Once upon a time"


def test_the_models_on_disk_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["org/model:Q4_K_M"]
    assert client.models.retrieve("org/model:Q4_K_M").id == "org/model:Q4_K_M"  # as org%2Fmodel:Q4_K_M
    plain = requests.get(f"{client.base_url}models/org/model:Q4_K_M", timeout=60)
    encoded = requests.get(f"{client.base_url}models/org%2Fmodel%3AQ4_K_M", timeout=60)
    assert plain.json() == encoded.json()
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("org/none")
    assert (caught.value.code, caught.value.type, caught.value.param) == ("MODEL_NOT_ON_DISK", INVALID, None)


def test_an_error_is_one_of_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="org/none", messages=[{"role": "user", "content": "?"}])
    assert caught.value.status_code == 503
    assert (caught.value.code, caught.value.type) == ("MODEL_NOT_LOADED", "server_error")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.post("/completions", body=[1], cast_to=object)
    assert (wrong.value.code, wrong.value.type, wrong.value.param) == ("INVALID_REQUEST", INVALID, None)


def test_a_stream_that_is_closed_frees_the_slot(client: openai.OpenAI, fleet: Fleet) -> None:
    asked: list[openai.types.chat.ChatCompletionUserMessageParam] = [{"role": "user", "content": "?"}]
    for _ in range(3):  # with one slot, the second would be refused otherwise
        stream = client.chat.completions.create(model=MODEL, messages=asked, max_tokens=100, stream=True)
        next(iter(stream))
        stream.close()
        again = client.with_options(max_retries=5).chat.completions.create(model=MODEL, messages=asked, max_tokens=2)
        assert again.choices[0].message.content == "Once upon"


def test_the_head_of_a_stream_does_not_wait_for_its_first_token(env: dict[str, str], tmp_path: Path) -> None:
    standin = write_standin(tmp_path / "engine", silent_after_tokens=0)
    fleet = Fleet({**env, "HIVE_LLAMA_SERVER": str(standin), "HIVE_LLM_SLOTS": "2"})
    try:
        spawned = fleet.load(MODEL)
        for url in (spawned["url"], fleet.url):
            asked = {"model": MODEL, "messages": [{"role": "user", "content": "?"}], "stream": True}
            stream = RawStream(url, "/v1/chat/completions", asked)
            assert stream.status == 200
            stream.close()
    finally:
        fleet.stop()
    fleet.check()
