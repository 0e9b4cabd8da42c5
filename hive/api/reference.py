"""`GET /openapi.json` and `GET /docs`: what this server answers, for programs and for people.

Both are made once, when somebody asks, in a thread: a server that nobody asks has neither imported nor built them, and
making them takes the event loop nothing. They are the same until the process ends, so a digest is their ETag.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hive.api.routes import ApiRoute, StreamRoute

#: Bytes of the larger of both; tests/api/test_openapi.py keeps it. There is one of each in a process.
MAX_BYTES: Final = 1 << 20


#: The two that are made.
Made = Literal["document", "page"]


class FixedAnswer(NamedTuple):
    """A body that does not change, its media type, and what its answers have beside that."""

    body: bytes
    media_type: str
    headers: dict[str, str]


class Reference:
    """The document and the page of one route table, each made once."""

    def __init__(self, routes: Sequence[ApiRoute | StreamRoute]) -> None:
        self._routes = routes
        self._made: dict[Made, FixedAnswer] = {}
        self._lock = threading.Lock()

    async def get(self, what: Made) -> FixedAnswer:
        """The answer, made in a thread where it is the first one."""
        found = self._made.get(what)
        return found if found is not None else await run_in_threadpool(self._make, what)

    def _make(self, what: Made) -> FixedAnswer:
        with self._lock:
            if what not in self._made:
                self._made[what] = _document(self._routes) if what == "document" else _page(self._routes)
            return self._made[what]


def _document(routes: Sequence[ApiRoute | StreamRoute]) -> FixedAnswer:
    from hive.api.openapi.document import openapi

    return _answer(msgspec.json.encode(openapi(routes)), "application/json")


def _page(routes: Sequence[ApiRoute | StreamRoute]) -> FixedAnswer:
    from hive.api.openapi.document import openapi
    from hive.api.openapi.reference_page import render

    page, policy = render(openapi(routes))
    return _answer(page, "text/html; charset=utf-8", {"content-security-policy": policy})


async def openapi_json(request: Request) -> Response:
    """`GET /openapi.json`: the OpenAPI document of this server."""
    return await _respond(request, "document")


async def docs_page(request: Request) -> Response:
    """`GET /docs`: the same for people, without anything from elsewhere."""
    return await _respond(request, "page")


def _answer(body: bytes, media_type: str, headers: dict[str, str] | None = None) -> FixedAnswer:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    # Kept, and asked for again each time: a server of another version has another.
    both = {"etag": tag, "cache-control": "no-cache", "x-content-type-options": "nosniff"}
    return FixedAnswer(body, media_type, {**both, **(headers or {})})


async def _respond(request: Request, what: Made) -> Response:
    reference: Reference = request.app.state.reference
    answer = await reference.get(what)
    asked = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if answer.headers["etag"] in asked or "*" in asked:
        return Response(status_code=304, headers=answer.headers)
    return Response(answer.body, media_type=answer.media_type, headers=answer.headers)
