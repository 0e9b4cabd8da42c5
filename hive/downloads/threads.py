"""A small bounded pool of threads for calls that block on the disk or the processor.

Problem: the default pool of the event loop is shared by everything that is ever sent to a thread, so forty slow
look-ups leave no thread for a note of the intent log, and forty more wait behind them without bound. So each kind of
work has a pool of its own: as many threads as it may take of the machine, and a limit to what waits; whoever comes
then is told to come again.

A filesystem that stops answering (a share whose server is gone) holds a thread for as long as it likes, and no call
into it can be given up. Whoever waits can: after some patience they are told, and while all threads are held like that
whoever comes is told at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from hive.errors import ServerBusy, StoreMissing

T = TypeVar("T")

_SILENT: Final = "The filesystem of the store does not answer. Is the server of its mount away?"
#: Seconds that a call may take which is over in milliseconds where the disk is well.
PATIENCE_S: Final = 30.0


class Threads:
    """`size` threads, at most `waiting` calls that wait for one, and seconds that whoever asks waits for an answer."""

    def __init__(self, name: str, size: int, waiting: int, patience_s: float = PATIENCE_S) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=name)
        self._size = size
        self._most = size + waiting
        self._under_way = 0
        self._patience_s = patience_s
        #: When the calls that have a thread began, by a mark of each.
        self._began_s: dict[object, float] = {}

    async def run(self, call: Callable[..., T], *args: Any, let_go: Callable[[T], None] | None = None) -> T:
        """The result of the call, made in one of the threads under the caller's log fields.

        A call goes on when whoever waits for it is cancelled, or has no more patience: its thread counts until it has
        ended, and `let_go` gets a result that nobody waits for any more, such as a file that it has opened.

        Raises:
            ServerBusy: too many wait already.
            StoreMissing: the disk does not answer.
        """
        if self._is_held():
            raise StoreMissing(_SILENT)
        future = self._begin(call, *args)
        try:
            await asyncio.wait([future], timeout=self._patience_s)
            if not future.done():
                raise StoreMissing(_SILENT)
        except BaseException:
            if let_go is not None:
                future.add_done_callback(lambda late: late.cancelled() or late.exception() or let_go(late.result()))
            raise
        return future.result()

    async def run_long(self, call: Callable[..., T], *args: Any) -> T:
        """The same for one that may take as long as it likes. Raises ServerBusy."""
        return await asyncio.shield(self._begin(call, *args))

    def _begin(self, call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        if self._under_way >= self._most:
            raise ServerBusy
        self._under_way += 1
        try:
            context = contextvars.copy_context()
            future = asyncio.get_running_loop().run_in_executor(
                self._pool, lambda: context.run(self._timed, call, *args)
            )
        except BaseException:
            self._under_way -= 1
            raise
        future.add_done_callback(self._ended)
        return future

    def _timed(self, call: Callable[..., T], *args: Any) -> T:
        mark = object()
        self._began_s[mark] = time.monotonic()
        try:
            return call(*args)
        finally:
            del self._began_s[mark]

    def _is_held(self) -> bool:
        """Whether each thread has been at its call for longer than anybody's patience."""
        before_s = time.monotonic() - self._patience_s
        began_s = list(self._began_s.values())
        return len(began_s) >= self._size and max(began_s) < before_s

    def close(self) -> None:
        """Begin no more of them."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        if not future.cancelled():
            future.exception()  # nobody may be waiting any more
