"""Heartbeat of the subscription: messages that the process publishes to itself.

Problem: a connection can be dead though nothing says so, and pub/sub has no other sign of life; nor does it say when
all that was published by now has been heard. The easy way, TCP's keep-alive, asks the kernel at the other end, which
answers for a server that hangs, and says nothing of messages. So one of ours goes the way of all others: where it does
not come back, the subscription is made anew; where it does, what comes behind it is news.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Final

from hive.errors import RedisUnavailable
from hive.redis.client import CommandThread
from hive.streams.pubsub import Subscription

log = logging.getLogger("hive.streams.heartbeat")

#: Seconds between two beats, and until one that was not heard means that the subscription is dead.
INTERVAL_S: Final = 5.0
TIMEOUT_S: Final = 10.0
#: The same after an outage, which may have been a failover: commands go to another server then, and a subscription to
#: one that hangs would be the last to notice.
INTERVAL_AFTER_OUTAGE_S: Final = 0.5
TIMEOUT_AFTER_OUTAGE_S: Final = 2.0
#: Seconds that a newcomer waits until what was published before it came has been heard.
CATCH_UP_TIMEOUT_S: Final = 1.0


class Heartbeat:
    """That of one subscription. `run` cuts it where it is dead; `catch_up` is for newcomers."""

    def __init__(self, commands: CommandThread, subscription: Subscription, channel: str) -> None:
        """`channel`: this process's own, which the subscription hears."""
        self._commands = commands
        self._subscription = subscription
        self._channel = channel.encode()
        self._heard_s = time.monotonic()
        #: Beats that somebody waits for, by what they carry.
        self._catching_up: dict[bytes, asyncio.Future[None]] = {}

    async def run(self) -> None:
        """Beat until cancelled."""
        failures, alarmed, sent_s = self._commands.failures, False, time.monotonic()
        while True:
            await asyncio.sleep(INTERVAL_AFTER_OUTAGE_S)
            if self._commands.failures != failures:
                failures = self._commands.failures
                if not alarmed:  # the silence since the beat before is calm, and no sign of death
                    alarmed, self._heard_s = True, time.monotonic()
            elif self._heard_s >= sent_s:
                alarmed = False
            if not alarmed and time.monotonic() - sent_s < INTERVAL_S:
                continue
            sent_s = time.monotonic()
            try:
                await self._publish(b"")
            except RedisUnavailable:
                self._heard_s = time.monotonic()
                continue
            timeout_s = TIMEOUT_AFTER_OUTAGE_S if alarmed else TIMEOUT_S
            if self._subscription.connected and time.monotonic() - self._heard_s > timeout_s:
                log.warning("the subscription is silent; connecting again")
                self._heard_s = time.monotonic()
                self._subscription.abort()

    async def catch_up(self) -> None:
        """Until everything that was published before this call has been heard here, or cannot come any more."""
        if not self._subscription.connected:
            return
        token = uuid.uuid4().bytes
        heard = self._catching_up[token] = asyncio.get_running_loop().create_future()
        try:
            await self._publish(token)
            async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
                await heard
        except (RedisUnavailable, TimeoutError):
            return
        finally:
            del self._catching_up[token]

    def hear(self, channel: bytes, payload: bytes) -> bool:
        """Whether this message is one of ours; then it is noted."""
        if channel != self._channel:
            return False
        self._heard_s = time.monotonic()
        heard = self._catching_up.get(payload)
        if heard is not None and not heard.done():
            heard.set_result(None)
        return True

    def on_subscribed(self) -> None:
        """A new connection: what went over the one before cannot come any more."""
        self._heard_s = time.monotonic()
        for heard in self._catching_up.values():
            if not heard.done():
                heard.set_result(None)

    async def _publish(self, payload: bytes) -> None:
        """Raises RedisUnavailable."""
        await self._commands.run(self._commands.client.publish, self._channel, payload)
