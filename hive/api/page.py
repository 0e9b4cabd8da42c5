"""`GET /`: the page that people keep open, the files that it is made of, and a list for browsers without scripts.

The page holds no data: it is the same for everybody, and asks the API as any program does. So it is open where keys are
on, is drawn before anything is asked, and costs the streams nothing but one file in memory.
"""

from __future__ import annotations

from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hive import errors
from hive.api.disconnect import while_connected
from hive.api.services import services_of
from hive.auth.principal import principal_of
from hive.downloads.view import view
from hive.page.assets import HEADERS, INDEX, Assets
from hive.wire.api import HUB_TOKEN_HEADER

#: Where the page's files are.
FILES_PATH: Final = "/page/{name}"
#: Downloads that the list without scripts shows.
MAX_LISTED: Final = 100


# "Ollama is running" is what clients of Ollama look for here; a page that says so in a comment will do for them.
async def index(request: Request) -> Response:
    """`GET /`: the page."""
    return await _respond(request, INDEX)


async def file(request: Request) -> Response:
    """`GET /page/{name}`: one of its files."""
    return await _respond(request, request.path_params["name"])


async def plain_list(request: Request) -> Response:
    """`GET /list`: downloads and models for a browser without scripts."""
    from hive.page import listing

    services, principal = services_of(request), principal_of(request)
    page = await services.commands.run(services.tracker.page, limit=MAX_LISTED, principal=principal)
    found = await services.store_calls.run(services.catalog.list)
    token = request.headers.get(HUB_TOKEN_HEADER) or None
    models = await while_connected(request, services.access.visible(found, principal, token))
    rows = [(view(record, principal), record.last_event) for record in page.records]
    body = await run_in_threadpool(listing.render, rows, list(models))
    return Response(body, media_type="text/html; charset=utf-8", headers={**HEADERS, "cache-control": "no-store"})


async def _respond(request: Request, name: str) -> Response:
    assets: Assets = request.app.state.page
    found = assets.find(name) if assets.are_read else await run_in_threadpool(assets.find, name)
    if found is None:
        raise errors.NotFound(f"There is nothing at {request.url.path[:200]!r}. The addresses are in docs/api.md.")
    headers = {**HEADERS, "etag": found.etag}
    asked = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if found.etag in asked or "*" in asked:
        return Response(status_code=304, headers=headers)
    if _takes_gzip(request.headers.get("accept-encoding", "")):
        return Response(found.compressed, media_type=found.media_type, headers={**headers, "content-encoding": "gzip"})
    return Response(found.body, media_type=found.media_type, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Whether the client names gzip, and not with a weight of nothing."""
    for part in accepted.split(","):
        coding, _, weight = part.replace(" ", "").lower().partition(";")
        if coding == "gzip":
            return weight not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
