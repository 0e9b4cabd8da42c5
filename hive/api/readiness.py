"""Readiness, looked for in single flight: one question to Redis at a time, however many ask.

Problem: load balancers ask `/readyz` without a key and must never hear 429, so no rate holds them; and each question
takes its turn in the one thread that talks to Redis. The easy way, a question for each, lets a stranger who asks faster
than Redis answers keep everybody else's calls from their turn. So whoever asks while a look is under way gets its
answer.

Redis is asked whether it answers, not whether it takes writes: one that is full says the same to every replica, so a
balancer that left them all out would make a refusal of new downloads one of lists, streams and models on disk too.
"""

from __future__ import annotations

import asyncio

from hive.errors import HiveError, RedisUnavailable
from hive.redis.client import CommandThread
from hive.store.probe import StoreHealth
from hive.streams.fanout import Fanout


class Readiness:
    """That of one HTTP process; belongs to its event loop."""

    def __init__(self, commands: CommandThread, fanout: Fanout, store_health: StoreHealth) -> None:
        self._commands = commands
        self._fanout = fanout
        self._store_health = store_health
        self._looking: asyncio.Task[HiveError | None] | None = None

    async def refusal(self) -> HiveError | None:
        """Why requests cannot be answered, or None: Redis answers, the process is subscribed to it, and something can
        be brought to the store.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> HiveError | None:
        try:
            await self._commands.run(self._commands.client.ping)
        except RedisUnavailable as error:
            return error
        if not self._fanout.connected:
            return RedisUnavailable(f"The process is not subscribed to Redis yet. {self._fanout.refused}".rstrip())
        if not self._store_health.compared:
            # A server that starts where a mount is missing is never ready, not even for a moment.
            return RedisUnavailable("The store has not been compared with that of the other servers yet.")
        return await self._store_health.refusal()
