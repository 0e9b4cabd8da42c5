"""Ollama's words as an engine's, and an engine's answers as Ollama's."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from hive.api.ollama_lines import NdjsonResponse
from hive.doors.ollama_messages import MAX_IDLE_S, Answer, AnswerPiece, Asked, engine_request, idle_seconds


def said(**fields: Any) -> dict[str, Any]:
    """The body for the engine."""
    asked = Asked(messages=({"role": "user", "content": "?"},), **fields)
    body: dict[str, Any] = json.loads(engine_request(asked, "org/name", is_chat=True)[1])
    return body


def test_what_changes_an_answer_goes_on_in_the_engines_words() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert said(format=schema)["response_format"]["json_schema"]["schema"] == schema
    assert said(format="json")["response_format"] == {"type": "json_object"}
    assert "response_format" not in said(format="")
    assert said(think=False)["chat_template_kwargs"] == {"enable_thinking": False}
    assert said(think="low")["chat_template_kwargs"] == {"enable_thinking": True, "reasoning_effort": "low"}
    raw = engine_request(Asked(prompt="a", raw=True, format=schema), "org/name", is_chat=False)
    assert json.loads(raw[1])["json_schema"] == schema
    options = said(options={"num_predict": -1, "num_ctx": 9, "top_k": 3, "stop": ["a"]})
    assert (options["top_k"], options["stop"], "max_tokens" in options) == (3, ["a"], False)
    for refused in (Asked(prompt="a", suffix="b"), Asked(prompt="a", images=("x",))):
        with pytest.raises(ValueError, match="not taken here"):
            engine_request(refused, "org/name", is_chat=False)


def test_thoughts_and_calls_of_tools_are_told_apart_from_text() -> None:
    answer = Answer("m", is_chat=True)
    call = {"index": 0, "function": {"name": "add", "arguments": '{"a":'}}
    rest = {"index": 0, "function": {"arguments": " 1}"}}
    deltas = [{"reasoning_content": "Hm."}, {"content": "Yes."}, {"tool_calls": [call]}, {"tool_calls": [rest]}]
    stream = b"".join(b"data: %b\n\n" % json.dumps({"choices": [{"delta": delta}]}).encode() for delta in deltas)
    pieces = answer.texts(stream[:70]) + answer.texts(stream[70:])
    assert pieces == [AnswerPiece("", "Hm."), AnswerPiece("Yes.")]
    assert answer.line(pieces[0])["message"] == {"role": "assistant", "content": "", "thinking": "Hm."}
    called = {"function": {"name": "add", "arguments": {"a": 1}}}
    line = answer.calls()
    assert line is not None
    assert (line["message"]["tool_calls"], line["done"]) == ([called], False)
    assert "tool_calls" not in answer.end([], 1.0)["message"]
    whole = answer.end(pieces, 1.0, with_calls=True)["message"]
    assert whole == {"role": "assistant", "content": "Yes.", "thinking": "Hm.", "tool_calls": [called]}


@pytest.mark.parametrize("choice", [1, {"delta": [1]}, {"delta": {"tool_calls": [1]}}])
def test_an_event_that_is_none_of_an_engine_is_named(choice: object) -> None:
    with pytest.raises(ValueError, match="other fields"):
        Answer("m", is_chat=True).texts(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        *(("5m", 300.0), ("1h30m", 5400.0), (90, 90.0), ("90", 90.0), (-1, 0.0), ("-1m", 0.0), (1e12, MAX_IDLE_S)),
        *((None, None), ("", None), ("soon", None), (0, None), ("0s", None), ("5m5", None), ("9" * 3000 + "m", None)),
    ],
)
def test_how_long_a_model_stays_is_read_as_go_writes_it(written: str | float | None, seconds: float | None) -> None:
    assert idle_seconds(written) == seconds


@pytest.mark.anyio
async def test_what_an_answer_holds_is_let_go_of_also_where_the_client_has_gone_before_its_first_line() -> None:
    ends: list[str] = []

    async def lines() -> AsyncGenerator[bytes, None]:
        ends.append("begun")
        yield b"{}\n"

    async def at_end() -> None:
        ends.append("let go")

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise OSError("nobody is there")

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    with pytest.raises(ClientDisconnect):
        await NdjsonResponse(lines(), at_end)(scope, gone, send)
    assert ends == ["let go"]
