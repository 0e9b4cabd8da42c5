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

from hive.api import (
    background,
    blobs,
    controls,
    downloads,
    hub_manifest,
    hub_mirror,
    json,
    llm,
    maintenance,
    metrics,
    models,
    ollama,
    ollama_chat,
    ollama_embed,
    page,
    plans,
    progress,
    reference,
    system,
    tickets,
)
from hive.api.audit import READS, Audit
from hive.api.authentication import Authenticator
from hive.api.forwarded import apply_forwarded
from hive.api.gate import Gate
from hive.api.routes import POST, ApiRoute, StreamRoute, check
from hive.api.services import Services
from hive.errors import HiveError
from hive.page.assets import Assets
from hive.wire.api import INFERENCE_PATH, LOADING_PATH, MANY_PATH, PROGRESS_PATH

#: What the Hub has, as its addresses say it; the models' files have none of these words before them.
HUB_KINDS: Final = ("models", "datasets", "spaces")

#: The addresses of the Hub's clients, last of all: any two or three words may be a model. HIVE_DOORS says whether they
#: are there.
HUB_ROUTES: Final[list[ApiRoute]] = [
    ApiRoute("GET", "/api/whoami-v2", hub_mirror.whoami, "pull"),
    *[ApiRoute("GET", f"/api/{kind}/{{id:path}}", hub_mirror.info, "pull") for kind in HUB_KINDS],
    *[ApiRoute("POST", f"/api/{kind}/{{id:path}}", hub_mirror.paths_info, "pull") for kind in HUB_KINDS],
    ApiRoute("GET", "/api/{id:path}", hub_mirror.elsewhere, "pull"),
    *[
        ApiRoute("GET", f"/{kind}/{{org}}/{{name}}/resolve/{{id:path}}", hub_mirror.file_of_kind, "pull")
        for kind in HUB_KINDS[1:]
    ],
    ApiRoute("GET", "/v2/{org}/{name}/manifests/{tag}", hub_manifest.manifest, "pull"),
    ApiRoute("GET", "/{org}/{name}/resolve/{id:path}", hub_mirror.file, "pull"),
    ApiRoute("GET", "/{name}/resolve/{id:path}", hub_mirror.file_of_one_name, "pull"),
]

#: Those of Ollama's clients, before them: `/api` is the Hub's too.
OLLAMA_ROUTES: Final[list[ApiRoute]] = [
    ApiRoute("GET", "/api/version", ollama.version, "read"),
    ApiRoute("GET", "/api/tags", ollama.tags, "read"),
    ApiRoute("GET", "/api/ps", ollama.running, "read"),
    ApiRoute("POST", "/api/show", ollama.show, "read"),
    ApiRoute("POST", "/api/pull", ollama.pull, "pull"),
    ApiRoute("DELETE", "/api/delete", ollama.delete, "admin"),
    ApiRoute("POST", "/api/generate", ollama_chat.generate, "run"),
    ApiRoute("POST", "/api/chat", ollama_chat.chat, "run"),
    ApiRoute("POST", "/api/embed", ollama_embed.embed, "run"),
    ApiRoute("POST", "/api/embeddings", ollama_embed.embeddings, "run"),
    ApiRoute("POST", "/api/{name}", ollama.not_here, "pull"),
]

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
    ApiRoute("PUT", "/v1/downloads/{id}/place", controls.move, "pull"),
    ApiRoute("GET", "/v1/models", models.index, "read"),
    ApiRoute("POST", "/v1/models/plan", plans.create, "pull"),
    ApiRoute("POST", "/v1/models/verify", maintenance.verify, "admin"),
    ApiRoute("POST", "/v1/gc", maintenance.collect, "admin"),
    ApiRoute("GET", "/v1/partials", maintenance.partials, "admin"),
    ApiRoute("GET", "/v1/models/{id:path}", models.show, "read"),
    ApiRoute("DELETE", "/v1/models/{id:path}", models.delete, "admin"),
    ApiRoute("GET", "/v1/blobs/{digest}", blobs.content, "read"),
    ApiRoute("GET", "/v1/workers", system.workers, "admin"),
    ApiRoute("POST", "/v1/workers/spawn", llm.spawn, "run"),
    ApiRoute("POST", "/v1/workers/ready", llm.ready, "run"),
    ApiRoute("GET", "/v1/workers/list", llm.index, "read"),
    ApiRoute("DELETE", "/v1/workers/{id}", llm.stop, "run"),
    ApiRoute("POST", "/v1/heartbeat", llm.heartbeat, "run"),
    ApiRoute("GET", "/v1/backends/list", llm.backends, "read"),
    ApiRoute("GET", "/v1/devices", llm.devices, "read"),
    ApiRoute("GET", "/v1/resources", llm.resources, "read"),
    StreamRoute(LOADING_PATH, llm.loading, "read"),
    StreamRoute(INFERENCE_PATH, llm.infer, "run", POST),
    ApiRoute("DELETE", f"{INFERENCE_PATH}/{{id}}", llm.cancel, "run"),
    *[StreamRoute(path, answer, "run", POST) for path, answer in llm.OPENAI.items()],
    ApiRoute("GET", "/v1/scaling", system.scaling, "read"),
    ApiRoute("GET", "/v1/settings/bandwidth", system.bandwidth, "admin"),
    ApiRoute("PUT", "/v1/settings/bandwidth", system.set_bandwidth, "admin"),
    ApiRoute("GET", "/v1/settings/downloads", system.running_limit, "admin"),
    ApiRoute("PUT", "/v1/settings/downloads", system.set_running_limit, "admin"),
    ApiRoute("POST", "/v1/tickets", tickets.create, "read"),
    ApiRoute("POST", "/v1/session", tickets.create_session, "read"),
    ApiRoute("DELETE", "/v1/session", tickets.end_session, None),
    ApiRoute("GET", "/v1/health", system.health, None),
    ApiRoute("GET", "/metrics", metrics.metrics, "admin"),
    ApiRoute("GET", "/healthz", system.healthz, None),
    ApiRoute("GET", "/readyz", system.readyz, None),
    ApiRoute("GET", "/openapi.json", reference.openapi_json, None),
    ApiRoute("GET", "/docs", reference.docs_page, None),
    ApiRoute("GET", "/", page.index, None),
    ApiRoute("GET", page.FILES_PATH, page.file, None),
    ApiRoute("GET", "/list", page.plain_list, "read"),
    *OLLAMA_ROUTES,
    *HUB_ROUTES,
]
_STREAMS: Final = {route.path: route for route in ROUTES if isinstance(route, StreamRoute)}


class Api:
    """The ASGI application of one HTTP process."""

    def __init__(self, services: Services, host: str = "") -> None:
        """`host`: the name or number that the server was told to listen on."""
        self.services = services
        settings = services.settings
        doors = {"hub": HUB_ROUTES, "ollama": OLLAMA_ROUTES}
        closed = [route for door, of_door in doors.items() if door not in settings.open_doors for route in of_door]
        shown = [route for route in ROUTES if route not in closed]
        routes = [_opened(route) if settings.metrics_public else route for route in shown]
        self._starlette = Starlette(
            routes=[route for route in routes if isinstance(route, ApiRoute)],
            exception_handlers={
                HiveError: json.on_hive_error,
                HTTPException: json.on_http_error,
                ClientDisconnect: json.on_disconnect,
                OSError: json.on_disk_error,
                Exception: json.on_crash,
            },
            lifespan=_lifespan,
        )
        # A slash too many is another address, which has nothing. Starlette would send the caller on, over plain http
        # where a proxy ends TLS, and their key with them.
        self._starlette.router.redirect_slashes = False
        self._starlette.state.services = services
        self._starlette.state.reference = reference.Reference(routes)
        self._starlette.state.page = Assets()
        names = {*settings.public_host_names, host.lower()} - {""}
        open_routes = [
            (method, route.path) for route in routes if route.needs is None for method in route.methods or ()
        ]
        authenticator = Authenticator(services.keys, services.tickets, services.sessions, open_routes, _STREAMS)
        self._gate = Gate(
            self._dispatch,
            names,
            settings.allowed_origins,
            authenticator,
            admit=services.rates.admit,
            ask_back=_ask_back,
        )
        self._audit = Audit(routes)
        self._trusted = settings.trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._trusted and scope["type"] == "http":
            apply_forwarded(scope, self._trusted)
        if scope["type"] == "http" and scope["method"] not in READS:
            await self._audit(self._gate, scope, receive, send)
        else:
            await self._gate(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = _STREAMS.get(scope["path"]) if scope["type"] == "http" else None
        if stream is None:
            await self._starlette(scope, receive, send)
        else:
            check(scope, stream.needs)
            await stream.answer(self.services, scope, receive, send)


async def _ask_back(scope: Scope, send: Send) -> bool:
    return scope["path"] in _STREAMS and await progress.ask_to_come_back(scope, send)


def _opened(route: ApiRoute | StreamRoute) -> ApiRoute | StreamRoute:
    """The route, open to all where it is the one that HIVE_METRICS_PUBLIC opens."""
    if isinstance(route, ApiRoute) and route.endpoint is metrics.metrics:
        return ApiRoute("GET", route.path, metrics.metrics, None)
    return route


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    services: Services = app.state.services
    try:
        async with background.running(services):
            yield
    finally:
        await services.serving.close()
        await services.replica.leave()
        services.mirror.close()
        services.downloads.close()
        services.commands.close()
