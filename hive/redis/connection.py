"""Connections to Redis that leave a server which is no primary any more.

Problem: a connection outlives the failover. The server at its other end is a replica then and refuses every write, for
ever, while another one would take it. redis-py goes on with a connection that works. So one over which such a refusal
came is not used again; the next call connects anew, and finds the primary: by the Sentinels, or by a name that points
to it now.
"""

from __future__ import annotations

from typing import Any, Final

import redis
from redis.exceptions import ResponseError

from hive.net.redis_url import RedisAddress
from hive.redis.errors import code_of
from hive.redis.sentinel import Sentinels

#: What a server answers that is no primary, or one that its replicas have left.
_LEAVE: Final = frozenset({"READONLY", "UNBLOCKED", "MASTERDOWN", "NOREPLICAS"})

# redis-py's published types of these methods differ from class to class, so ours say nothing.


class _Leaves:
    """Marks itself as of no more use when the server refuses as a replica does."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """A reply."""
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as error:
            if code_of(error) in _LEAVE:
                self.mark_for_reconnect()  # type: ignore[attr-defined]
            raise


class _AsksSentinels:
    """Goes where the Sentinels say that the primary is."""

    def __init__(self, *, sentinels: Sentinels, **kwargs: Any) -> None:
        self._sentinels = sentinels
        super().__init__(**kwargs)

    def _connect(self) -> Any:
        self.host, self.port = self._sentinels.primary()
        return super()._connect()  # type: ignore[misc]

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """Log in, and see that it is the primary."""
        super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
        self.send_command("HELLO", check_health=False)  # type: ignore[attr-defined]
        self._sentinels.check_role(self.read_response())  # type: ignore[attr-defined]


class TcpConnection(_Leaves, redis.Connection):
    """In the clear, to one address."""


class TlsConnection(_Leaves, redis.SSLConnection):
    """TLS, to one address."""


class SentinelConnection(_AsksSentinels, TcpConnection):
    """In the clear, to the primary."""


class SentinelTlsConnection(_AsksSentinels, TlsConnection):
    """TLS, to the primary."""


def connection_class(address: RedisAddress) -> Any:
    """The class for this address of a host. That of Sentinels takes them as `sentinels`."""
    if address.sentinels:
        return SentinelConnection if address.tls is None else SentinelTlsConnection
    return TcpConnection if address.tls is None else TlsConnection
