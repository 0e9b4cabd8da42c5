"""What a worker answers at its own address.

GET  /health                    it lives
GET  /v1/ready                  whether its model is in memory, and where to watch that
GET  /v1/loading/progress       watch it
POST /v1/inference              a prompt -> tokens
DELETE /v1/inference/<job_id>   stop that; POST /cancel is the older form
POST /v1/chat/completions, /v1/completions, /v1/embeddings      passed to the engine as they come
POST /v1/admin/shutdown         end in order
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final, Literal, Protocol

from hive.auth.principal import Principal
from hive.errors import (
    BadRequest,
    HiveError,
    MethodNotAllowed,
    ModelAccessDenied,
    ModelNotServable,
    NotFound,
    RequestTimeout,
)
from hive.serving.endpoint import Endpoint
from hive.serving.inference_request import read_inference
from hive.serving.relay import Relay
from hive.serving_errors import InferenceFailed, ModelLoading, WorkerDraining
from hive.settings import Settings
from hive.wire.api import INFERENCE_PATH, LOADING_PATH, MAX_ID_CHARS, OPENAI_PATHS
from hive.wire.llm import SERVING, LlmState
from workers.inference.guard import LOOK_INTERVAL_S, Guard
from workers.inference.http1 import HttpRequest, Response
from workers.inference.inference import Inference
from workers.inference.loading import Loading
from workers.inference.refusals import ToldApart
from workers.inference.slots import Slots

#: Milliseconds of the latest deadline that is taken for one: the year 5138, and a number that no float rounds.
MAX_DEADLINE_MS: Final = 10**14
#: Seconds between two looks whether a request that is passed on is late, at least.
MIN_LOOK_S: Final = 0.05
_JSON: Final = (b"content-type", b"application/json")
#: What gives away something of the model.
ASKED: Final = frozenset({INFERENCE_PATH, *OPENAI_PATHS})
_NOT_LET_IN: Final = (
    "The model is restricted, and the Hub has not let this key's owner in lately. Ask hive's server: it asks the Hub."
)


#: What a model makes of a text.
Makes = Literal["text", "vectors"]
_EMBEDDINGS: Final = "/v1/embeddings"
_WRONG_MODEL: Final[dict[Makes, str]] = {
    "text": "The model makes text, and no vectors. Load one for embeddings, whose GGUF names its pooling.",
    "vectors": "The model makes vectors, and no text: POST /v1/embeddings. Load another one for text.",
}


class SupervisedWorker(Protocol):
    """What the routes ask of the supervisor."""

    settings: Settings
    loading: Loading
    slots: Slots
    url: str
    model: str
    vram_bytes: int
    makes: Makes
    vector_length: int

    @property
    def state(self) -> LlmState:
        """What it does."""

    async def may_be_used_by(self, principal: Principal) -> bool:
        """Whether the model is for them."""

    @property
    def engine(self) -> Endpoint | None:
        """Where the engine is, once the model is loaded."""

    def used(self, inference: Inference | None) -> None:
        """A request has ended: the clock of idleness begins anew."""

    def shut_down(self) -> None:
        """End in order, soon."""


class WorkerRoutes:
    """The routes of one worker."""

    def __init__(self, worker: SupervisedWorker, guard: Guard) -> None:
        self._worker = worker
        self._guard = guard
        #: What is on its way to somebody with a key.
        self._keyed: dict[Response, Principal] = {}
        self._routes: dict[tuple[str, str], Callable[[HttpRequest, Response], Awaitable[None]]] = {
            ("GET", "/health"): self._health,
            ("GET", "/v1/ready"): self._ready,
            ("GET", LOADING_PATH): self._loading,
            ("POST", INFERENCE_PATH): self._infer,
            ("POST", "/cancel"): self._cancel,
            ("POST", "/v1/admin/shutdown"): self._shut_down,
            **{("POST", path): self._relay for path in OPENAI_PATHS},
        }

    async def __call__(self, request: HttpRequest, response: Response) -> None:
        """Answer one request. Raises HiveError."""
        principal = await self._guard.check(request)
        if principal is None:
            await self._answer(request, response)
            return
        if request.path in ASKED and not await self._worker.may_be_used_by(principal):
            raise ModelAccessDenied(_NOT_LET_IN)
        self._keyed[response] = principal
        try:
            await self._answer(request, response)
        finally:
            del self._keyed[response]

    async def watch_keys(self) -> None:
        """Break off what is on its way to somebody whose key does not count any more; until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            if not self._keyed:
                continue
            await self._guard.refresh()
            for response, principal in list(self._keyed.items()):
                if not self._guard.is_alive(principal):
                    response.abort()

    async def _answer(self, request: HttpRequest, response: Response) -> None:
        route = self._routes.get((request.method, request.path))
        if route is not None:
            await route(request, response)
            return
        job_id = request.path.removeprefix(f"{INFERENCE_PATH}/")
        if job_id != request.path and 0 < len(job_id) <= MAX_ID_CHARS:
            if request.method != "DELETE":
                raise MethodNotAllowed(allow="DELETE")
            self._worker.slots.cancel(job_id)
            response.whole(204, b"")
            return
        allowed = sorted(method for method, path in self._routes if path == request.path)
        if allowed:
            raise MethodNotAllowed(allow=", ".join(allowed))
        raise NotFound(f"There is nothing at {request.path[:200]!r}.")

    async def _health(self, request: HttpRequest, response: Response) -> None:
        response.json(200, {"status": "healthy", "vram_bytes": self._worker.vram_bytes})

    async def _ready(self, request: HttpRequest, response: Response) -> None:
        worker = self._worker
        if worker.state in SERVING:
            response.json(200, {"ready": True, "state": worker.state, "model_loaded": True})
            return
        answer = {"ready": False, "state": worker.state, "progress_url": f"{worker.url}{LOADING_PATH}"}
        response.json(200, answer)

    async def _loading(self, request: HttpRequest, response: Response) -> None:
        await self._worker.loading.stream(response)

    async def _infer(self, request: HttpRequest, response: Response) -> None:
        worker = self._worker
        asked = read_inference(request.body)
        deadline_s = read_deadline(request.headers)
        engine = self._engine()
        self._check_makes(request)
        job = Inference(asked, response, worker.slots, worker.model, worker.vram_bytes)
        try:
            await job.run(engine, worker.settings.llm_token_timeout_s, deadline_s)
        finally:
            worker.used(job)

    async def _relay(self, request: HttpRequest, response: Response) -> None:
        worker = self._worker
        deadline_s = read_deadline(request.headers)
        engine = self._engine()
        self._check_makes(request)
        job = _RelayJob(response)
        worker.slots.take(job)
        watching = asyncio.create_task(job.watch(worker.settings.llm_token_timeout_s, deadline_s))
        try:
            await job.relay.run(engine, "POST", request.path, (_JSON,), request.body)
        finally:
            watching.cancel()
            worker.slots.release(job)
            worker.used(None)
        if response.is_gone or not job.relay.failure:
            return
        raise job.late or InferenceFailed(f"The engine does not answer: {job.relay.failure}.")

    async def _cancel(self, request: HttpRequest, response: Response) -> None:
        try:
            job_id = json.loads(request.body)["job_id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            job_id = None
        if not isinstance(job_id, str) or not 0 < len(job_id) <= MAX_ID_CHARS:
            raise BadRequest('The body of a cancellation is {"job_id": "..."}.')
        self._worker.slots.cancel(job_id)
        response.json(202, {"message": "Cancelled"})

    async def _shut_down(self, request: HttpRequest, response: Response) -> None:
        response.json(200, {"message": "Shutting down", "state": "draining"})
        self._worker.shut_down()

    def _check_makes(self, request: HttpRequest) -> None:
        """Raises ModelNotServable where the model does not make what is asked for, BadRequest where its vectors have
        another length: the engine would leave that aside.
        """
        makes, length = self._worker.makes, self._worker.vector_length
        if (request.path == _EMBEDDINGS) != (makes == "vectors"):
            raise ModelNotServable(_WRONG_MODEL[makes])
        if makes == "vectors" and length and b'"dimensions"' in request.body:
            with contextlib.suppress(ValueError, RecursionError):  # what is no JSON the engine refuses
                asked = json.loads(request.body)
                dimensions = asked.get("dimensions") if isinstance(asked, dict) else None
                if dimensions not in (None, length):
                    raise BadRequest(f"This model makes vectors of {length} numbers, and of no other 'dimensions'.")

    def _engine(self) -> Endpoint:
        """Where the engine is. Raises what is to be said where it is not ready."""
        worker = self._worker
        if worker.state == "draining":
            raise WorkerDraining
        engine = worker.engine
        if engine is None:
            raise ModelLoading(progress_url=f"{worker.url}{LOADING_PATH}", state=worker.state)
        return engine


class _RelayJob:
    """A request that is passed on, as its slot has it."""

    def __init__(self, response: Response) -> None:
        self.id = f"relay-{uuid.uuid4()}"
        self.relay = Relay(ToldApart(response))
        self._response = response
        #: Why it was ended for want of time.
        self.late: HiveError | None = None

    async def watch(self, silence_s: float, deadline_s: float | None) -> None:
        """End it at its deadline, or when the engine falls silent for so long after it has begun: an answer that is no
        stream comes when it is whole. A client that takes nothing is no silence of the engine.
        """
        until_s = math.inf if deadline_s is None else time.monotonic() + deadline_s
        while True:
            now_s = time.monotonic()
            has_begun = self.relay.first_s > 0 and not self._response.paused
            silent_s = now_s - self.relay.moved_s if has_begun else 0.0
            if now_s >= until_s:
                self.late = RequestTimeout("The request's deadline has passed.")
            elif silent_s >= silence_s:
                self.late = InferenceFailed(f"The engine said nothing for {silence_s:g} s.")
            if self.late is not None:
                self.relay.stop()
                return
            await asyncio.sleep(max(min(silence_s - silent_s, until_s - now_s), MIN_LOOK_S))

    def stop(self, code: str, message: str) -> None:
        """End it in the middle: the form of its errors is the engine's."""
        self.relay.stop()


def read_deadline(headers: Mapping[bytes, bytes]) -> float | None:
    """The seconds until the request's deadline, which is ISO 8601 in X-Request-Deadline or milliseconds of Unix time in
    X-Deadline; None where there is none.

    Raises:
        BadRequest: it is no time.
        RequestTimeout: it has passed.
    """
    text = headers.get(b"x-request-deadline", b"").decode("latin-1").strip()
    number = headers.get(b"x-deadline", b"").decode("latin-1").strip()
    if not text and not number:
        return None
    try:
        if text:
            parsed = datetime.fromisoformat(text)
            until_s = (parsed if parsed.tzinfo else parsed.astimezone()).timestamp()
        else:
            if not (number.isascii() and number.isdecimal() and len(number) <= 15 and int(number) <= MAX_DEADLINE_MS):
                raise ValueError
            until_s = int(number) / 1000
    except (ValueError, OverflowError):
        raise BadRequest(
            "X-Request-Deadline is a time such as 2030-01-31T12:00:00Z, X-Deadline milliseconds of Unix time."
        ) from None
    left_s = until_s - time.time()
    if left_s <= 0:
        raise RequestTimeout("The request's deadline has passed.")
    return left_s
