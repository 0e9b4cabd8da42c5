"""Trusted proxies: a request's client and scheme become those that they tell, before anybody looks at them.

Whatever goes by an address (rates, wrong keys, shares of streams, the audit log) reads `client` from the ASGI scope, so
it is set there, once. uvicorn has a middleware for it (`--forwarded-allow-ips`), which is not used: it takes any text
of the header for an address, so that each request could come from a new one; it reads neither `Forwarded` nor the host;
it does not know that ::ffff:10.0.0.1 is 10.0.0.1; and its `*` believes what the client itself has typed.

Connections are counted before there is a request (http1.py): those of trusted proxies are in no address's share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Scope

from hive.net.forwarded import ClientOrigin, TrustedProxies

#: Where in the scope stands what trusted proxies have told; it is not there where they have told nothing.
FORWARDED: Final = "hive.forwarded"


def apply_forwarded(scope: Scope, trusted: TrustedProxies) -> None:
    """Set the client and the scheme of a request that came through trusted proxies."""
    client = scope.get("client")
    origin = trusted.origin(client[0] if client else "", scope["headers"])
    if origin is None:
        return
    scope[FORWARDED] = origin
    scope["client"] = (origin.address, 0)
    scope["scheme"] = origin.scheme or scope["scheme"]


def forwarded_of(scope: Mapping[str, Any]) -> ClientOrigin | None:
    """What trusted proxies have told of a request, or None."""
    found: ClientOrigin | None = scope.get(FORWARDED)
    return found
