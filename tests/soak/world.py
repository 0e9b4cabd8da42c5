"""The Redis of the trials and what happens to it: killed connections, restarts with and without its data, freezes.

The restart "with its data" flushes what Redis has acknowledged before the kill (`appendfsync always`), so that a trial
knows what must be there afterwards; the restart "without" removes the append-only file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from redis.exceptions import NoScriptError

from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from hive.redis.errors import is_redis_error
from tests.support.downloads import download_context

P = ParamSpec("P")
T = TypeVar("T")

#: Threads in which trials play workers: as many calls to Redis at a time.
WORKER_THREADS = 4
#: Seconds that a call waits before it is repeated while Redis is away.
REPEAT_S = 0.02
#: Seconds after an outage in which a replica may still answer as if it lasted: its last command into it is failing.
AFTERMATH_S = 0.5
#: Mean seconds between two disturbances.
DISTURB_EVERY_S = 0.1
#: How often each disturbance is chosen, by weight.
WEIGHTS = {"kill_subscriptions": 80, "kill_commands": 14, "restart": 2.5, "wipe": 2.5, "freeze": 1}
#: Seconds for which Redis is frozen, at most: shorter than a time-out, so that nothing but time is lost.
FREEZE_S = 0.5
#: Seconds that a lease of the trials' workers lasts: only a trial itself gives its downloads to another.
LEASE_S = 3600.0


class World:
    """One Redis, what the trials' workers use of it, and the counts of what happened."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._rng = rng
        self._redis = EmbeddedRedis(folder / "r")
        # The server ends with the thread that started it, so that thread must be one that stays.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="redis-keeper")
        self._threads = ThreadPoolExecutor(WORKER_THREADS, thread_name_prefix="worker")
        self.counts: Counter[str] = Counter()
        #: Counts the restarts; `epoch_of_loss` is that of the latest from which Redis came back empty.
        self.epoch = self.epoch_of_loss = 0
        self.away = False
        self.slowest_end_s = 0.0
        self._back_s = time.monotonic()
        self._keeper.submit(self._redis.start).result()
        self.url = self._redis.url
        self._client = connect(self.url, max_connections=WORKER_THREADS + 1)
        self.downloads = download_context(self._client, ended_ttl_s=120, max_queued=1_000_000, lease_s=LEASE_S)

    def close(self) -> None:
        """End everything."""
        self._threads.shutdown()
        self._client.close()
        self._keeper.submit(self._redis.stop).result()
        self._keeper.shutdown()

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A call of theirs, repeated until Redis has answered it: what a worker does."""
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))
            except Exception as error:
                # A restart between the load of a script and its call is an outage, too.
                if not is_redis_error(error) and not isinstance(error, NoScriptError):
                    raise
                await asyncio.sleep(REPEAT_S)

    def quiet_since(self, start_s: float) -> bool:
        """Whether Redis was there, for replicas too, from `start_s` until now."""
        return not self.away and self._back_s + AFTERMATH_S < start_s

    # -- what happens to Redis ---------------------------------------------------------------------------------------

    async def disturb(self, enough: asyncio.Event) -> None:
        """One disturbance after the other, until it is enough."""
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        once_each = self._rng.sample(names, len(names))
        while not enough.is_set():
            await asyncio.sleep(self._rng.expovariate(1 / DISTURB_EVERY_S))
            name = once_each.pop() if once_each else self._rng.choices(names, weights)[0]
            await getattr(self, f"_{name}")()

    async def _kill_subscriptions(self) -> None:
        self.counts["kills"] += await self._kill_clients("pubsub")

    async def _kill_commands(self) -> None:
        self.counts["command_kills"] += await self._kill_clients("normal")

    async def _kill_clients(self, kind: str) -> int:
        """How many connections were killed. From a thread of its own: it must not wait behind the workers."""
        kill = partial(self._client.client_kill_filter, _type=kind, skipme=True)
        killed: int = await asyncio.get_running_loop().run_in_executor(self._keeper, kill)
        return killed

    async def _restart(self) -> None:
        await self.call(self._client.config_set, "appendfsync", "always")
        await self._again(wipe=False)
        self.counts["restarts"] += 1

    async def _wipe(self) -> None:
        await self._again(wipe=True)
        self.counts["wipes"] += 1

    async def _again(self, *, wipe: bool) -> None:
        loop = asyncio.get_running_loop()
        self.away = True
        await loop.run_in_executor(self._keeper, self._redis.kill)
        await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.1, 0.5)))
        if wipe:
            await asyncio.to_thread(_empty, self._redis.data_dir)
            self.epoch_of_loss = self.epoch + 1
        await loop.run_in_executor(self._keeper, self._redis.launch)
        self.epoch += 1
        self.away, self._back_s = False, time.monotonic()

    async def _freeze(self) -> None:
        pid = self._redis.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self._rng.uniform(0, FREEZE_S))
        finally:
            os.kill(pid, signal.SIGCONT)
            self._back_s = time.monotonic()
        self.counts["freezes"] += 1


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.suffix != ".log":
            with contextlib.suppress(FileNotFoundError):
                entry.unlink()
