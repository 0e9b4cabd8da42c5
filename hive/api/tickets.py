"""Tickets and sessions over HTTP: what a page asks for once, with a key, to go on without it."""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hive import errors
from hive.api.authentication import COOKIE, LOOPBACK_COOKIE, bearer, is_loopback_host, session_cookie
from hive.api.downloads import read_id
from hive.api.forwarded import forwarded_of
from hive.api.json import JsonResponse, error_response, read_body
from hive.api.services import services_of
from hive.auth.principal import principal_of
from hive.wire.api import SessionReply, TicketReply, TicketRequest

#: An answer that no cache may keep.
_NOT_KEPT: Final = {"cache-control": "no-store"}


async def create(request: Request) -> Response:
    """`POST /v1/tickets`: a ticket for streams, of downloads that are named or of all."""
    body = await read_body(request, TicketRequest)
    if bool(body.ids) == body.all:
        raise errors.BadRequest("Give 'ids', or 'all': true.")
    ids = tuple(dict.fromkeys(read_id(text) for text in body.ids)) or None
    made = await run_in_threadpool(services_of(request).tickets.make, principal_of(request), ids, body.ttl)
    return JsonResponse(TicketReply(ticket=made.text, expires_at=made.expires_s), headers=_NOT_KEPT)


async def create_session(request: Request) -> Response:
    """`POST /v1/session`: a cookie for pages of this origin. It takes a key: a session makes no other."""
    services, headers = services_of(request), dict(request.scope["headers"])
    principal = principal_of(request)
    if services.keys.on and bearer(request.scope, headers) is None:
        raise errors.MissingApiKey("A session is made with a key: `Authorization: Bearer hive_...`.")
    if not is_loopback_host(headers) and _scheme(request) == "http":
        raise errors.BadRequest(
            "A page over plain http on another machine cannot have a session: no browser keeps its cookie. "
            "Serve hive over https."
        )
    made = await run_in_threadpool(services.sessions.make, principal)
    reply = SessionReply(key_id=principal.key_id, scopes=tuple(sorted(principal.scopes)), expires_at=made.expires_s)
    answer = JsonResponse(reply, headers=_NOT_KEPT)
    _set_cookie(answer, made.text, max(0, int(made.expires_s - time.time())), secure=_is_secure(request))
    return answer


async def end_session(request: Request) -> Response:
    """`DELETE /v1/session`: ends it on every replica, and takes the cookie away. A dead one can go too."""
    headers = dict(request.scope["headers"])
    answer = Response(status_code=204)
    if (text := session_cookie(headers)) is not None:
        try:
            await run_in_threadpool(services_of(request).sessions.end, text)
        except (
            errors.KeyFileUnusable
        ) as error:  # it is over here, and may not be elsewhere; the cookie goes all the same
            answer = error_response(error)
    _set_cookie(answer, "", 0, secure=_is_secure(request))
    return answer


def _scheme(request: Request) -> str:
    """The scheme of the page that asks, or, where no page says so, of what trusted proxies tell; "" for unknown."""
    forwarded = forwarded_of(request.scope)
    return urlsplit(request.headers.get("origin", "")).scheme or (forwarded and forwarded.scheme) or ""


def _is_secure(request: Request) -> bool:
    """Whether the cookie is the one for https: everywhere but on the loopback, and there where TLS ends at a proxy."""
    return not is_loopback_host(dict(request.scope["headers"])) or request.scope["scheme"] == "https"


def _set_cookie(answer: Response, value: str, max_age_s: int, *, secure: bool) -> None:
    name = COOKIE if secure else LOOPBACK_COOKIE
    answer.set_cookie(name, value, max_age=max_age_s, path="/", secure=secure, httponly=True, samesite="strict")
