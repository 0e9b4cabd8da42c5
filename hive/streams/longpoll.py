"""The long poll: `GET /v1/downloads/{id}?wait=30s` answers when the download has ended, or the time is up.

For scripts that would otherwise ask again and again. It is one more subscriber of the fan-out, so it costs nothing
while it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable

from hive.auth.principal import Principal
from hive.errors import BadRequest, InvalidApiKey
from hive.streams.fanout import Fanout
from hive.streams.revocation import end_dead
from hive.streams.topic import Topic

#: The longest wait, in seconds: below the time-out of common proxies.
MAX_WAIT_S = 55.0

_WAIT = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)s?", re.ASCII)


def read_wait(text: str | None) -> float:
    """The seconds in `30`, `30s` or `2.5s`; 0 where nothing was asked.

    Raises:
        BadRequest: it is anything else, or too long.
    """
    if text is None:
        return 0.0
    match = _WAIT.fullmatch(text)
    if match is None or float(match[1]) > MAX_WAIT_S:
        raise BadRequest(f"'wait' is seconds from 0 to {MAX_WAIT_S:g}, such as 30s.")
    return float(match[1])


class LongPolls:
    """The long polls of one HTTP process."""

    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout
        self._open: set[_Waiter] = set()
        self._draining = False

    async def wait(self, download_id: str, seconds: float, principal: Principal) -> None:
        """Return when the download has ended, is unknown or no longer this principal's, the time is up, or the server
        stops.

        Raises:
            InvalidApiKey: the key was revoked, or has expired, meanwhile.
        """
        if self._draining:
            return
        waiter = _Waiter(principal)
        topic = await self._fanout.join(download_id, waiter, principal)
        if topic is None:
            return
        self._open.add(waiter)
        try:
            waiter.notify(topic)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiter.ended.wait()
        finally:
            self._open.discard(waiter)
            self._fanout.leave(topic, waiter)
        if waiter.closed:
            raise InvalidApiKey

    @property
    def is_draining(self) -> bool:
        """Whether nothing is waited for any more: the server stops."""
        return self._draining

    def drain(self) -> None:
        """Let all answer now, and wait for nothing any more: their clients ask again, elsewhere."""
        self._draining = True
        for waiter in self._open:
            waiter.ended.set()

    async def end_dead(self, is_alive: Callable[[Principal], bool]) -> int:
        """End those of principals that are not alive any more; how many."""
        return await end_dead(self._open, is_alive)


class _Waiter:
    """A subscriber that cares for the end alone."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.ended = asyncio.Event()
        self.closed = False

    def close(self, retry_ms: int) -> None:
        """Who waits may no more."""
        self.closed = True
        self.ended.set()

    def notify(self, topic: Topic) -> None:
        if topic.terminal:
            self.ended.set()

    def admit(self, topic: Topic) -> None:
        """Nothing: it asked for its one topic itself."""

    def withdraw(self, end: Topic) -> None:
        self.ended.set()

    def keep_alive(self) -> None:
        """There is nobody to write to."""

    def abort(self) -> None:
        """It answers with what is known, and its client asks again."""
        self.ended.set()
