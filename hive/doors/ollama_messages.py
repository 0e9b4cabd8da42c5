"""Ollama's requests to models as OpenAI's, which engines read, and their answers back, piece by piece.

A translation of words and nothing else: which worker is asked, and how bytes come from it, is hive/serving's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

#: What the options are called by Ollama, and by the engine.
OPTIONS: Final = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "seed", "stop", "repeat_penalty")},
    **{name: name for name in ("presence_penalty", "frequency_penalty")},
    "num_predict": "max_tokens",
}
#: The longest event that is put together, in bytes.
MAX_EVENT_BYTES: Final = 1 << 20
#: What is said of a picture: models are loaded for text.
NO_IMAGES: Final = "images are not taken here: models are loaded without their projector"
#: Tokens that are told beside each, at most.
MAX_TOP_LOGPROBS: Final = 20
#: Calls of tools in one answer.
MAX_TOOL_CALLS: Final = 128
#: Seconds of a unit of `keep_alive`, which Go writes such as `1h30m`.
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
#: Characters of the longest that is read: to search a million digits for a unit takes hours.
MAX_DURATION_CHARS: Final = 64
#: The longest that is taken, in seconds; what is negative means without an end.
MAX_IDLE_S: Final = 7 * 86_400.0


class AnswerPiece(NamedTuple):
    """A piece of an answer: text, what a model says to itself before, and how likely its tokens were."""

    text: str
    thinking: str = ""
    logprobs: tuple[dict[str, Any], ...] = ()


def idle_seconds(keep_alive: str | float | None) -> float | None:
    """How long a model is to stay in memory after its last use, in seconds; 0 for without an end, None where nothing is
    said of it, or nothing that can be read, or that it is to go at once.
    """
    text = str(keep_alive if keep_alive is not None else "").strip()
    if len(text) > MAX_DURATION_CHARS:
        return None
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    if re.fullmatch(r"\d+(?:\.\d+)?", digits, re.ASCII):
        seconds = float(digits)
    elif digits and _DURATION.sub("", digits) == "":
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(digits))
    else:
        return None
    if sign:
        return 0.0
    return min(seconds, MAX_IDLE_S) or None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `/api/generate` and `/api/chat`, as far as it counts; what else there is is left aside."""

    model: str = ""
    name: str = ""
    prompt: str = ""
    system: str = ""
    raw: bool = False
    stream: bool | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None
    images: tuple[Any, ...] | None = None
    suffix: str | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @property
    def unloads(self) -> bool:
        """Whether the model is to leave the memory."""
        return self.keep_alive is not None and str(self.keep_alive).rstrip("smh") in ("0", "0.0")


def engine_request(asked: Asked, model_id: str, *, is_chat: bool) -> tuple[str, bytes]:
    """The path and the body for the engine. Raises ValueError with a sentence where it cannot be said so."""
    body: dict[str, Any] = {"model": model_id, "stream": True, "stream_options": {"include_usage": True}}
    body |= _options(asked)
    if asked.logprobs:
        if not 0 <= (count := asked.top_logprobs or 0) <= MAX_TOP_LOGPROBS:
            raise ValueError(f"top_logprobs is a number from 0 to {MAX_TOP_LOGPROBS}")
        is_prompt = not is_chat and asked.raw
        body |= {"logprobs": max(count, 1)} if is_prompt else {"logprobs": True, "top_logprobs": max(count, 1)}
    if asked.images:
        raise ValueError(NO_IMAGES)
    if asked.suffix:
        raise ValueError("a text with a gap (suffix) is not taken here")
    if not is_chat and asked.raw:
        if asked.format:  # the engine reads `response_format` in conversations alone
            body["json_schema"] = asked.format if isinstance(asked.format, dict) else {"type": "object"}
        return "/v1/completions", msgspec.json.encode({**body, "prompt": asked.prompt})
    if is_chat:
        body["messages"] = [_message(message) for message in asked.messages or ()]
    else:
        system = [{"role": "system", "content": asked.system}] if asked.system else []
        body["messages"] = [*system, {"role": "user", "content": asked.prompt}]
    if asked.tools:
        body["tools"] = asked.tools
    return "/v1/chat/completions", msgspec.json.encode(body)


def _options(asked: Asked) -> dict[str, Any]:
    """What beside the prompt changes the answer, as the engine calls it."""
    body = {
        OPTIONS[name]: value
        for name, value in (asked.options or {}).items()
        if name in OPTIONS and value is not None and not (name == "num_predict" and value in (-1, -2))
    }
    if asked.format == "json":
        body["response_format"] = {"type": "json_object"}
    elif isinstance(asked.format, dict):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": asked.format}}
    if asked.think is not None:
        effort = {"reasoning_effort": asked.think} if isinstance(asked.think, str) else {}
        body["chat_template_kwargs"] = {"enable_thinking": bool(asked.think), **effort}
    return body


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    if message.get("images"):
        raise ValueError(NO_IMAGES)
    found = {"role": str(message.get("role", "user")), "content": message.get("content") or ""}
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        found["tool_calls"] = [_call(number, call) for number, call in enumerate(calls[:MAX_TOOL_CALLS])]
    if found["role"] == "tool":
        found["tool_call_id"] = str(message.get("tool_call_id") or message.get("tool_name") or "call_0")
    return found


def _call(number: int, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise ValueError("a call of a tool has a function")
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return {"id": f"call_{number}", "type": "function", "function": {"name": function.get("name"), "arguments": text}}


class Answer:
    """An answer on its way: what the engine's events add to it, as Ollama's lines."""

    def __init__(self, model: str, *, is_chat: bool, top_logprobs: int = 0) -> None:
        self._model, self._is_chat, self._top_logprobs = model, is_chat, top_logprobs
        self._rest = b""
        self._calls: dict[int, dict[str, str]] = {}
        self._reason, self._prompt_tokens, self._tokens = "stop", 0, 0
        #: What went wrong in the middle, in the engine's words.
        self.error = ""

    def texts(self, data: bytes) -> list[AnswerPiece]:
        """The pieces in more bytes of the engine's stream. Raises ValueError where they are none of one."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise ValueError("an event without end")
        found = []
        for block in blocks:
            if block.startswith(b"data: ") and block != b"data: [DONE]":
                event = msgspec.json.decode(block[len(b"data: ") :])
                try:
                    piece = self._read(event) if isinstance(event, dict) else AnswerPiece("")
                except (AttributeError, TypeError, OverflowError):
                    raise ValueError("an event with other fields than an engine's") from None
                if any(piece):
                    found.append(piece)
        return found

    def _read(self, event: dict[str, Any]) -> AnswerPiece:
        if isinstance(error := event.get("error"), dict):
            self.error = str(error.get("message", "the engine failed"))
        if isinstance(usage := event.get("usage"), dict):
            self._prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self._tokens = int(usage.get("completion_tokens") or 0)
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        self._reason = choice.get("finish_reason") or self._reason
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        text = str(delta.get("content") or choice.get("text") or "")
        likely = (choice.get("logprobs") or {}).get("content") or ()
        return AnswerPiece(text, str(delta.get("reasoning_content") or ""), tuple(map(self._likely, likely)))

    def _likely(self, token: dict[str, Any]) -> dict[str, Any]:
        """A token as Ollama tells how likely it was."""
        found: dict[str, Any] = {name: token[name] for name in ("token", "logprob", "bytes") if name in token}
        others = [self._likely(other) for other in (token.get("top_logprobs") or ())[: self._top_logprobs]]
        return {**found, **({"top_logprobs": others} if others else {})}

    def _add_call(self, call: dict[str, Any]) -> None:
        index, function = int(call.get("index", 0)), call.get("function") or {}
        if index in self._calls or len(self._calls) < MAX_TOOL_CALLS:
            made = self._calls.setdefault(index, {"name": "", "arguments": ""})
            made["name"] += function.get("name") or ""
            made["arguments"] += function.get("arguments") or ""

    def line(self, piece: AnswerPiece) -> dict[str, Any]:
        """A piece."""
        thinking = {"thinking": piece.thinking} if piece.thinking else {}
        content: dict[str, Any] = {"response": piece.text, **thinking}
        if self._is_chat:
            content = {"message": {"role": "assistant", "content": piece.text, **thinking}}
        likely = {"logprobs": piece.logprobs} if piece.logprobs else {}
        return {"model": self._model, "created_at": now(), **content, **likely, "done": False}

    def calls(self) -> dict[str, Any] | None:
        """The line with the calls of tools, which comes before the last one of a stream; None where there are none."""
        if not self._calls or not self._is_chat:
            return None
        found = self.line(AnswerPiece(""))
        found["message"]["tool_calls"] = [{"function": _function(call)} for call in self._calls.values()]
        return found

    def end(self, pieces: Sequence[AnswerPiece], seconds: float, *, with_calls: bool = False) -> dict[str, Any]:
        """The last line; `pieces` are none after a stream, and all of the answer without one."""
        texts, thoughts, likely = zip(*pieces, strict=True) if pieces else ((), (), ())
        whole = AnswerPiece("".join(texts), "".join(thoughts), tuple(itertools.chain(*likely)))
        found = {**self.line(whole), "done": True, "done_reason": "length" if self._reason == "length" else "stop"}
        if with_calls and (calls := self.calls()) is not None:
            found["message"]["tool_calls"] = calls["message"]["tool_calls"]
        ns = round(seconds * 1e9)
        figures = {"total_duration": ns, "load_duration": 0, "prompt_eval_duration": 0, "eval_duration": ns}
        return {**found, **figures, "prompt_eval_count": self._prompt_tokens, "eval_count": self._tokens}


def _function(call: Mapping[str, str]) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(call["arguments"] or "{}")
    except msgspec.DecodeError:
        arguments = {}
    return {"name": call["name"], "arguments": arguments if isinstance(arguments, dict) else {}}


def nothing_asked(model: str, reason: str, *, is_chat: bool) -> dict[str, Any]:
    """The answer to a request without a prompt: the model was loaded, or unloaded."""
    return {**Answer(model, is_chat=is_chat).line(AnswerPiece("")), "done": True, "done_reason": reason}


def now() -> str:
    """This moment, as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
