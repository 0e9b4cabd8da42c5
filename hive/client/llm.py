"""Models in memory, over the blocking client: load, list and end them, watch one load, talk to one.

with Client() as hive:
    models = ModelsInMemory(hive)
    worker = models.spawn("hf:org/model:Q4_K_M")
    for event in models.loading(worker.worker_id):
        print(event)
    for text in models.chat("hf:org/model:Q4_K_M", [{"role": "user", "content": "Hello"}]):
        print(text, end="")
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any, Final

import httpx2
import msgspec

from hive.client.bodies import JSON, encode_body
from hive.client.calls import Call
from hive.client.client import Client
from hive.client.watch import Watch
from hive.serving_errors import InferenceFailed
from hive.wire.api import LOADING_PATH
from hive.wire.llm import Backend, LlmWorker, LlmWorkers, LoadingEvent, Said, Spawned, SpawnRequest, is_final

#: Seconds that a model may think before its first token: a long prompt on a slow machine.
FIRST_TOKEN_TIMEOUT_S: Final = 600.0
#: What a line of a stream begins with, and its last.
_DATA: Final = "data: "
_DONE: Final = "[DONE]"
_CHAT_PATH: Final = "/v1/chat/completions"
_events: Final[msgspec.json.Decoder[LoadingEvent]] = msgspec.json.Decoder(LoadingEvent)


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _ChatError(msgspec.Struct):
    message: str = ""


class _Chunk(msgspec.Struct):
    choices: tuple[_Choice, ...] = ()
    error: _ChatError | None = None


class ModelsInMemory:
    """What a server's LLM workers can be asked. Errors are those of hive.errors, as with `Client`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def spawn(
        self, model_ref: str, *, backend: Backend = "cpu", context: int | None = None, slots: int | None = None
    ) -> Spawned:
        """Load a model, or join the worker that has it."""
        body = SpawnRequest(model_ref=model_ref, backend=backend, context=context, slots=slots)
        return self._client._call(Call("POST", "/v1/workers/spawn", Spawned, body=body))

    def workers(self) -> Sequence[LlmWorker]:
        """Those that have a model in memory, or are about to."""
        return self._client._call(Call("GET", "/v1/workers/list", LlmWorkers)).workers

    def stop(self, worker_id: str) -> None:
        """End a worker."""
        self._client._call(Call("DELETE", f"/v1/workers/{worker_id}", Said))

    def loading(self, worker_id: str) -> Generator[LoadingEvent, None, None]:
        """The events of its loading, from the present state to the end, over as many connections as it takes."""
        connection = self._client._connection
        watch = Watch(worker_id, connection.patience_s)
        while True:
            failure: Exception | None = None
            try:
                with self._client._http.sse(LOADING_PATH, params=watch.params) as source:
                    if not source.response.is_success:
                        source.response.read()
                    if connection.check_stream(watch, source.response):
                        for frame in source:
                            if not frame.data or frame.data == _DONE:
                                continue
                            try:
                                event = _events.decode(frame.data)
                            except msgspec.MsgspecError:
                                continue  # a stage of a newer server: the next event, or the last, says all again
                            yield event
                            if is_final(event):
                                return
            except httpx2.RequestError as error:
                failure = error
            time.sleep(connection.delay_s(watch, failure))

    def chat(self, model: str, messages: Sequence[dict[str, Any]], **options: Any) -> Generator[str, None, None]:
        """The answer, piece by piece. To close the generator cancels it.

        Raises:
            InferenceFailed: the answer broke off.
        """
        body = encode_body({"model": model, "messages": messages, "stream": True, **options})
        timeout = httpx2.Timeout(FIRST_TOKEN_TIMEOUT_S)
        connection = self._client._connection
        try:
            with self._client._http.stream("POST", _CHAT_PATH, content=body, headers=JSON, timeout=timeout) as got:
                if not got.is_success:
                    raise connection.error(got.status_code, got.read())
                for line in got.iter_lines():
                    if not line.startswith(_DATA):
                        continue
                    if line == _DATA + _DONE:
                        return
                    yield from _pieces(line[len(_DATA) :])
        except httpx2.ConnectError as error:
            raise connection.unreachable(error) from None
        except httpx2.RequestError:
            raise InferenceFailed("The answer broke off: the worker or the server has gone away.") from None
        raise InferenceFailed("The answer broke off: the worker has gone away.")


def _pieces(data: str) -> Generator[str, None, None]:
    try:
        chunk = msgspec.json.decode(data, type=_Chunk)
    except msgspec.MsgspecError as error:
        raise InferenceFailed(f"The answer cannot be read: {error}.") from None
    if chunk.error is not None:
        raise InferenceFailed(chunk.error.message or None)
    for choice in chunk.choices:
        if choice.delta.content:
            yield choice.delta.content
