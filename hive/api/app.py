"""The application: the route table is the map.

The progress stream is dispatched in front of Starlette: ten thousand clients wait in it, and a task group, a request
object and a middleware stack for each would triple what one costs.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hive import logs
from hive.api import background, controls, downloads, json, maintenance, metrics, models, progress, system
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

    def __init__(self, services: Services) -> None:
        self.services = services
        self._starlette = Starlette(
            routes=ROUTES,
            middleware=[Middleware(RequestId)],
            exception_handlers={
                HiveError: json.on_hive_error,
                HTTPException: json.on_http_error,
                OSError: json.on_disk_error,
                Exception: json.on_crash,
            },
            lifespan=_lifespan,
        )
        self._starlette.state.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
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


_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Gives every request an id, or takes the caller's, and puts it on the answer and on every log line meanwhile."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id)]
            await send(message)

        with logs.bound(request_id=request_id.decode()):
            await self._app(scope, receive, send_with_id)
