"""Who asks: from the header, the ticket or the cookie of a request to its principal.

In this order, and the first that is there decides; a wrong key is not made good by a right cookie.

    Authorization: Bearer hive_...     everywhere
    ?ticket=                           on the two streams only: an EventSource sends no headers
    the session's cookie               everywhere; what changes something must come from a page of this very origin,
                                       because a browser sends the cookie of its own accord

A key is read from that header and from nowhere else: what stands in an address ends up in logs and histories. A page on
this machine is served over plain http, where no browser takes a `__Host-` cookie everywhere; there, and only where the
Host is a name of the loopback, the cookie is called `hive` and is not Secure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from hive import errors
from hive.auth.failures import Failures
from hive.auth.key_ring import KeyRing
from hive.auth.principal import NOBODY, Principal
from hive.auth.tickets import Sessions, Tickets

#: The session's cookie: where the Host is a name of the loopback, and elsewhere.
LOOPBACK_COOKIE: Final = "hive"
COOKIE: Final = "__Host-hive"
_TICKET: Final = b"ticket="

Headers = Mapping[bytes, bytes]


class Authenticator:
    """Finds the principal of a request, where keys are on."""

    def __init__(
        self,
        keys: KeyRing,
        tickets: Tickets,
        sessions: Sessions,
        open_routes: Collection[tuple[str, str]],
        streams: Collection[str],
    ) -> None:
        """`open_routes`: method and path of what needs no key, or of all in one folder, `/folder/{name}`; `streams`:
        paths where a ticket counts.
        """
        self.keys = keys
        self._tickets = tickets
        self._sessions = sessions
        self._open_routes = frozenset(open_routes)
        self._open_folders = tuple(
            (method, path.partition("{")[0]) for method, path in open_routes if path.endswith("/{name}")
        )
        self._streams = frozenset(streams)
        self._failures = Failures()

    def principal(self, scope: Mapping[str, Any], headers: Headers, *, from_here: bool) -> Principal:
        """Who asks. `from_here`: a browser says that a page of this origin sent it.

        Raises:
            MissingApiKey, InvalidApiKey, TooManyFailedKeys: nobody whom this server knows.
            ForeignOrigin: a cookie would change something, and the page is not of this origin.
            KeyFileUnusable: nothing is known of any key.
        """
        if self._is_open(scope["method"], scope["path"]):
            return NOBODY
        try:
            return self._found(scope, headers, from_here=from_here)
        except errors.InvalidApiKey as error:
            if error.is_guess:
                self._count_failure(scope.get("client"))
            raise

    def _is_open(self, method: str, path: str) -> bool:
        if (method, path) in self._open_routes:
            return True
        return any(
            method == known and path.startswith(folder) and "/" not in path[len(folder) :]
            for known, folder in self._open_folders
        )

    def _found(self, scope: Mapping[str, Any], headers: Headers, *, from_here: bool) -> Principal:
        if (key := bearer(scope, headers)) is not None:
            return self.keys.principal(key)
        if _TICKET in scope["query_string"] and scope["path"] in self._streams:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            return self._tickets.principal(query.get("ticket", [""])[0])
        if (cookie := session_cookie(headers)) is not None:
            found = self._sessions.principal(cookie)
            if not from_here and scope["method"] not in ("GET", "HEAD"):
                raise errors.ForeignOrigin("A session's cookie changes something only from a page of this server.")
            return found
        raise errors.MissingApiKey

    def _count_failure(self, client: tuple[str, int] | None) -> None:
        address = client[0] if client else ""
        if (wait_s := self._failures.add(address)) is not None:
            raise errors.TooManyFailedKeys(retry_after_s=math.ceil(wait_s)) from None


def bearer(scope: Mapping[str, Any], headers: Headers) -> str | None:
    """The key in the Authorization header; None where there is none, or one of another scheme (a proxy's).

    Raises:
        InvalidApiKey: there are several such headers.
    """
    value = headers.get(b"authorization")
    if value is None:
        return None
    if sum(name == b"authorization" for name, _ in scope["headers"]) > 1:
        raise errors.InvalidApiKey
    scheme, _, key = value.decode("latin-1").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def is_loopback_host(headers: Headers) -> bool:
    """Whether the request's Host is a name of the loopback."""
    try:
        name = urlsplit("//" + headers.get(b"host", b"").decode("latin-1")).hostname or ""
        return name == "localhost" or name.endswith(".localhost") or ip_address(name).is_loopback
    except ValueError:
        return False


def session_cookie(headers: Headers) -> str | None:
    """The session in the request's cookies; None where there is none."""
    text = headers.get(b"cookie", b"")
    if b"hive=" not in text:
        return None
    # Blanks alone: a browser takes a name for another that begins with some other white space, and no `__Host-` keeps
    # a neighbour from planting that one.
    pairs = (pair.strip(" \t").partition("=") for pair in text.decode("latin-1").split(";"))
    found = {name: value for name, _, value in pairs}
    # Only `__Host-` keeps a neighbour under the same domain from planting a cookie.
    planted = None if not is_loopback_host(headers) else found.get(LOOPBACK_COOKIE)
    return found.get(COOKIE, planted)
