"""The long poll: `GET /v1/downloads/{id}?wait=30s` answers when the download has ended, or the time is up.

For scripts that would otherwise ask again and again. It is one more subscriber of the fan-out, so it costs nothing
while it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

from hive.auth.principal import Principal
from hive.errors import BadRequest
from hive.streams.fanout import Fanout
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


async def wait_for_end(fanout: Fanout, download_id: str, principal: Principal, seconds: float) -> None:
    """Return when the download has ended, is unknown or no longer this principal's, or the time is up."""
    waiter = _Waiter()
    topic = await fanout.join(download_id, waiter, principal)
    if topic is None:
        return
    try:
        waiter.notify(topic)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await waiter.ended.wait()
    finally:
        fanout.leave(topic, waiter)


class _Waiter:
    """A subscriber that cares for the end alone."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def notify(self, topic: Topic) -> None:
        if topic.terminal:
            self.ended.set()

    def admit(self, topic: Topic) -> None:
        """Nothing: it asked for its one topic itself."""

    def withdraw(self, end: Topic) -> None:
        self.ended.set()

    def keep_alive(self) -> None:
        """There is nobody to write to."""
