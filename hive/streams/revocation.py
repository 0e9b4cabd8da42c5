"""Streams end with their key: what is open is looked through now and then, and no delivery pays for it.

Problem: a stream is opened with a key and runs for hours, and the key is revoked meanwhile. The easy way, to look at
the key with each event, would be in the path of 10,000 streams. So each stream bears its principal, and whoever watches
the keys walks through all that are open: a few at a time, so that events go out in between.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from hive.auth.principal import Principal
from hive.streams import sse

#: Streams that are looked at before others have their turn: some 0.1 ms.
_SLICE: Final = 500


class Opened(Protocol):
    """A stream, or a long poll, and who opened it."""

    @property
    def principal(self) -> Principal:
        """Who opened it."""

    def close(self, retry_ms: int) -> None:
        """End it without `[DONE]`: the client is to come back, and is told then what is wrong."""


async def end_dead(opened: Iterable[Opened], is_alive: Callable[[Principal], bool]) -> int:
    """End those whose principal is not alive any more; how many."""
    ended = 0
    verdicts: dict[int, bool] = {}  # by object: the streams of a key have one principal
    for at, stream in enumerate(list(opened)):
        if at % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        principal = stream.principal
        alive = verdicts.get(id(principal))
        if alive is None:
            alive = verdicts[id(principal)] = is_alive(principal)
        if not alive:
            stream.close(sse.RETRY_MS // 2 + random.randrange(sse.RETRY_MS))
            ended += 1
    return ended
