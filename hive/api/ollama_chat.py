"""Ollama's `/api/generate` and `/api/chat`: a model in memory, asked in OpenAI's words, its answer in Ollama's.

A model that is on the disk and not in memory is loaded first, as Ollama does; one that is not on the disk is not
fetched (HIVE_AUTOLOAD says otherwise for OpenAI's forms).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from hive import errors, serving_errors
from hive.api.disconnect import while_connected
from hive.api.downloads import read_spec
from hive.api.json import JsonResponse
from hive.api.ollama import find
from hive.api.ollama_lines import NdjsonResponse, line
from hive.api.passing import MAX_WHOLE_BYTES, read_whole
from hive.api.services import Services, services_of
from hive.auth.principal import Principal, principal_of
from hive.doors.ollama_messages import Answer, AnswerPiece, Asked, engine_request, idle_seconds, nothing_asked
from hive.wire.api import HUB_TOKEN_HEADER, Model, PlanRequest

if TYPE_CHECKING:
    from hive.serving.record import LlmRecord

#: Bytes of the engine's that wait for a client before the engine waits too.
HIGH_WATER_BYTES: Final = 65_536
#: Seconds that a model which is to leave the memory is waited for, and between two looks.
UNLOAD_WAIT_S: Final = 10.0
UNLOAD_LOOK_S: Final = 0.05


async def generate(request: Request) -> Response:
    """`POST /api/generate`: a prompt to a model."""
    return await _answer(request, is_chat=False)


async def chat(request: Request) -> Response:
    """`POST /api/chat`: a conversation with a model."""
    return await _answer(request, is_chat=True)


async def _answer(request: Request, *, is_chat: bool) -> Response:
    try:
        asked = msgspec.json.decode(await read_whole(request.scope, request.receive), type=Asked)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BadRequest(f"The request body is not what this address takes: {error}.") from None
    name = asked.model or asked.name
    model = await find(request, name)
    services = services_of(request)
    is_empty = not asked.messages if is_chat else not asked.prompt
    if is_empty and asked.unloads:
        await while_connected(request, _unload(services, model))
        return JsonResponse(nothing_asked(name, "unload", is_chat=is_chat))
    if is_empty:
        services.serving.service.forget()  # what is told is that it is in memory now
        await while_connected(request, serving_records(request, model, asked.keep_alive))
        return JsonResponse(nothing_asked(name, "load", is_chat=is_chat))
    try:
        path, body = engine_request(asked, model.id, is_chat=is_chat)
    except ValueError as error:
        raise errors.BadRequest(f"The request cannot be answered: {error}.") from None
    engine = await while_connected(request, ask_model(request, model, asked.keep_alive, path, body))
    answer = Answer(name, is_chat=is_chat, top_logprobs=asked.top_logprobs or 0)
    lines = _lines(services, engine, answer, streams=asked.stream is not False)
    if asked.stream is not False:
        return NdjsonResponse(lines, lambda: close_answer(services, engine))
    return await while_connected(request, _only(lines))


async def _only(lines: AsyncGenerator[bytes, None]) -> Response:
    async with contextlib.aclosing(lines):
        async for each in lines:
            return Response(each, media_type="application/json")
    raise serving_errors.InferenceFailed


async def serving_records(request: Request, model: Model, keep_alive: str | float | None) -> list[LlmRecord]:
    """The workers that have the model in memory; loaded now where none has, and then for as long as `keep_alive` says
    from its last use. Raises HiveError.
    """
    from hive.serving.service import LoadRequest

    services, idle_s = services_of(request), idle_seconds(keep_alive)
    principal, token = principal_of(request), request.headers.get(HUB_TOKEN_HEADER) or None

    async def may_use(path: str) -> bool:
        return await services.access.may_use(path, principal, token)

    service, settings, ref = services.serving.service, services.settings, f"hf:{model.id}"
    with contextlib.suppress(serving_errors.ModelNotLoaded):
        return await service.serving(ref, may_use)
    services.rates.admit_ask(request)
    spec = read_spec(PlanRequest(model_ref=ref), settings, principal)
    path = "" if await services.downloads.on_disk(spec) is not None else model.path
    if idle_s is None:
        idle_s = settings.llm_idle_s
    wanted = LoadRequest(ref, "cpu", 0, settings.llm_context, settings.llm_slots, idle_s, path=path)
    await service.spawn(wanted, None if path else spec)
    return await service.serving(ref, may_use)


async def _unload(services: Services, model: Model) -> None:
    """End the workers that have the model, and wait until they have ended: whoever loads it next needs the memory."""
    service, until_s = services.serving.service, time.monotonic() + UNLOAD_WAIT_S
    mine = {record.id for record in await service.workers() if record.is_of(f"hf:{model.id}")}
    for worker_id in mine:
        with contextlib.suppress(errors.LlmWorkerNotFound):
            await service.stop(worker_id)
    while mine and time.monotonic() < until_s:
        await asyncio.sleep(UNLOAD_LOOK_S)
        mine &= {record.id for record in await service.workers()}


class EngineAnswer:
    """An engine's stream as it comes, for one reader, who slows the engine where it is slow."""

    def __init__(self, principal: Principal) -> None:
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.principal = principal
        self.status = 0
        self.is_over = self.is_cut = self.is_revoked = False
        self.stop: Callable[[], None] = lambda: None
        self.task: asyncio.Task[None] | None = None
        #: What its key or address has of all answers.
        self.share = contextlib.ExitStack()
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._changed = asyncio.Event()

    @property
    def paused(self) -> bool:
        """Whether enough waits for the reader."""
        return self._waiting_bytes > HIGH_WATER_BYTES

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The engine answers."""
        self.status = status
        self._changed.set()

    def write(self, data: bytes) -> None:
        """A piece."""
        self._pieces.append(data)
        self._waiting_bytes += len(data)
        self._changed.set()

    def end(self) -> None:
        """All of it."""
        self.is_over = True
        self._changed.set()

    def cut(self) -> None:
        """Something is missing."""
        self.is_over = self.is_cut = True
        self._changed.set()

    def close(self, retry_ms: int) -> None:
        """Its key counts no more."""
        self.is_revoked = True
        self.stop()

    async def begun(self) -> None:
        """Return when there is a status, or there will be none."""
        while not self.status and not (self.task is None or self.task.done()):
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait((changed, self.task), return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes, to the end. Raises InvalidApiKey, InferenceFailed."""
        while True:
            while self._pieces:
                data = self._pieces.popleft()
                self._waiting_bytes -= len(data)
                if not self.paused and self.on_writable is not None:
                    self.on_writable()
                yield data
            if self.is_revoked:
                raise errors.InvalidApiKey
            if self.is_over:
                break
            self._changed.clear()
            await self._changed.wait()
        if self.is_cut:
            raise serving_errors.InferenceFailed("The worker went away in the middle of its answer.")


async def ask_model(
    request: Request, model: Model, keep_alive: str | float | None, path: str, body: bytes
) -> EngineAnswer:
    """The answer of a worker that has the model in memory, once it has begun; it is loaded where none has. A worker
    that was there a moment ago may be gone: nothing was sent yet, so another is looked for once more. Raises HiveError.
    """
    records = await serving_records(request, model, keep_alive)
    if (answer := await _ask_engine(request, records, path, body, is_last=False)) is None:
        records = await serving_records(request, model, keep_alive)
        answer = await _ask_engine(request, records, path, body, is_last=True)
    assert answer is not None
    return answer


async def _ask_engine(
    request: Request, records: list[LlmRecord], path: str, body: bytes, *, is_last: bool
) -> EngineAnswer | None:
    """The answer of the first worker that has a free slot, once it has begun; None where none of them is there, unless
    `is_last`. Raises HiveError.
    """
    from hive.serving.relay import Relay

    services = services_of(request)
    service = services.serving.service
    for number, record in enumerate(records):
        answer = EngineAnswer(principal_of(request))
        answer.share.enter_context(services.serving.shares.holding(request))
        relay = Relay(answer, service.kept)
        answer.stop = relay.stop
        headers = ((b"content-type", b"application/json"), *service.headers(record))
        answer.task = asyncio.create_task(relay.run(service.target(record), "POST", path, headers, body))
        services.serving.answers.add(answer)
        try:
            await answer.begun()
            if answer.status == 200:
                return answer
            said = b""
            with contextlib.suppress(errors.HiveError):
                async for data in answer.pieces() if answer.status else _none():
                    said = (said + data)[:MAX_WHOLE_BYTES]
        except BaseException:
            await close_answer(services, answer)
            raise
        await close_answer(services, answer)
        if answer.status == 503 and number < len(records) - 1:
            continue
        if not answer.status and number == len(records) - 1:
            service.forget()
            if not is_last:
                return None
            raise serving_errors.InferenceFailed(f"The worker does not answer: {relay.failure}.")
        if answer.status:
            raise _refused(answer.status, said)
    raise serving_errors.ModelNotLoaded


async def _none() -> AsyncGenerator[bytes, None]:
    return
    yield b""


def _refused(status: int, said: bytes) -> errors.HiveError:
    """The error that a worker, or its engine, answers with."""
    from hive.error_codes import from_code

    try:
        error: Any = msgspec.json.decode(said)["error"]
        message, code = str(error["message"]), str(error.get("code", ""))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        message, code = "The model refuses the request.", ""
    if status == 400 and not code.isupper():
        return errors.BadRequest(message)
    return from_code(code if code.isupper() else "INFERENCE_FAILED", message, {})


async def close_answer(services: Services, answer: EngineAnswer) -> None:
    """Let go of the engine, which ends what nobody reads."""
    services.serving.answers.discard(answer)
    answer.share.close()
    answer.stop()
    if answer.task is not None:
        answer.task.cancel()
        await asyncio.gather(answer.task, return_exceptions=True)


async def _lines(
    services: Services, engine: EngineAnswer, answer: Answer, *, streams: bool
) -> AsyncGenerator[bytes, None]:
    """The lines of an answer, or its only one. Raises HiveError."""
    began_s, whole, size = time.monotonic(), list[AnswerPiece](), 0
    try:
        async with contextlib.aclosing(engine.pieces()) as pieces:
            async for data in pieces:
                try:
                    texts = answer.texts(data)
                except (ValueError, TypeError, AttributeError):
                    raise serving_errors.InferenceFailed("The engine's answer cannot be read.") from None
                for piece in texts:
                    if streams:
                        yield line(answer.line(piece))
                    elif (size := size + len(piece.text) + len(piece.thinking)) <= MAX_WHOLE_BYTES:
                        whole.append(piece)
                    else:
                        raise serving_errors.InferenceFailed("The answer is too long. Ask for a stream.")
        if answer.error:
            raise serving_errors.InferenceFailed(answer.error)
        if streams and (calls := answer.calls()):
            yield line(calls)
        yield line(answer.end(whole, time.monotonic() - began_s, with_calls=not streams))
    finally:
        await close_answer(services, engine)
