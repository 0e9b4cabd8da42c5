"""One pub/sub connection to Redis that tells when it is truly subscribed, and comes back by itself.

Problem: everything that a process streams arrives over this connection, some thousands of messages a second, and
whoever subscribes late or loses the connection unseen loses a terminal event. redis-py's asyncio client wakes a task
and builds a dict per message (some 60 microseconds) and re-subscribes silently. So: hiredis' parser straight in the
transport's `data_received` (some 3 microseconds a message), and a callback for every acknowledged subscription, upon
which the caller reads again what it may have missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as ConnectionTimeout

from hive.net.backoff import Backoff, Jitter
from hive.net.redis_url import RedisAddress
from hive.redis.client import address_of, connection_options, tls_context
from hive.redis.errors import describe

log = logging.getLogger("hive.streams.pubsub")

#: Seconds to connect and to be subscribed.
SUBSCRIBE_TIMEOUT_S = 3.0
#: Seconds to wait before connecting again: doubles from the first to the last, with jitter.
RECONNECT_FIRST_S = 0.05
RECONNECT_LAST_S = 0.5
RECONNECT_JITTER = Jitter(0.5, 1.0)


class Subscription:
    """Subscribes to a pattern and keeps it so. Callbacks run in the event loop and must not block."""

    def __init__(
        self,
        to: RedisAddress | str,
        pattern: str,
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        self._address = address = address_of(to)
        # redis-py's names: where the Sentinels or the hook are, which only some have, is known to hive.redis.client.
        options = connection_options(address)
        self._sentinels = options.get("sentinels")
        self._hook = options.get("credential_provider")
        self._pattern = pattern
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._protocol: _PubSubProtocol | None = None
        self._messages_before = 0
        self._subscribed = 0
        self.connected = False
        #: Why it is not subscribed, with the way out; "" while nothing was refused.
        self.refused = ""

    @property
    def messages(self) -> int:
        """How many have arrived."""
        return self._messages_before + (self._protocol.messages if self._protocol is not None else 0)

    @property
    def reconnects(self) -> int:
        """How often it was subscribed again."""
        return max(0, self._subscribed - 1)

    async def run(self) -> None:
        """Stay subscribed until cancelled."""
        address = self._address
        backoff = Backoff(RECONNECT_FIRST_S, RECONNECT_LAST_S, jitter=RECONNECT_JITTER)
        while True:
            try:
                async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):  # not wait_for: see CommandThread.run
                    protocol = await self._subscribe()
                backoff.reset()
                self.connected, self.refused = True, ""
                self._subscribed += 1
                self._on_subscribed()
                await protocol.lost
                log.warning("the subscription was lost; connecting again", extra={"repeats": True})
            except Exception as error:  # whatever it was: without a subscription the process is of no use
                self.refused = _why(error)
                fields = {"redis": str(address), "reason": self.refused}
                log.warning("cannot subscribe", extra={"fields": fields, "repeats": True})
            finally:
                self.connected = False
                self.abort()
            await asyncio.sleep(backoff.next_s())

    def abort(self) -> None:
        """Cut the connection; `run` makes a new one."""
        if self._protocol is not None and self._protocol.transport is not None:
            self._protocol.transport.abort()

    async def _subscribe(self) -> _PubSubProtocol:
        loop = asyncio.get_running_loop()
        address = self._address
        self._messages_before = self.messages
        protocol = self._protocol = _PubSubProtocol(self._on_message)
        if address.path is not None:
            await loop.create_unix_connection(lambda: protocol, address.path)
        else:
            host, port = address.host, address.port
            if self._sentinels is not None:
                host, port = await asyncio.to_thread(self._sentinels.primary)
            await loop.create_connection(lambda: protocol, host, port, ssl=tls_context(address))
        if words := await self._credentials():
            await protocol.call("AUTH", *words)
        if self._sentinels is not None:
            self._sentinels.check_role(await protocol.call("HELLO"))
        await protocol.call("PSUBSCRIBE", self._pattern)
        return protocol

    async def _credentials(self) -> tuple[str, ...]:
        """What follows AUTH; () where there is nothing to show. A hook may take its time, so it gets a thread."""
        if self._hook is not None:
            given: tuple[str, ...] = await asyncio.to_thread(self._hook.get_credentials)
            return given
        if not self._address.password:
            return ()
        return (*filter(None, [self._address.username]), self._address.password)


def _why(error: Exception) -> str:
    """Why there is no subscription: what Redis answered, or that it does not answer."""
    if isinstance(error, hiredis.HiredisError):
        return describe(BaseParser.parse_error(str(error)))  # type: ignore[no-untyped-call]
    if isinstance(error, TimeoutError):
        return describe(ConnectionTimeout("no reply in time"))
    if isinstance(error, RedisConnectionError | InvalidResponse):
        return describe(error)
    told = RedisConnectionError(f"{type(error).__name__}: {error}")
    told.__cause__ = error
    return describe(told)


class _PubSubProtocol(asyncio.Protocol):
    """RESP2 over one transport: replies to `call`, then messages to the callback."""

    def __init__(self, on_message: Callable[[bytes, bytes], None]) -> None:
        self._on_message = on_message
        self._reader = hiredis.Reader()
        self._reply: asyncio.Future[Any] | None = None
        self.messages = 0
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def call(self, *words: str) -> Any:
        """The reply to a command; one at a time."""
        assert self.transport is not None
        self._reply = asyncio.get_running_loop().create_future()
        self.transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]
        reply = await self._reply
        if isinstance(reply, hiredis.HiredisError):
            raise reply
        return reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        try:
            self._read(data)
        except hiredis.ProtocolError:  # what talks there is no Redis
            if self._reply is not None and not self._reply.done():
                self._reply.set_exception(InvalidResponse("no reply of Redis"))
            assert self.transport is not None
            self.transport.abort()

    def _read(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if type(reply) is list and len(reply) == 4 and reply[0] == b"pmessage":
                self.messages += 1
                self._on_message(reply[2], reply[3])
            elif self._reply is not None and not self._reply.done():
                self._reply.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionError("Redis closed the connection"))
        with contextlib.suppress(asyncio.InvalidStateError):
            self.lost.set_result(None)
