"""Redis Sentinel: where the primary is, asked anew for each connection.

Problem: after a failover another server takes the writes, and an address that stands in a URL is the old one's. The
easy way, one DNS name that somebody moves, keeps every connection that is there at the old one. So whoever connects
asks the Sentinels first, the one that answered last before the others, and makes sure that what it reached believes to
be the primary: a Sentinel that was cut off may name the one before. It is asked with HELLO, for which a user needs no
right beyond what any connection needs (ROLE is @dangerous).

A Sentinel that ends a failover cuts the connections of the old primary's clients, and a client that is told READONLY
leaves by itself (connection.py). redis-py has the same as a pool, which keeps connections to every Sentinel,
looks at no role, and is of no use to the subscription.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ResponseError
from redis.retry import Retry

from hive.net.redis_url import RedisAddress
from hive.redis.errors import ConnectError, code_of

#: Seconds for a connection to a Sentinel and for its answer: three that hang must not use up what the subscription has.
SENTINEL_TIMEOUT_S: Final = 0.5
#: Digits of a port.
_PORT_DIGITS: Final = 5
#: What a server says to whom it does not let in.
_NOT_LET_IN: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
#: What a primary calls itself.
_PRIMARY_ROLES: Final = frozenset({"master", "primary"})


class Sentinels:
    """The Sentinels of one primary. Safe from several threads."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._order = address.sentinels

    def primary(self) -> tuple[str, int]:
        """Host and port of the primary, by the first Sentinel that knows it. Blocking, for at most a second for each.

        Raises:
            ConnectError: none of them answers, or none knows it, or none is a Sentinel.
        """
        last: Exception | None = None
        unknown = False
        for sentinel in self._order:
            try:
                found = self._ask(sentinel)
            except redis.RedisError as error:
                last = error if last is None or isinstance(error, ResponseError | AuthenticationError) else last
                continue
            if found is not None:
                self._prefer(sentinel)
                return found
            unknown = True
        if unknown:
            raise ConnectError("SENTINEL_UNKNOWN_PRIMARY")
        code = code_of(last) if last is not None else ""
        if code in ("REFUSED", "NOT_REDIS") or (code in _NOT_LET_IN and self._are_none()):
            raise ConnectError("NOT_SENTINEL") from last
        if code in _NOT_LET_IN:
            raise ConnectError("SENTINEL_AUTH") from last
        raise ConnectError("SENTINEL_AWAY") from last

    def check_role(self, hello: Any) -> None:
        """See that the server which gave this answer to HELLO is a primary. Where it is none, whoever named it is
        asked last the next time.

        Raises:
            ConnectError: it is none.
        """
        if said_in(hello, "role") not in _PRIMARY_ROLES:
            order = self._order  # read once: between two reads another thread may have put another one first
            self._order = (*order[1:], order[0])
            raise ConnectError("SENTINEL_STALE")

    def _prefer(self, sentinel: tuple[str, int]) -> None:
        if self._order[0] != sentinel:
            self._order = (sentinel, *(other for other in self._order if other != sentinel))

    def _are_none(self) -> bool:
        """Whether one of them does not know what it is asked, which Redis says to whoever has not logged in."""
        stranger = replace(self._address, sentinel_username=None, sentinel_password=None)
        for sentinel in self._order:
            try:
                Sentinels(stranger)._ask(sentinel)
            except redis.RedisError as error:
                if code_of(error) == "REFUSED":
                    return True
        return False

    def _ask(self, sentinel: tuple[str, int]) -> tuple[str, int] | None:
        """What one of them says. Raises redis-py's errors."""
        connection = self._connection(*sentinel)
        try:
            connection.connect()
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.primary_name)
            answer = connection.read_response()
        finally:
            connection.disconnect()
        return _place(answer)

    def _connection(self, host: str, port: int) -> Any:
        kind: Any = redis.Connection if self._address.tls is None else redis.SSLConnection
        return kind(
            host=host,
            port=port,
            username=self._address.sentinel_username,
            password=self._address.sentinel_password,
            socket_timeout=SENTINEL_TIMEOUT_S,
            socket_connect_timeout=SENTINEL_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            driver_info=None,
            **(self._address.tls or {}),
        )

    def __repr__(self) -> str:
        return f"Sentinels({self._address})"


def _place(answer: Any) -> tuple[str, int] | None:
    """Host and port, of what a Sentinel answers; None where that is none."""
    match answer:
        case [bytes() as host, bytes() as port] if host and len(port) <= _PORT_DIGITS and port.isdigit():
            return host.decode("utf-8", "replace"), int(port)
    return None


def said_in(hello: Any, name: str) -> str:
    """What a server says of itself under this name in its answer to HELLO; "" where it does not."""
    if not isinstance(hello, list):
        return ""
    words = [word.decode("utf-8", "replace") if isinstance(word, bytes) else word for word in hello]
    found = (value for key, value in zip(words[::2], words[1::2], strict=False) if key == name)
    return next((value for value in found if isinstance(value, str)), "")
