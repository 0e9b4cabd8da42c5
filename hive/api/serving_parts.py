"""Models in memory, as a server process has them: made when somebody first asks.

Most servers never load a model, and a second subscription to Redis, a fan-out and a dozen modules would be their price
for it. So all of that is imported, made and started with the first request that needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hive.auth.principal import Principal
from hive.downloads.service import DownloadService
from hive.errors import RedisUnavailable
from hive.net.redis_url import RedisAddress
from hive.redis.client import CommandThread
from hive.settings import Settings
from hive.streams.fanout import Fanout
from hive.streams.revocation import Opened, end_dead
from hive.streams.shares import Shares
from hive.streams.stream import StreamEndpoint
from hive.wire.keys import LLM_CHANNELS

if TYPE_CHECKING:
    from hive.serving.service import ServingService

log = logging.getLogger("hive.api.serving")

#: Seconds between two looks for workers that have fallen silent.
REAP_INTERVAL_S: Final = 1.0
#: Seconds for which nobody is given up after Redis was away: the workers could not say that they live.
HOLD_OFF_S: Final = 8.0


class LazyServing:
    """The service and the loading streams of one process; both belong to the event loop."""

    def __init__(
        self, settings: Settings, redis: RedisAddress | str, commands: CommandThread, downloads: DownloadService
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._commands = commands
        self._downloads = downloads
        self._service: ServingService | None = None
        self._streams: StreamEndpoint | None = None
        self._tasks: list[asyncio.Task[None]] = []
        #: The answers of models that are on their way to clients.
        self.answers: set[Opened] = set()
        #: How many of them each key or address has: a slow reader holds a slot for as long as it reads.
        self.shares = Shares(settings.max_answers_per_key)

    @property
    def service(self) -> ServingService:
        """Load, find and end workers."""
        if self._service is None:
            from hive.serving.service import ServingService

            self._service = ServingService(self._settings, self._commands, self._downloads)
            self._tasks.append(asyncio.create_task(self._reap_for_ever(self._service)))
        return self._service

    @property
    def streams(self) -> StreamEndpoint:
        """The streams of models that are loaded."""
        if self._streams is None:
            settings = self._settings
            fanout = Fanout(
                self._redis,
                self._commands,
                self.service.registry,
                keepalive_s=settings.keepalive_s,
                channels=LLM_CHANNELS,
            )
            self._tasks.append(asyncio.create_task(fanout.run()))
            self._streams = StreamEndpoint(fanout, settings.max_streams, settings.max_streams_per_key)
        return self._streams

    async def end_dead(self, is_alive: Callable[[Principal], bool]) -> int:
        """End the streams of principals that are not alive any more, of loading and of tokens; how many."""
        ended = await end_dead(self.answers, is_alive)
        return ended + (await self._streams.end_dead(is_alive) if self._streams is not None else 0)

    async def drain(self, window_s: float) -> None:
        """End the streams so that their clients come back, elsewhere."""
        if self._streams is not None:
            await self._streams.drain(window_s)

    async def close(self) -> None:
        """End what was started."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._service is not None:
            self._service.kept.close()

    async def _reap_for_ever(self, service: ServingService) -> None:
        loop = asyncio.get_running_loop()
        hold_until_s = 0.0
        while True:
            await asyncio.sleep(REAP_INTERVAL_S)
            try:
                if loop.time() >= hold_until_s:
                    await self._commands.run(service.registry.reap)
                else:
                    await self._commands.run(self._commands.client.ping)
            except RedisUnavailable:
                hold_until_s = loop.time() + HOLD_OFF_S
            except Exception:
                log.exception("workers could not be looked at; it goes on")
