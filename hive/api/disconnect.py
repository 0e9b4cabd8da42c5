"""Waiting for as long as the client is there: a wait is cancelled when its client disconnects.

Problem: a request that waits (a long poll, a plan, a question to the Hub) has one of the few places that its key has.
Starlette lets a handler run to its end whether anybody is left to hear of it or not, so whoever closes a connection in
the middle, or is killed, keeps the place for up to a minute, and what comes again at once is refused. The easy way,
to look now and then whether the client is there, is a timer for each request that waits. The server tells it: behind
the body the next message of a request is its disconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. It is cancelled when the client goes. Call it when the body has been read, or is not wanted.

    Raises:
        ClientDisconnect: nobody is there any more.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, gone):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
