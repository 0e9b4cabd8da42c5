"""The application: the route table is the map.

The progress stream is dispatched in front of Starlette: ten thousand clients wait in it, and a task group, a request
object and a middleware stack for each would triple what one costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from hive.api import background, controls, downloads, json, maintenance, metrics, models, plans, progress, system
from hive.api.gate import Gate
from hive.api.services import Services
from hive.errors import HiveError
from hive.wire.api import MANY_PATH, PROGRESS_PATH

ROUTES = [
    Route("/v1/models/download", downloads.create, methods=["POST"]),
    # GET /v1/models/download/progress and GET /v1/downloads/progress are streams: see Api.__call__
    Route("/v1/downloads", downloads.index, methods=["GET"]),
    Route("/v1/downloads/{id}", downloads.show, methods=["GET"]),
    Route("/v1/downloads/{id}", controls.cancel, methods=["DELETE"]),
    Route("/v1/downloads/{id}/pause", controls.pause, methods=["POST"]),
    Route("/v1/downloads/{id}/resume", controls.resume, methods=["POST"]),
    Route("/v1/downloads/{id}/retry", controls.retry, methods=["POST"]),
    Route("/v1/downloads/{id}/priority", controls.set_priority, methods=["PUT"]),
    Route("/v1/models", models.index, methods=["GET"]),
    Route("/v1/models/plan", plans.create, methods=["POST"]),
    Route("/v1/models/verify", maintenance.verify, methods=["POST"]),
    Route("/v1/gc", maintenance.collect, methods=["POST"]),
    Route("/v1/models/{id:path}", models.show, methods=["GET"]),
    Route("/v1/models/{id:path}", models.delete, methods=["DELETE"]),
    Route("/v1/workers", system.workers, methods=["GET"]),
    Route("/v1/settings/bandwidth", system.bandwidth, methods=["GET"]),
    Route("/v1/settings/bandwidth", system.set_bandwidth, methods=["PUT"]),
    Route("/v1/settings/downloads", system.running_limit, methods=["GET"]),
    Route("/v1/settings/downloads", system.set_running_limit, methods=["PUT"]),
    Route("/v1/health", system.health, methods=["GET"]),
    Route("/metrics", metrics.metrics, methods=["GET"]),
    Route("/healthz", system.healthz, methods=["GET"]),
    Route("/readyz", system.readyz, methods=["GET"]),
]


class Api:
    """The ASGI application of one HTTP process."""

    def __init__(self, services: Services, host: str = "") -> None:
        """`host`: the name or number that the server was told to listen on."""
        self.services = services
        self._starlette = Starlette(
            routes=ROUTES,
            exception_handlers={
                HiveError: json.on_hive_error,
                HTTPException: json.on_http_error,
                OSError: json.on_disk_error,
                Exception: json.on_crash,
            },
            lifespan=_lifespan,
        )
        self._starlette.state.services = services
        settings = services.settings
        names = {*settings.public_host_names, host.lower()} - {""}
        self._gate = Gate(self._dispatch, names, settings.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._gate(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PROGRESS_PATH:
            await progress.progress(self.services, scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == MANY_PATH:
            await progress.progress_of_many(self.services, scope, receive, send)
        else:
            await self._starlette(scope, receive, send)


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    services: Services = app.state.services
    try:
        async with background.running(services):
            yield
    finally:
        await services.replica.leave()
        services.downloads.close()
        services.commands.close()
