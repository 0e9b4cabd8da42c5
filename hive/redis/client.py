"""Redis clients from one URL, with every time-out explicit, and the one thread in which the HTTP process talks to
Redis.

Problem: the HTTP process must answer within seconds whatever Redis does, with two connections however many clients it
has (this one for commands, one for pub/sub in `streams/pubsub.py`); RQ knows only blocking clients. A pool of blocking
clients in a pool of threads would open a connection per busy thread, and an async twin of every call would be a
second implementation of the same scripts. So: one thread, one connection, one queue in front of it, and a deadline on
each call. A call is a round trip or two, so one thread carries thousands a second.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeAlias, TypeVar

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from hive.errors import RedisUnavailable
from hive.net.redis_url import RedisAddress, parse_redis_url
from hive.redis.errors import is_redis_error, unavailable

P = ParamSpec("P")
T = TypeVar("T")

#: A redis-py client that gives bytes. Its published types allow text everywhere (they do not follow
#: `decode_responses`), so ours say nothing.
RedisClient: TypeAlias = Any

#: Seconds to wait for a connection and for a reply. Far below a lease, so that a silent Redis is noticed while there
#: is time to act.
CONNECT_TIMEOUT_S = 1.0
REPLY_TIMEOUT_S = 2.0
#: One repeat, at once: what is sent is safe to repeat, and a connection that Redis closed while idle must not become
#: an error.
RETRIES = 1
#: Seconds until the HTTP process says that it cannot answer (503).
ANSWER_TIMEOUT_S = 2.5
#: Calls that may wait for the thread; more are refused at once.
MAX_WAITING_CALLS = 10_000

#: The root of all that redis-py raises, and what it makes of an error that Redis answers.
RedisError = redis.exceptions.RedisError
ResponseError = redis.exceptions.ResponseError


def connect(
    to: RedisAddress | str,
    *,
    reply_timeout_s: float = REPLY_TIMEOUT_S,
    retries: int = RETRIES,
    max_connections: int = 4,
) -> RedisClient:
    """A blocking client for short commands, of a URL or of what was read from one.

    Raises:
        RedisUrlError: the URL is none that hive understands.
    """
    address = address_of(to)
    pool = redis.ConnectionPool(
        connection_class=_connection_class(address),
        **connection_options(address),
        socket_timeout=reply_timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(ConstantBackoff(0.05), retries),
        max_connections=max_connections,
        health_check_interval=0,
        protocol=2,
        **_driver_info(address),
    )
    return redis.Redis.from_pool(pool)


def address_of(to: RedisAddress | str) -> RedisAddress:
    """What a URL says. Raises RedisUrlError."""
    return parse_redis_url(to) if isinstance(to, str) else to


def connection_options(address: RedisAddress) -> dict[str, Any]:
    """The address, as redis-py's connections name its parts."""
    place: dict[str, Any] = {"host": address.host, "port": address.port}
    if address.sentinels:
        from hive.redis.sentinel import Sentinels

        place = {"sentinels": Sentinels(address)}
    elif address.path is not None:
        place = {"path": address.path}
    who: dict[str, Any] = {"username": address.username, "password": address.password}
    if address.credentials:
        from hive.redis.credentials import HookProvider

        who = {"credential_provider": HookProvider(address.credentials, address.username)}
    who["client_name"] = address.client_name
    return {**place, "db": address.db, **{name: value for name, value in who.items() if value}, **(address.tls or {})}


def tls_context(address: RedisAddress) -> ssl.SSLContext | None:
    """The TLS that redis-py would use for this address, for a connection that is not redis-py's; None in the clear.

    Raises:
        OSError, redis.exceptions.RedisError: a file that is named cannot be read.
    """
    if address.tls is None:
        return None
    from redis.asyncio.connection import SSLConnection

    return SSLConnection(**address.tls).ssl_context.get()


def database_of(client: RedisClient) -> int:
    """The number of the database that this client works in."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def _driver_info(address: RedisAddress) -> dict[str, Any]:
    """redis-py's name and version are not told: two round trips for each connection, and a right that Redis knows only
    from 7.2 on. A TLS connection needs one answer before redis-py looks whether it is idle.
    """
    needs_an_answer = address.tls is not None and not (address.password or address.credentials)
    return {} if needs_an_answer else {"driver_info": None}


def _connection_class(address: RedisAddress) -> Any:
    if address.path is not None:
        return redis.UnixDomainSocketConnection
    # Here and above, not at the top: a hive with a Redis of its own starts without them.
    from hive.redis.connection import connection_class

    return connection_class(address)


class CommandThread:
    """Runs blocking Redis calls of the HTTP process, one at a time, each with a deadline."""

    def __init__(self, to: RedisAddress | str, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.client = connect(to, max_connections=1)
        self._answer_timeout_s = answer_timeout_s
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="redis")
        self._sends = _Sends(self.client)
        self._waiting = 0
        self._lock = threading.Lock()
        #: Calls that Redis did not answer as it should, or not in time.
        self.failures = 0

    @property
    def round_trips(self) -> int:
        """How often something was sent to Redis; a pipeline is one."""
        return self._sends.count

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `call`, run in the thread; what it logs carries the ids of whoever called.

        Raises:
            RedisUnavailable: when Redis is away, or no answer came within the deadline. A call that was not begun is
                dropped; one that was begun may still take effect, so callers send only what is safe to repeat.
        """
        if self._waiting >= MAX_WAITING_CALLS:
            raise RedisUnavailable
        with self._lock:
            self._waiting += 1
        bound = functools.partial(call, *args, **kwargs)
        future = self._executor.submit(contextvars.copy_context().run, bound)
        future.add_done_callback(self._done)
        try:
            # Not wait_for: up to Python 3.11 it loses a cancellation that comes together with the answer, and a loop
            # that is to end with its process goes on for ever.
            async with asyncio.timeout(self._answer_timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            self.failures += 1
            raise RedisUnavailable from None
        except Exception as error:
            if is_redis_error(error):
                self.failures += 1
                raise unavailable(error) from error
            raise

    def _done(self, _: Any) -> None:
        with self._lock:
            self._waiting -= 1

    def close(self) -> None:
        """Drop what waits, end the thread and the connection."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self.client.close()


class _Sends:
    """Counts what a client sends. redis-py has no counter for it; whatever is sent, a pipeline too, goes through this
    one method of its connections.
    """

    def __init__(self, client: RedisClient) -> None:
        self.count = 0
        pool = client.connection_pool
        pool.connection_class = self._counted(pool.connection_class)

    def _counted(self, connection_class: Any) -> Any:
        sends = self

        class CountedConnection(connection_class):  # type: ignore[misc]
            def send_packed_command(self, command: Any, check_health: bool = True) -> None:
                sends.count += 1
                super().send_packed_command(command, check_health)

        return CountedConnection
