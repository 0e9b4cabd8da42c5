"""Models on disk: list, show, delete. Ids contain slashes."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hive import errors
from hive.api.json import JsonResponse
from hive.api.services import services_of
from hive.downloads.live import Live, in_use_elsewhere, read_live, repo_or_url
from hive.store.catalog import Origin
from hive.store.layout import url_key
from hive.wire.api import Deleted, Listing, Model


async def index(request: Request) -> Response:
    """`GET /v1/models`: OpenAI's list shape, with size, files, path and revision added."""
    models = await run_in_threadpool(services_of(request).catalog.list)
    return JsonResponse(Listing[Model](data=tuple(models)))


async def show(request: Request) -> Response:
    """`GET /v1/models/{id}`."""
    return JsonResponse(await _find(request))


async def delete(request: Request) -> Response:
    """`DELETE /v1/models/{id}`: removes its files, unless a download is using it."""
    services = services_of(request)
    model = await _find(request)
    live = await services.commands.run(lambda: read_live(services.commands.client))
    origin = await run_in_threadpool(services.catalog.origin, model)
    if any(_uses(download, origin) for download in live):
        raise errors.ModelInUse(id=model.id)
    elsewhere = await run_in_threadpool(in_use_elsewhere, services.settings)
    if origin.repo in elsewhere.repos or (origin.url and url_key(origin.url) in elsewhere.urls):
        text = "Another hive on this store is downloading this model. Cancel it there, or wait for its end."
        raise errors.ModelInUse(text, id=model.id)
    freed = await run_in_threadpool(services.catalog.delete, model.id)
    return JsonResponse(Deleted(id=model.id, freed_bytes=freed))


async def _find(request: Request) -> Model:
    return await run_in_threadpool(services_of(request).catalog.get, request.path_params["id"])


def _uses(download: Live, origin: Origin) -> bool:
    """Whether a download, also a queued or paused one, is of the same repository or URL (its query aside)."""
    repo, url = repo_or_url(download.ref)
    return repo == origin.repo if origin.repo else url is not None and url == origin.url
