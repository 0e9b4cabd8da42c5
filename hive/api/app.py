"""The application: the route table is the map.

The progress stream is dispatched in front of Starlette: ten thousand clients wait in it, and a task group, a request
object and a middleware stack for each would triple what one costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from hive.api import background, controls, downloads, json, maintenance, metrics, models, plans, progress, system
from hive.api.gate import Gate
from hive.api.routes import ApiRoute, StreamRoute, check
from hive.api.services import Services
from hive.errors import HiveError
from hive.wire.api import MANY_PATH, PROGRESS_PATH

#: Every address, and the scope that a key needs for it (docs/auth.md explains them); None is open to all.
ROUTES: Final[list[ApiRoute | StreamRoute]] = [
    ApiRoute("POST", "/v1/models/download", downloads.create, "pull"),
    StreamRoute(PROGRESS_PATH, progress.progress, "read"),
    StreamRoute(MANY_PATH, progress.progress_of_many, "read"),
    ApiRoute("GET", "/v1/downloads", downloads.index, "read"),
    ApiRoute("GET", "/v1/downloads/{id}", downloads.show, "read"),
    ApiRoute("DELETE", "/v1/downloads/{id}", controls.cancel, "pull"),
    ApiRoute("POST", "/v1/downloads/{id}/pause", controls.pause, "pull"),
    ApiRoute("POST", "/v1/downloads/{id}/resume", controls.resume, "pull"),
    ApiRoute("POST", "/v1/downloads/{id}/retry", controls.retry, "pull"),
    ApiRoute("PUT", "/v1/downloads/{id}/priority", controls.set_priority, "pull"),
    ApiRoute("GET", "/v1/models", models.index, "read"),
    ApiRoute("POST", "/v1/models/plan", plans.create, "pull"),
    ApiRoute("POST", "/v1/models/verify", maintenance.verify, "admin"),
    ApiRoute("POST", "/v1/gc", maintenance.collect, "admin"),
    ApiRoute("GET", "/v1/models/{id:path}", models.show, "read"),
    ApiRoute("DELETE", "/v1/models/{id:path}", models.delete, "admin"),
    ApiRoute("GET", "/v1/workers", system.workers, "admin"),
    ApiRoute("GET", "/v1/settings/bandwidth", system.bandwidth, "admin"),
    ApiRoute("PUT", "/v1/settings/bandwidth", system.set_bandwidth, "admin"),
    ApiRoute("GET", "/v1/settings/downloads", system.running_limit, "admin"),
    ApiRoute("PUT", "/v1/settings/downloads", system.set_running_limit, "admin"),
    ApiRoute("GET", "/v1/health", system.health, None),
    ApiRoute("GET", "/metrics", metrics.metrics, "admin"),
    ApiRoute("GET", "/healthz", system.healthz, None),
    ApiRoute("GET", "/readyz", system.readyz, None),
]
_STREAMS: Final = {route.path: route for route in ROUTES if isinstance(route, StreamRoute)}


class Api:
    """The ASGI application of one HTTP process."""

    def __init__(self, services: Services, host: str = "") -> None:
        """`host`: the name or number that the server was told to listen on."""
        self.services = services
        self._starlette = Starlette(
            routes=[route for route in ROUTES if isinstance(route, ApiRoute)],
            exception_handlers={
                HiveError: json.on_hive_error,
                HTTPException: json.on_http_error,
                ClientDisconnect: json.on_disconnect,
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
        stream = _STREAMS.get(scope["path"]) if scope["type"] == "http" else None
        if stream is None:
            await self._starlette(scope, receive, send)
        else:
            check(scope, stream.needs)
            await stream.answer(self.services, scope, receive, send)


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
