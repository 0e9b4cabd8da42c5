"""What Redis is told of this worker: that it lives, what it does, how far its model is loaded.

Every couple of seconds, and soon after each change; several changes at once are one call. Redis may be away: requests
go on, and what it has missed it is told when it is back. Where it has lost the record, or others ended it meanwhile for
want of a sign of life, the worker registers itself again: it has its model in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from hive.errors import RedisUnavailable
from hive.net.redis_url import RedisAddress
from hive.redis.client import CommandThread
from hive.serving.orders import SpawnOrder
from hive.serving.record import LlmRecord
from hive.serving.registry import LEASE_S, LlmRegistry, Told
from hive.wire import keys
from hive.wire.llm import LlmState, LoadingError

log = logging.getLogger("workers.inference.presence")

#: Seconds between two signs of life; that changes wait for others; and before Redis is tried again.
BEAT_S: Final = LEASE_S / 3
GATHER_S: Final = 0.03
RETRY_S: Final = 0.5
#: Seconds that the end of a worker may take to be told.
FAREWELL_S: Final = 3.0


class Presence:
    """Tells Redis about one worker. `record` gives what there is to say at a moment; `told` how far loading is."""

    def __init__(
        self,
        redis: RedisAddress | str,
        record: Callable[[], LlmRecord],
        told: Callable[[], Told | None],
        on_stopped: Callable[[], None],
    ) -> None:
        """`on_stopped` is called where somebody has ended the worker in Redis."""
        self._on_stopped = on_stopped
        self._commands = CommandThread(redis)
        self._registry = LlmRegistry(self._commands.client)
        self._record = record
        self._told = told
        self._changed = asyncio.Event()
        self._said: dict[str, Any] = {}
        self._seq = 0
        self._over = False
        self._counts: Counter[str] = Counter()

    def changed(self) -> None:
        """There is something new to say."""
        self._changed.set()

    def count(self, **counts: int) -> None:
        """Add to the counters of the fleet, with what is said next."""
        self._counts.update(counts)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause_s = BEAT_S
            try:
                await self.say()
            except RedisUnavailable:
                pause_s = RETRY_S
            except Exception:
                log.exception("the worker's state could not be told; it goes on")
                pause_s = RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            await asyncio.sleep(GATHER_S)
            self._changed.clear()

    async def say(self) -> None:
        """Say it now. Raises RedisUnavailable."""
        if self._over:
            return
        record, told = self._record(), self._told()
        fields = _spoken(record)
        news = {name: value for name, value in fields.items() if self._said.get(name) != value}
        new = told if told is not None and told.version.seq > self._seq else None
        answer = await self._commands.run(self._registry.tell, record.id, record.lease_ms, news, new)
        if answer == "stopped":
            self._on_stopped()
            return
        if answer != "ok":
            await self._register(record, told)
        self._said = fields
        if told is not None:
            self._seq = told.version.seq
        await self._add_counts()

    async def _add_counts(self) -> None:
        """Counted before they are sent: what is sent twice would be worse than what is lost with a Redis."""
        counts, self._counts = self._counts, Counter()
        if counts:
            await self._commands.run(self._add, counts)

    def _add(self, counts: Mapping[str, int]) -> None:
        with self._commands.client.pipeline(transaction=True) as pipeline:
            for name, number in counts.items():
                pipeline.hincrby(keys.METRICS, name, number)
            pipeline.execute()

    async def _register(self, record: LlmRecord, told: Told | None) -> None:
        """Redis does not know this worker any more, though it lives."""
        log.info("Redis has lost this worker; it registers itself again")
        _, joined = await self._commands.run(self._registry.create, record)
        if joined:
            # Another has the same model by now: both serve, and this one stands for itself.
            await self._commands.run(self._registry.create, msgspec.structs.replace(record, flight=""))
        await self._commands.run(self._registry.tell, record.id, record.lease_ms, _spoken(record), told)

    async def rest(self, order: SpawnOrder) -> None:
        """Say how to start this worker again when somebody asks: it ends because nobody does."""
        record = self._record()
        again = msgspec.structs.replace(order, path=record.path, model_id=record.model_id, download_id="")
        with contextlib.suppress(RedisUnavailable):
            key = order.flight or order.worker_id
            await self._commands.run(self._commands.client.hset, keys.LLM_RESTING, key, msgspec.json.encode(again))

    async def end(self, state: LlmState, error: LoadingError) -> None:
        """Say that the worker has ended, as far as Redis can be reached; it is the last that is said."""
        self._over = True
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._add_counts()
                await self._commands.run(self._registry.end, self._record().id, state, error)
        except (RedisUnavailable, TimeoutError):
            log.warning("Redis is away; the end of the worker is noticed by its silence")

    async def read(self, call: Callable[..., Any], *args: Any) -> Any:
        """Another question to Redis, in the same thread. Raises RedisUnavailable."""
        return await self._commands.run(call, *args)

    @property
    def client(self) -> Any:
        """The client of that thread."""
        return self._commands.client

    def close(self) -> None:
        """End the thread and its connection."""
        self._commands.close()


def _spoken(record: LlmRecord) -> dict[str, Any]:
    """The fields that the worker itself says; the others are Redis' own."""
    fields = record.fields()
    for name in ("fence", "seq", "terminal", "event", "created_ms", "heartbeat_ms", "flight"):
        del fields[name]
    return fields
