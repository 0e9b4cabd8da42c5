"""A small bounded pool of threads for calls that block on the disk or the processor.

Problem: the default pool of the event loop is shared by everything that is ever sent to a thread, so forty slow
look-ups leave no thread for a note of the intent log, and forty more wait behind them without bound. So each kind of
work has a pool of its own: as many threads as it may take of the machine, and a limit to what waits; whoever comes
then is told to come again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from hive.errors import ServerBusy

T = TypeVar("T")


class Threads:
    """`size` threads, and at most `waiting` calls that wait for one."""

    def __init__(self, name: str, size: int, waiting: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=name)
        self._most = size + waiting
        self._under_way = 0

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """The result of the call, made in one of the threads under the caller's log fields.

        A call goes on when whoever waits for it is cancelled: its thread counts until it has ended.

        Raises:
            ServerBusy: too many wait already.
        """
        if self._under_way >= self._most:
            raise ServerBusy
        self._under_way += 1
        try:
            context = contextvars.copy_context()
            future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(call, *args))
        except BaseException:
            self._under_way -= 1
            raise
        future.add_done_callback(self._ended)
        return await asyncio.shield(future)

    def close(self) -> None:
        """Begin no more of them."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        if not future.cancelled():
            future.exception()  # nobody may be waiting any more
