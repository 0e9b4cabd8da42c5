"""Models in memory: load one, list and end workers, watch one load, ask one."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hive import errors, logs, serving_errors
from hive.api.downloads import read_spec
from hive.api.json import JsonResponse, error_response, read_body
from hive.api.services import Services, services_of
from hive.auth.principal import PRINCIPAL, Principal, principal_of
from hive.net.server_address import is_loopback
from hive.settings import Settings
from hive.streams import sse
from hive.wire.api import HUB_TOKEN_HEADER, MAX_ID_CHARS, OPENAI_PATHS, PlanRequest
from hive.wire.spec import DownloadSpec

if TYPE_CHECKING:
    from hive.serving.record import LlmRecord

_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_ID_CHARS}}}", re.ASCII)
_URL = re.compile(r"http://(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})/?", re.ASCII)

_NO_WORKER: Final = "A worker was registered with the address of a hive server. End it: DELETE /v1/workers/{id}."
_NO_FILE: Final = "'model_path' is no file of this store. Name the model with 'model_ref'."


class _Asked(msgspec.Struct):
    """What counts here of a request to a model; all else is the worker's to read."""

    model: str | None = None


async def spawn(request: Request) -> Response:
    """`POST /v1/workers/spawn`: load a model; the worker's address at once."""
    from hive.serving.service import LoadRequest
    from hive.wire.llm import SpawnRequest

    body = await read_body(request, SpawnRequest)
    services, principal = services_of(request), principal_of(request)
    settings = services.settings
    if body.model_ref is None and body.model is None and body.model_path is None:
        raise errors.BadRequest("Say which model: 'model_ref' (or 'model'), or 'model_path'.")
    services.rates.admit_ask(request)
    path = _path_in_store(body.model_path, settings) if body.model_path is not None else ""
    if path and not await services.access.may_use(path, principal, _hub_token(request.scope)):
        raise errors.BadRequest(_NO_FILE)
    ref = body.model_ref or body.model or ""
    spec = None if path else _spec(ref, settings, principal)
    if spec is not None and not principal.may("pull") and await services.downloads.on_disk(spec) is None:
        text = "The model is not on disk, and this API key may not download: it does not have the scope 'pull'."
        raise errors.InsufficientScope(text, needs="pull", scopes=sorted(principal.scopes))
    wanted = LoadRequest(
        ref or path,
        body.backend,
        body.device,
        settings.llm_context if body.context is None else body.context,
        settings.llm_slots if body.slots is None else body.slots,
        settings.llm_idle_s if body.idle_seconds is None else body.idle_seconds,
        path=path,
        request_id=logs.bound_field("request_id"),
    )
    return JsonResponse(await services.serving.service.spawn(wanted, spec))


async def ready(request: Request) -> Response:
    """`POST /v1/workers/ready`: a worker has its model in memory."""
    from hive.wire.llm import ReadyRequest, Said

    body = await read_body(request, ReadyRequest)
    match = _URL.fullmatch(body.url)
    if match is None or not 1 <= int(match["port"]) <= 65_535:
        raise errors.BadRequest("'url' is an address such as http://127.0.0.1:8081.")
    services = services_of(request)
    if not services.keys.on and not is_loopback(match["host"].strip("[]")):
        raise errors.UnsafeUrl("Without API keys only workers of this machine may register: http://127.0.0.1:PORT.")
    host, port = request.scope.get("server") or ("", 0)
    if port == int(match["port"]) and (is_loopback(name := match["host"].strip("[]")) or name == host):
        raise errors.BadRequest("'url' is the address of this server, and not that of a worker.")
    await services.serving.service.register(body)
    return JsonResponse(Said(message="Worker registered as ready"))


async def heartbeat(request: Request) -> Response:
    """`POST /v1/heartbeat`: a worker says that it lives; after 60 s without one it is removed."""
    from hive.wire.llm import HeartbeatRequest, Said

    body = await read_body(request, HeartbeatRequest)
    service = services_of(request).serving.service
    await service.heartbeat(body.worker_id, healthy=body.health_status == "healthy")
    return JsonResponse(Said(message="Heartbeat received"))


async def index(request: Request) -> Response:
    """`GET /v1/workers/list`: the workers that have a model in memory, or are about to."""
    from hive.wire.llm import LlmWorkers

    records = await seen(request)
    return JsonResponse(LlmWorkers(workers=tuple(record.shown() for record in records)))


async def seen(request: Request) -> list[LlmRecord]:
    """The workers whose models the caller may see; one whose model is still on its way, by its download."""
    services, principal = services_of(request), principal_of(request)
    token = _hub_token(request.scope)

    async def is_seen(record: LlmRecord) -> bool:
        if principal.sees_everything:
            return True
        if record.path or not record.download_id:
            return await services.access.may_use(record.path, principal, token)
        try:
            await services.downloads.find(record.download_id, principal)
        except errors.DownloadNotFound:
            return False
        return True

    return [record for record in await services.serving.service.workers() if await is_seen(record)]


async def stop(request: Request) -> Response:
    """`DELETE /v1/workers/{id}`: what it answers may end within 30 s, then its memory goes back."""
    from hive.wire.llm import Said

    worker_id = request.path_params["id"]
    if all(record.id != worker_id for record in await seen(request)):
        raise errors.LlmWorkerNotFound(worker_id=worker_id[:MAX_ID_CHARS])
    await services_of(request).serving.service.stop(worker_id)
    return JsonResponse(Said(message="Worker is ending"))


async def cancel(request: Request) -> Response:
    """`DELETE /v1/inference/{id}`: stop a request, wherever it is answered; 204, also where there is none."""
    job_id = request.path_params["id"]
    if not _ID.fullmatch(job_id):
        raise errors.BadRequest("The id is that of a request: 'job_id' in its 'started' event.")
    await services_of(request).serving.service.cancel(job_id)
    return Response(status_code=204)


async def backends(request: Request) -> Response:
    """`GET /v1/backends/list`: what may calculate, and whether a machine has it."""
    from hive.wire.llm import BACKENDS, BackendInfo, Backends

    hosts = await services_of(request).serving.service.hosts()
    there = {device.backend for host in hosts for device in host.device_list()}
    return JsonResponse(Backends(backends=tuple(BackendInfo(name, name in there) for name in BACKENDS)))


async def devices(request: Request) -> Response:
    """`GET /v1/devices`: the devices of every machine that runs models. Bytes."""
    from hive.wire.llm import DeviceInfo, Devices

    hosts = await services_of(request).serving.service.hosts()
    found = [
        DeviceInfo(host=host.host, engine=host.engine, **msgspec.structs.asdict(device))
        for host in hosts
        for device in host.device_list()
    ]
    return JsonResponse(Devices(devices=tuple(found)))


async def resources(request: Request) -> Response:
    """`GET /v1/resources`: the memory of every machine that runs models, and how much of it models may take."""
    from hive.serving.placement import less_promised
    from hive.wire.llm import HostMemory, Resources

    services = services_of(request)
    keep_free = services.settings.llm_keep_free_bytes
    service = services.serving.service
    hosts = less_promised(await service.hosts(), await service.workers())
    found = [
        HostMemory(
            host=host.host,
            ram_total=host.ram_total,
            ram_available=host.ram_available,
            ram_for_models=max(host.ram_available - keep_free, 0),
        )
        for host in hosts
    ]
    return JsonResponse(Resources(hosts=tuple(found)))


async def loading(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """`GET /v1/loading/progress?id=`: how far a worker's model is loaded, as a stream."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    try:
        if scope["method"] not in ("GET", "HEAD"):
            raise errors.MethodNotAllowed(allow="GET, HEAD")
        worker_id = query.get("id", [""])[0]
        if not _ID.fullmatch(worker_id):
            raise errors.LlmWorkerNotFound(worker_id=worker_id[:MAX_ID_CHARS])
        if scope["method"] == "HEAD":
            headers = {name.decode(): value.decode() for name, value in sse.HEADERS}
            await Response(status_code=200, headers=headers)(scope, receive, send)
            return
        # Models in memory belong to nobody: whoever may watch, may watch all of them.
        scope[PRINCIPAL] = dataclasses.replace(principal_of(scope), sees_all=True)
        asked = sse.read_stream_request(scope["headers"], query)
        if not await services.serving.streams(worker_id, asked, scope, receive, send):
            raise errors.LlmWorkerNotFound(worker_id=worker_id)
    except errors.HiveError as error:
        await error_response(error)(scope, receive, send)


async def infer(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """`POST /v1/inference`: a prompt to a worker that has `model` in memory, its tokens back as they come."""
    await _ask(services, scope, receive, send)


async def chat_completions(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """`POST /v1/chat/completions`: OpenAI's form, passed to the engine that has `model`; its answer back, unread."""
    await _ask(services, scope, receive, send)


async def completions(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """`POST /v1/completions`: the same for a prompt."""
    await _ask(services, scope, receive, send)


async def embeddings(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """`POST /v1/embeddings`: the same for vectors, where the engine makes them."""
    await _ask(services, scope, receive, send)


#: What answers OpenAI's forms.
OPENAI: Final = dict(zip(OPENAI_PATHS, (chat_completions, completions, embeddings), strict=True))


async def _ask(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    from hive.api.passing import read_whole
    from hive.serving.endpoint import PASSED_ON_BY

    try:
        if scope["method"] != "POST":
            raise errors.MethodNotAllowed(allow="POST")
        if PASSED_ON_BY in scope["headers"]:
            raise serving_errors.InferenceFailed(_NO_WORKER)
        body = await read_whole(scope, receive)
        model = _model_in(body)
        with services.serving.shares.holding(scope):
            try:
                await _try_each(services, model, body, scope, receive, send)
            except serving_errors.InferenceFailed:
                # Nothing was sent yet: a worker that was listed a moment ago may be gone, and another be there.
                services.serving.service.forget()
                await _try_each(services, model, body, scope, receive, send)
    except errors.HiveError as error:
        await error_response(error)(scope, receive, send)


async def _try_each(
    services: Services, model: str | None, body: bytes, scope: Scope, receive: Receive, send: Send
) -> None:
    """Ask the workers of a model, the least busy first, until one has a free slot.

    Raises:
        InferenceFailed: a worker did not answer, and the client was sent nothing.
    """
    from hive.api.passing import pass_on

    records = await _serving(services, scope, model)
    service, opened = services.serving.service, services.serving.answers
    for number, record in enumerate(records):
        target, headers = service.target(record), service.headers(record)
        is_last = number == len(records) - 1
        if await pass_on(
            target, headers, body, scope, receive, send, is_last=is_last, opened=opened, kept=service.kept
        ):
            return


async def _serving(services: Services, scope: Scope, model: str | None) -> list[Any]:
    """The workers to ask; with HIVE_AUTOLOAD a model that is not in memory is loaded first."""
    from hive.serving.service import LoadRequest

    service, settings, principal = services.serving.service, services.settings, principal_of(scope)
    token = _hub_token(scope)

    async def may_use(path: str) -> bool:
        return await services.access.may_use(path, principal, token)

    try:
        return await service.serving(model, may_use)
    except serving_errors.ModelNotLoaded:
        if model is None or not settings.autoload or not principal.may("pull"):
            raise
    services.rates.admit_ask(scope)
    spec = _spec(model, settings, principal)
    wanted = LoadRequest(model, "cpu", 0, settings.llm_context, settings.llm_slots, settings.llm_idle_s)
    spawned = await service.spawn(wanted, spec)
    return await service.loaded(spawned.worker_id, model, may_use)


def _spec(ref: str, settings: Settings, principal: Principal) -> DownloadSpec:
    """What a download of this model asks for. Raises InvalidModelRef."""
    return read_spec(PlanRequest(model_ref=ref), settings, principal)


def _hub_token(scope: Scope) -> str | None:
    """The caller's token of the Hub, by which they are let in to restricted models."""
    return Headers(scope=scope).get(HUB_TOKEN_HEADER) or None


def _model_in(body: bytes) -> str | None:
    """The model that a request names. Raises BadRequest where it is no JSON object."""
    try:
        return msgspec.json.decode(body, type=_Asked).model
    except msgspec.ValidationError as error:
        raise errors.BadRequest(f"The request body is not what this address takes: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise errors.BadRequest("The request body is not valid JSON.") from None


def _path_in_store(text: str, settings: Settings) -> str:
    """A file of the store, as it was named. Raises BadRequest where it is none, or lies elsewhere."""
    path = os.path.normpath(text)
    real = os.path.realpath(path)
    folders = [os.path.realpath(folder) for folder in (settings.hub_dir, settings.hive_dir)]
    inside = any(Path(real).is_relative_to(folder) for folder in folders)
    if not (os.path.isabs(text) and inside and os.path.isfile(real)):
        raise errors.BadRequest(_NO_FILE)
    return path
