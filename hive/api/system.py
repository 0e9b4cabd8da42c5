"""Health, readiness, workers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hive import errors
from hive.api.bodies import JsonResponse, error_response
from hive.api.services import services
from hive.version import VERSION


async def health(request: Request) -> Response:
    """`GET /v1/health`: the contract's answer, whatever Redis does."""
    return JsonResponse({"status": "alive", "version": VERSION, "api_version": "v1"})


async def healthz(request: Request) -> Response:
    """`GET /healthz`: the process lives. A supervisor restarts it when this fails, so it depends on nothing."""
    return JsonResponse({"status": "alive"})


async def readyz(request: Request) -> Response:
    """`GET /readyz`: 200 when requests can be answered: Redis answers, and the process is subscribed."""
    parts = services(request)
    await parts.commands.run(parts.commands.client.ping)
    if not parts.fanout.connected:
        return error_response(errors.StoreUnavailable("The process is not subscribed to Redis yet."))
    return JsonResponse({"status": "ready"})


async def workers(request: Request) -> Response:
    """`GET /v1/workers`: who is alive, doing what."""
    parts = services(request)
    found = await parts.commands.run(parts.registry.list)
    return JsonResponse(
        {
            "object": "list",
            "data": [
                {
                    "name": worker.name,
                    "object": "worker",
                    "host": worker.host,
                    "pid": worker.pid,
                    "version": worker.version,
                    "state": worker.state,
                    "download_id": worker.download_id or None,
                    "started_at": worker.started_at,
                    "seen_at": worker.seen_at,
                }
                for worker in found
            ],
        }
    )
