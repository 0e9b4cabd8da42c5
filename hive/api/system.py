"""Health, readiness, workers, and the settings that can be changed while everything runs."""

from __future__ import annotations

from msgspec import UNSET, UnsetType
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hive import errors
from hive.api.json import JsonResponse, error_response, read_body
from hive.api.services import services_of
from hive.downloads.admission import BandwidthLimit
from hive.downloads.registry import WorkerInfo
from hive.key_file import read_key_file
from hive.settings import Settings
from hive.version import VERSION
from hive.wire.api import Alive, Bandwidth, BandwidthRequest, Health, Listing, Running, RunningRequest, Worker
from hive.wire.proof import NONCE, proof


async def health(request: Request) -> Response:
    """`GET /v1/health`: the contract's answer, whatever Redis does; with `?nonce=` and a proof of the key."""
    proven: str | UnsetType = UNSET
    if (nonce := request.query_params.get("nonce")) is not None:
        if not NONCE.fullmatch(nonce):
            raise errors.BadRequest("'nonce' is 16 to 128 letters, digits, dashes and underscores.")
        proven = await run_in_threadpool(_prove, services_of(request).settings, nonce, request.scope.get("server"))
    return JsonResponse(Health(status="alive", version=VERSION, api_version="v1", proof=proven))


def _prove(settings: Settings, nonce: str, server: tuple[str, int | None] | None) -> str | UnsetType:
    """The proof that this server has the key of HIVE_HOME; none where it has none, or was not reached over TCP."""
    if server is None or server[1] is None:
        return UNSET
    try:
        key = read_key_file(settings.secret_key_path)
    except OSError:
        return UNSET
    return proof(key, nonce, server[0], server[1]) if key else UNSET


async def healthz(request: Request) -> Response:
    """`GET /healthz`: the process lives. A supervisor restarts it when this fails, so it depends on nothing."""
    return JsonResponse(Alive(status="alive"))


async def readyz(request: Request) -> Response:
    """`GET /readyz`: 200 when requests can be answered."""
    if (refusal := await services_of(request).readiness.refusal()) is not None:
        return error_response(refusal)
    return JsonResponse(Alive(status="ready"))


async def bandwidth(request: Request) -> Response:
    """`GET /v1/settings/bandwidth`: what all workers together may take from the network."""
    services = services_of(request)
    limit = BandwidthLimit(services.commands.client, services.settings.max_bytes_per_second)
    return JsonResponse(Bandwidth(bytes_per_second=await services.commands.run(limit.read)))


async def set_bandwidth(request: Request) -> Response:
    """`PUT /v1/settings/bandwidth`: downloads under way follow within a second or two."""
    services = services_of(request)
    body = await read_body(request, BandwidthRequest)
    limit = BandwidthLimit(services.commands.client, services.settings.max_bytes_per_second)
    await services.commands.run(limit.write, body.bytes_per_second)
    return JsonResponse(Bandwidth(bytes_per_second=body.bytes_per_second))


async def running_limit(request: Request) -> Response:
    """`GET /v1/settings/downloads`: how many downloads may run at once in the whole fleet."""
    services = services_of(request)
    return JsonResponse(Running(max_running=await services.commands.run(services.records.admission.running_limit)))


async def set_running_limit(request: Request) -> Response:
    """`PUT /v1/settings/downloads`: those that run go on; the next one begins when fewer do."""
    services = services_of(request)
    body = await read_body(request, RunningRequest)
    await services.commands.run(services.records.admission.set_running_limit, body.max_running)
    return JsonResponse(Running(max_running=body.max_running))


async def scaling(request: Request) -> Response:
    """`GET /v1/scaling`: what an autoscaler of the workers goes by."""
    services = services_of(request)
    return JsonResponse(await services.commands.run(services.records.admission.scaling))


async def workers(request: Request) -> Response:
    """`GET /v1/workers`: who is alive, doing what."""
    services = services_of(request)
    found = await services.commands.run(services.registry.alive)
    return JsonResponse(Listing[Worker](data=tuple(_shown(worker) for worker in found)))


def _shown(worker: WorkerInfo) -> Worker:
    return Worker(
        name=worker.name,
        host=worker.host,
        pid=worker.pid,
        version=worker.version,
        state=worker.state,
        download_id=worker.download_id or None,
        started_at=worker.started_at,
        seen_at=worker.seen_at,
    )
