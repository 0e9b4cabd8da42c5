"""Who may ask a worker at its own address.

On the loopback without API keys everybody on this machine, as with hive itself. Where there are keys, or the address is
reached from elsewhere: hive, by the token of its HIVE_HOME, or a key with the scope `run` (`read` for what only
watches). A page of a browser never: the Host must be a number, a name of this machine (where all addresses are bound
its host name, by which hive calls it then) or the address that was bound, which ends DNS rebinding, and a foreign
Origin may change nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import socket
import time
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from hive.auth.key_ring import KeyRing
from hive.auth.keys import KeyFile
from hive.auth.principal import Principal
from hive.auth.scopes import Scope
from hive.errors import (
    BadRequest,
    ForeignOrigin,
    InsufficientScope,
    InvalidApiKey,
    MisdirectedRequest,
    MissingApiKey,
    UnsupportedMediaType,
)
from hive.net.server_address import is_loopback
from hive.serving.worker_access import TOKEN_HEADER, worker_token
from hive.settings import Settings
from workers.inference.http1 import HttpRequest

#: Seconds between two looks whether the key file has changed.
LOOK_INTERVAL_S: Final = 1.0
#: What needs no key.
OPEN: Final = frozenset({"/health"})
_AUTHORITY: Final = re.compile(rb"(?:\[([0-9a-fA-F:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::\d{1,5})?")


class Guard:
    """Lets through or raises."""

    def __init__(self, settings: Settings, worker_id: str, host: str) -> None:
        """Raises KeyFileUnusable where there are keys that cannot be read."""
        self._keys = KeyRing(KeyFile(settings.api_keys_path))
        self._keys.load()
        self._token = worker_token(settings.secret_key_path, worker_id)
        self._hosts = {host.lower(), "localhost", *({socket.gethostname().lower()} if _is_any(host) else ())}
        self._names = {name.partition(":")[0] for name in settings.public_host_names}
        self._is_local = is_loopback(host)
        self._looked_s = time.monotonic()

    async def check(self, request: HttpRequest) -> Principal | None:
        """Let this request through: the principal of its key, or None where it needs none or is hive's own.

        Raises:
            HiveError: why it may not pass.
        """
        self._check_browser(request)
        if request.path in OPEN:
            return None
        await self.refresh()
        if self._is_local and not self._keys.on:
            return None
        given = request.headers.get(TOKEN_HEADER, b"").decode("latin-1")
        if self._token and hmac.compare_digest(given.encode(), self._token.encode()):
            return None
        return self._check_key(request)

    async def refresh(self) -> None:
        """Look whether the key file has changed, if nobody did a moment ago."""
        if time.monotonic() - self._looked_s >= LOOK_INTERVAL_S:
            self._looked_s = time.monotonic()
            await asyncio.to_thread(self._keys.refresh)

    def is_alive(self, principal: Principal) -> bool:
        """Whether the key of an answer that is on its way still counts."""
        return self._keys.is_alive(principal)

    def _check_key(self, request: HttpRequest) -> Principal:
        scheme, _, key = request.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            raise MissingApiKey
        if not self._keys.on:
            raise InvalidApiKey
        needs: Scope = "read" if request.method == "GET" else "run"
        principal = self._keys.principal(key.strip())
        if not principal.may(needs):
            raise InsufficientScope(needs=needs, scopes=sorted(principal.scopes))
        return principal

    def _check_browser(self, request: HttpRequest) -> None:
        headers = request.headers
        match = _AUTHORITY.fullmatch(headers.get(b"host", b""))
        if match is None:
            raise BadRequest("A request needs one Host header.")
        name = (match[1] or match[2]).decode().lower().rstrip(".")
        if not (_is_number(name) or name in (*self._hosts, *self._names) or name.endswith(".localhost")):
            raise MisdirectedRequest(host=name)
        if request.method == "GET":
            return
        site = headers.get(b"sec-fetch-site", b"none").strip().lower()
        if site not in (b"none", b"same-origin") or _is_foreign(headers):
            raise ForeignOrigin
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if b"origin" in headers and request.body and kind != b"application/json":
            raise UnsupportedMediaType


def _is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


def _is_any(host: str) -> bool:
    """Whether this is the address that stands for all of them."""
    return _is_number(host) and ip_address(host).is_unspecified


def _is_number(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
