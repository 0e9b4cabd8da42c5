"""The gate in front of every route, streams too: who may ask, and the id under which it is told.

Problem: hive listens on the loopback, mostly without keys, and a browser on the same machine carries every web page's
requests there. A page may send a POST to any address without being asked (`mode: "no-cors"`), only the answer is kept
from it; and a name that leads to the page's server first and to 127.0.0.1 later (DNS rebinding) makes hive the page's
own origin, which may read too. The easy way, to allow what CORS allows, guards neither: CORS is about reading. So:

    Host             a name that means this machine, or one of HIVE_PUBLIC_HOSTS; else 421. This ends rebinding.
    Origin,          foreign ones change nothing: 403 on all but GET and HEAD, unless HIVE_ALLOW_ORIGINS names them.
    Sec-Fetch-Site   What they GET they cannot read: no CORS headers are sent but to those that are named.
    a key            where keys are on, all but a few routes need one; else 401 (authentication.py). Whether it may do
                     what it asks is the route's matter (routes.py)
    Content-Type     a body that a browser sends must be JSON, which no form can send; else 415. What shows no mark of a
                     browser (curl's bare `-d`) goes on as before.
    a rate           what is let in counts for its key or address, and what is refused for its address, as every
                     request without a key: a flood of refusals is a flood. The limit is then what it is told; else 429

What a name may be depends on where the connection came in. On the loopback only this machine's programs connect, and
they say `localhost` or a number of the loopback. Beyond it (a container behind a proxy, another machine) the number is
whatever the network gave, and the names are those of a network without dots: no page from elsewhere has such a name.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hive import errors, logs
from hive.api.authentication import Authenticator
from hive.api.forwarded import forwarded_of
from hive.api.json import MAX_PROMPT_BODY_BYTES, body_too_large, error_response, max_body_bytes
from hive.auth.principal import ANONYMOUS, NOBODY, PRINCIPAL, Principal
from hive.own_limits import limit_reached

log = logging.getLogger("hive.api.gate")

#: Where in the scope the headers stand that every answer is to have, for whoever writes a head without ASGI.
ANSWER_HEADERS: Final = "hive.answer_headers"
#: Answered whatever the Host: a supervisor or load balancer asks by numbers that nobody foresees, and learns nothing.
_PROBES: Final = frozenset({"/healthz", "/readyz"})
#: Statuses of what passes: whoever asks again later may be let in.
_PASSING: Final = frozenset({429, 503})
#: Seconds that a browser may keep the answer to a preflight.
PREFLIGHT_TTL_S: Final = 600
_METHODS: Final = b"GET, HEAD, POST, PUT, DELETE"
_ASKED_HEADERS: Final = b"authorization, content-type, last-event-id, x-hf-token, x-request-id"
_READABLE_HEADERS: Final = b"x-request-id, retry-after"
#: By which a browser says whose page asks.
_MARKS: Final = (b"origin", b"sec-fetch-site")
#: What a browser calls an origin that it does not name: never that of a host.
_NO_ORIGIN: Final = "null"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_AUTHORITY = re.compile(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::(\d{1,5}))?")

#: Counts a request, which has its principal; raises TooManyRequests.
Admit = Callable[[Mapping[str, Any]], None]
#: Asks an EventSource to come back; False, with nothing sent, where the request is none.
AskBack = Callable[[Scope, Send], Awaitable[bool]]


class Gate:
    """Lets through to `app` what may pass, and answers the rest."""

    def __init__(
        self,
        app: ASGIApp,
        public_hosts: Iterable[str] = (),
        allow_origins: Iterable[str] = (),
        authenticator: Authenticator | None = None,
        admit: Admit | None = None,
        ask_back: AskBack | None = None,
    ) -> None:
        """`public_hosts`: names or `name:port`, in lower case; `allow_origins`: `scheme://host[:port]`."""
        self._app = app
        self._admit = admit
        self._ask_back = ask_back
        self._authenticator = authenticator
        self._public_hosts = frozenset(public_hosts)
        self._allow_origins = frozenset(allow_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _Headers(scope)
        request_id = headers.request_id()
        added = scope[ANSWER_HEADERS] = [(b"x-request-id", request_id)]
        allowed = headers.origin is not None and headers.origin in self._allow_origins
        if self._allow_origins:
            added.append((b"vary", b"origin"))
        if allowed:
            added.append((b"access-control-allow-origin", headers.origin.encode()))  # type: ignore[union-attr]
            added.append((b"access-control-expose-headers", _READABLE_HEADERS))

        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        with logs.bound(request_id=request_id.decode()):
            try:
                await self._serve(scope, headers, receive, send_with_id, allowed=allowed)
            except (Exception, asyncio.CancelledError) as error:
                if begun:
                    raise  # Starlette has answered a mistake of ours, and raises it for the server to log
                await self._answer(error, scope, receive, send_with_id)

    async def _serve(self, scope: Scope, headers: _Headers, receive: Receive, send: Send, *, allowed: bool) -> None:
        """Let a request through. Raises what is to be answered where it may not pass."""
        self._check(scope, headers, allowed=allowed)
        if allowed and headers.is_preflight:
            self._count_for_address(scope)
            await _answer_preflight(headers, send)
            return
        scope[PRINCIPAL] = self._principal(scope, headers)
        if self._admit is not None:
            self._admit(scope)
        await self._app(scope, receive, send)

    async def _answer(self, error: BaseException, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that was refused, or failed before an answer began."""
        if isinstance(error, asyncio.CancelledError):  # it took longer than a server that stops waits
            error = errors.ServerBusy("This server is stopping. Ask again: the next one, or another replica, answers.")
        elif not isinstance(error, errors.HiveError):
            log.error("a request failed", exc_info=error)
            error = limit_reached(error) or errors.InternalError()
        elif PRINCIPAL not in scope:
            error = self._refusal(scope, error)
        if error.status not in _PASSING or self._ask_back is None or not await self._ask_back(scope, send):
            await error_response(error, scope["path"])(scope, receive, send)

    def _refusal(self, scope: Scope, error: errors.HiveError) -> errors.HiveError:
        """What a request that is not let in is told: why, or that there were too many from its address."""
        try:
            self._count_for_address(scope)
        except errors.TooManyRequests as too_many:
            # Wrong keys have a limit of their own, whose wait is longer.
            return error if isinstance(error, errors.TooManyFailedKeys) else too_many
        return error

    def _count_for_address(self, scope: Scope) -> None:
        """Count what has no principal, for its address. Raises TooManyRequests."""
        if self._admit is not None:
            has_keys = self._authenticator is not None and self._authenticator.keys.on
            self._admit({**scope, PRINCIPAL: NOBODY if has_keys else ANONYMOUS})

    def _principal(self, scope: Scope, headers: _Headers) -> Principal:
        """Who asks; from here on the log says it too."""
        if self._authenticator is None or not self._authenticator.keys.on:
            return ANONYMOUS
        found = self._authenticator.principal(scope, headers.values, from_here=headers.is_from_here)
        if found.key_id:
            logs.add(key=f"key:{found.key_id}")
        return found

    def _check(self, scope: Scope, headers: _Headers, *, allowed: bool) -> None:
        """Raise what is to be answered, where the request may not pass."""
        if scope["path"] not in _PROBES:
            self._check_host(scope, headers)
            self._take_forwarded_host(scope, headers)
        changes = scope["method"] not in ("GET", "HEAD")
        if changes and not allowed and headers.is_foreign:
            raise errors.ForeignOrigin
        if changes and headers.has_body and headers.is_from_browser and not headers.is_json:
            raise errors.UnsupportedMediaType
        if headers.body_bytes > max_body_bytes(scope["path"]):
            raise body_too_large(scope["path"])

    def _check_host(self, scope: Scope, headers: _Headers) -> None:
        if not headers.hosts and scope["http_version"] == "1.0":
            return  # before there was such a header; no browser
        if len(headers.hosts) != 1:
            raise errors.BadRequest("A request needs one Host header.")
        match = _AUTHORITY.fullmatch(headers.hosts[0])
        if match is None or not self._is_ours(match, scope.get("server")):
            raise errors.MisdirectedRequest(host=headers.hosts[0][:255])

    def _take_forwarded_host(self, scope: Scope, headers: _Headers) -> None:
        """A trusted proxy that writes its own Host tells the client's, which then is the Host for all that follow: the
        origin of pages, the session's cookie. Only a public name is taken, and only where the Host has passed: a page
        that reaches hive by a name of its own may send this header.
        """
        forwarded = forwarded_of(scope)
        match = _AUTHORITY.fullmatch(forwarded.host) if forwarded is not None and forwarded.host else None
        if match is not None and self._is_public(match):
            headers.replace_host(scope, match[0])

    def _is_public(self, authority: re.Match[str]) -> bool:
        name = (authority[1] or authority[2]).lower().rstrip(".")
        return name in self._public_hosts or f"{name}:{authority[3]}" in self._public_hosts

    def _is_ours(self, authority: re.Match[str], server: tuple[str, int | None] | None) -> bool:
        if self._is_public(authority):
            return True
        name = (authority[1] or authority[2]).lower().rstrip(".")
        bound = server[0] if server else ""
        if name == bound:
            return True
        try:
            return ip_address(name).is_loopback or not _is_loopback(bound)
        except ValueError:
            return name == "localhost" or name.endswith(".localhost") or ("." not in name and not _is_loopback(bound))


class _Headers:
    """What the gate looks at, read once."""

    def __init__(self, scope: Scope) -> None:
        #: By name, in lower case; of those that came twice the last.
        values = self.values = dict(scope["headers"])
        self._method = scope["method"]
        self._fetches = any(name.startswith(b"sec-fetch-") for name in values)
        self.hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        self.origin = values[b"origin"].decode("latin-1") if b"origin" in values else None
        if len(values) < len(scope["headers"]) and _has_two_marks(scope["headers"]):
            self.origin = _NO_ORIGIN  # no browser sends one twice, and two parsers would choose each its own
        length = values.get(b"content-length", b"0")
        self.body_bytes = int(length) if length.isdigit() and len(length) < 20 else MAX_PROMPT_BODY_BYTES + 1

    def request_id(self) -> bytes:
        """The caller's id where it is one, else a new one."""
        given: bytes = self.values.get(b"x-request-id", b"")
        # Not uuid4: it asks the system for randomness, and nothing depends on nobody guessing an id.
        return given if _REQUEST_ID.fullmatch(given) else b"%032x" % random.getrandbits(128)

    def replace_host(self, scope: Scope, host: str) -> None:
        """Put another Host in place of the one that came, here and in the scope."""
        self.hosts, self.values[b"host"] = [host], host.encode("latin-1")
        others = [header for header in scope["headers"] if header[0] != b"host"]
        scope["headers"] = [*others, (b"host", self.values[b"host"])]

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks whether it may ask."""
        return self._method == "OPTIONS" and b"access-control-request-method" in self.values

    @property
    def asks_private_network(self) -> bool:
        """Whether a public page's browser asks whether it may reach into a private network."""
        return self.values.get(b"access-control-request-private-network") == b"true"

    @property
    def is_from_browser(self) -> bool:
        """Whether it bears a browser's marks."""
        return self.origin is not None or self._fetches

    @property
    def is_foreign(self) -> bool:
        """Whether a page of another origin sent it, by what either mark says."""
        if self.values.get(b"sec-fetch-site", b"none").strip().lower() not in (b"same-origin", b"none"):
            return True
        return self.origin is not None and not _is_same(self.origin, self.hosts)

    @property
    def is_from_here(self) -> bool:
        """Whether a browser says that a page of this very origin sent it; no mark is no word."""
        site = self.values.get(b"sec-fetch-site", b"").strip().lower()
        return (site == b"same-origin" or (not site and self.origin is not None)) and not self.is_foreign

    @property
    def has_body(self) -> bool:
        """Whether a body comes with it."""
        return self.body_bytes > 0 or b"transfer-encoding" in self.values

    @property
    def is_json(self) -> bool:
        """Whether the body says that it is JSON."""
        kind: bytes = self.values.get(b"content-type", b"")
        return kind.partition(b";")[0].strip().lower() == b"application/json"


def _has_two_marks(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    names = [name for name, _ in headers]
    return any(names.count(name) > 1 for name in _MARKS)


def _is_same(origin: str, hosts: list[str]) -> bool:
    """Whether an origin is the host that was asked. The scheme is the proxy's matter, which may end TLS."""
    try:
        asked = urlsplit(f"{urlsplit(origin).scheme}://{hosts[0]}")
        given = urlsplit(origin)
        default = _DEFAULT_PORTS[given.scheme]
        return given.hostname == asked.hostname and (given.port or default) == (asked.port or default)
    except (ValueError, KeyError, IndexError):
        return False  # `null`, and what is no origin at all


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return True  # a socket in the file system: whoever reaches it is on this machine


async def _answer_preflight(headers: _Headers, send: Send) -> None:
    answer = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", _ASKED_HEADERS),
        (b"access-control-max-age", b"%d" % PREFLIGHT_TTL_S),
    ]
    if headers.asks_private_network:
        answer.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b""})
