"""The body of `POST /v1/inference`, read by hand so that all its faults are told at once.

A decoder stops at the first fault, and who writes a client would learn of the next one with the next try. Fields that
are not known are passed over: the clients of the system that hive replaces send some.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hive.errors import BadRequest, InvalidFields
from hive.wire.api import MAX_ID_CHARS
from hive.wire.llm import (
    DEFAULT_TEMPERATURE,
    DEFAULT_TOKENS,
    MAX_PROMPT_CHARS,
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MAX_STOP_CHARS,
    MAX_STOPS,
    MAX_TEMPERATURE,
    MAX_TOKENS,
    MAX_TOP_K,
)

#: Characters of a wrong value that its fault shows: a prompt is shown to nobody.
MAX_SHOWN_CHARS: Final = 64

_JOB_ID: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_ID_CHARS}}}", re.ASCII)


class InferenceRequest(NamedTuple):
    """What is asked of the model; None where the engine's own default counts."""

    prompt: str
    job_id: str | None = None
    model: str | None = None
    max_tokens: int = DEFAULT_TOKENS
    temperature: float = DEFAULT_TEMPERATURE
    stream: bool = True
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def for_engine(self) -> dict[str, Any]:
        """The same in the words of llama.cpp's server. What is to come out the same each time must not go by what an
        earlier prompt left in the cache: the sums of another batch differ in their last digits.
        """
        found: dict[str, Any] = {
            "prompt": self.prompt,
            "n_predict": self.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "cache_prompt": self.seed is None and self.temperature > 0,
        }
        more: dict[str, Any] = {"top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p, "seed": self.seed}
        more |= {"repeat_penalty": self.repetition_penalty, "stop": list(self.stop) or None}
        return {**found, **{name: value for name, value in more.items() if value is not None}}


def read_inference(body: bytes) -> InferenceRequest:
    """The request in this body.

    Raises:
        BadRequest: it is no JSON object.
        InvalidFields: with every fault.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The request body is not valid JSON.") from None
    if not isinstance(given, dict):
        raise BadRequest("The request body is not a JSON object.")
    faults: list[dict[str, Any]] = []
    values: dict[str, Any] = {}
    for name, (check, constraint) in _FIELDS.items():
        if name not in given or (given[name] is None and name != "prompt"):
            continue
        if check(given[name]):
            values[name] = given[name]
        else:
            faults.append(_fault(name, constraint, given[name]))
    if "prompt" not in given:
        faults.insert(0, _fault("prompt", _FIELDS["prompt"][1], None))
    if faults:
        raise InvalidFields(faults=faults)
    stop = values.get("stop", ())
    values["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return InferenceRequest(**values)


def _fault(name: str, constraint: str, value: Any) -> dict[str, Any]:
    shown = value if isinstance(value, int | float | bool) or value is None else type(value).__name__
    if name not in ("prompt", "stop") and isinstance(value, str):
        shown = value[:MAX_SHOWN_CHARS]
    if isinstance(shown, float) and (shown != shown or shown in (float("inf"), float("-inf"))):
        shown = str(shown)
    if isinstance(shown, int) and abs(shown) > 1 << 63:
        shown = "a number of many digits"
    return {"field": name, "constraint": constraint, "message": f"'{name}' must be {constraint}.", "value": shown}


def _is_int(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_text(most: int) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if not isinstance(value, str) or not 1 <= len(value) <= most:
            return False
        return not any("\ud800" <= char <= "\udfff" for char in value)  # half of a pair: no UTF-8 has it

    return check


def _is_stop(value: Any) -> bool:
    check = _is_text(MAX_STOP_CHARS)
    return check(value) or (isinstance(value, list) and len(value) <= MAX_STOPS and all(map(check, value)))


_FIELDS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "prompt": (_is_text(MAX_PROMPT_CHARS), f"a text of 1 to {MAX_PROMPT_CHARS} characters"),
    "job_id": (
        lambda value: isinstance(value, str) and bool(_JOB_ID.fullmatch(value)),
        f"1 to {MAX_ID_CHARS} letters, digits, dots, colons, dashes and underscores",
    ),
    "model": (_is_text(1024), "the name of a model"),
    "max_tokens": (_is_int(1, MAX_TOKENS), f"a whole number from 1 to {MAX_TOKENS}"),
    "temperature": (_is_number(0, MAX_TEMPERATURE), f"a number from 0 to {MAX_TEMPERATURE:g}"),
    "stream": (lambda value: isinstance(value, bool), "true or false"),
    "top_p": (_is_number(0, 1), "a number from 0 to 1"),
    "top_k": (_is_int(0, MAX_TOP_K), f"a whole number from 0 to {MAX_TOP_K}"),
    "min_p": (_is_number(0, 1), "a number from 0 to 1"),
    "repetition_penalty": (_is_number(0, MAX_REPETITION_PENALTY), f"a number from 0 to {MAX_REPETITION_PENALTY:g}"),
    "stop": (_is_stop, f"at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters"),
    "seed": (_is_int(0, MAX_SEED), f"a whole number from 0 to {MAX_SEED}"),
}
