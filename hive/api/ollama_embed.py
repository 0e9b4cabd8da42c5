"""Ollama's `/api/embed` and `/api/embeddings`: vectors of texts, by a model in memory that makes them.

Both are asked of the engine as OpenAI's `/v1/embeddings`. A model that makes text refuses, in the worker's words.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from hive import errors, serving_errors
from hive.api.disconnect import while_connected
from hive.api.json import JsonResponse
from hive.api.ollama import find
from hive.api.ollama_chat import ask_model, close_answer, serving_records
from hive.api.passing import MAX_WHOLE_BYTES, read_whole
from hive.wire.api import Model


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Both bodies, as far as they count: `embed` has `input`, the older `embeddings` one `prompt`."""

    model: str = ""
    name: str = ""
    input: str | list[str] = ""
    prompt: str = ""
    keep_alive: str | float | None = None
    dimensions: int | None = None


class _Vector(msgspec.Struct, frozen=True):
    embedding: list[float]
    index: int = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Vector]
    usage: _Usage = _Usage()


async def embed(request: Request) -> Response:
    """`POST /api/embed`: a vector for each of several texts."""
    asked, model = await _read(request)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    began_s = time.monotonic()
    found = await _vectors(request, asked, model, texts if any(texts) else [])
    return JsonResponse(
        {
            "model": asked.model or asked.name,
            "embeddings": [
                _shortened(vector.embedding, asked.dimensions)
                for vector in sorted(found.data, key=lambda each: each.index)
            ],
            "total_duration": round((time.monotonic() - began_s) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": found.usage.prompt_tokens,
        }
    )


def _shortened(vector: list[float], dimensions: int | None) -> list[float]:
    """The first so many numbers, of length 1 again, as Ollama does it; all where no fewer are asked for."""
    if dimensions is None or not 0 < dimensions < len(vector):
        return vector
    length = math.hypot(*vector[:dimensions]) or 1.0
    return [number / length for number in vector[:dimensions]]


async def embeddings(request: Request) -> Response:
    """`POST /api/embeddings`: the vector of one text."""
    asked, model = await _read(request)
    found = await _vectors(request, asked, model, [asked.prompt] if asked.prompt else [])
    return JsonResponse({"embedding": found.data[0].embedding if found.data else []})


async def _read(request: Request) -> tuple[_Asked, Model]:
    try:
        asked = msgspec.json.decode(await read_whole(request.scope, request.receive), type=_Asked)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BadRequest(f"The request body is not what this address takes: {error}.") from None
    if isinstance(asked.input, list) and "" in asked.input:
        # Left out, it would give each text behind it the vector of another.
        raise errors.BadRequest(f"'input' has an empty text, at place {asked.input.index('')}.")
    return asked, await find(request, asked.model or asked.name)


async def _vectors(request: Request, asked: _Asked, model: Model, texts: list[str]) -> _Answer:
    """The engine's answer; of no texts none, and the model is loaded. Raises HiveError."""
    if not texts:
        await while_connected(request, serving_records(request, model, asked.keep_alive))
        return _Answer([])
    body: dict[str, Any] = {"model": asked.model or asked.name, "input": texts}
    return await while_connected(request, _whole(request, model, asked.keep_alive, msgspec.json.encode(body)))


async def _whole(request: Request, model: Model, keep_alive: str | float | None, body: bytes) -> _Answer:
    from hive.api.services import services_of

    services, said = services_of(request), bytearray()
    engine = await ask_model(request, model, keep_alive, "/v1/embeddings", body)
    try:
        async with contextlib.aclosing(engine.pieces()) as pieces:
            async for data in pieces:
                said += data
                if len(said) > MAX_WHOLE_BYTES:
                    raise serving_errors.InferenceFailed("The answer is too long. Ask for fewer texts at once.")
        return msgspec.json.decode(said, type=_Answer)
    except msgspec.DecodeError:
        raise serving_errors.InferenceFailed("The engine's answer cannot be read.") from None
    finally:
        await close_answer(services, engine)
