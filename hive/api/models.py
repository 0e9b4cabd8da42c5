"""Models on disk: list, show, delete. Ids contain slashes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hive import errors
from hive.api.disconnect import while_connected
from hive.api.json import JsonResponse
from hive.api.services import Services, services_of
from hive.auth.principal import principal_of
from hive.downloads.live import Live, in_use_elsewhere, read_live, repo_or_url
from hive.store.catalog import IN_MEMORY, Origin
from hive.store.layout import url_key
from hive.wire.api import HUB_TOKEN_HEADER, Deleted, Listing, Model


async def index(request: Request) -> Response:
    """`GET /v1/models`: OpenAI's list shape, with size, files, path and revision added."""
    services = services_of(request)
    models = await services.store_calls.run(services.catalog.list)
    seen = await while_connected(request, services.access.visible(models, principal_of(request), _hub_token(request)))
    return JsonResponse(Listing[Model](data=tuple(seen)))


async def show(request: Request) -> Response:
    """`GET /v1/models/{id}`."""
    return JsonResponse(await _find(request))


async def delete(request: Request) -> Response:
    """`DELETE /v1/models/{id}`: removes its files, unless a download is using it."""
    model = await _find(request)
    return JsonResponse(Deleted(id=model.id, freed_bytes=await remove(services_of(request), model)))


async def remove(services: Services, model: Model) -> int:
    """Remove a model's files; the bytes that were freed.

    Raises:
        ModelInUse: a download is using it, or it is in memory.
    """
    live = await services.commands.run(lambda: read_live(services.commands.client))
    origin = await services.store_calls.run(services.catalog.origin, model)
    if any(download.path == model.path for download in live if download.path):
        raise errors.ModelInUse(IN_MEMORY, id=model.id)
    if any(_uses(download, origin) for download in live):
        raise errors.ModelInUse(id=model.id)
    elsewhere = await services.store_calls.run(in_use_elsewhere, services.settings)
    if origin.repo in elsewhere.repos or (origin.url and url_key(origin.url) in elsewhere.urls):
        text = "Another hive on this store is downloading this model. Cancel it there, or wait for its end."
        raise errors.ModelInUse(text, id=model.id)
    return await services.store_calls.run(services.catalog.delete, model.id)


async def _find(request: Request) -> Model:
    """The model of the path's id. Raises ModelNotOnDisk, also where this caller may not see it."""
    services, model_id = services_of(request), request.path_params["id"]
    principal, token = principal_of(request), _hub_token(request)
    try:
        model = await services.store_calls.run(services.catalog.get, model_id)
    except errors.ModelNotOnDisk:
        await while_connected(request, services.access.ask_in_vain(model_id, principal, token))
        raise
    if not await while_connected(request, services.access.visible([model], principal, token)):
        raise errors.ModelNotOnDisk(model_id=model_id)
    return model


def _hub_token(request: Request) -> str | None:
    """The caller's token of the Hub, by which they are let in to restricted models."""
    return request.headers.get(HUB_TOKEN_HEADER) or None


def _uses(download: Live, origin: Origin) -> bool:
    """Whether a download, also a queued or paused one, is of the same repository or URL (its query aside)."""
    repo, url = repo_or_url(download.ref)
    return repo == origin.repo if origin.repo else url is not None and url == origin.url
