"""Waiting for a condition with a deadline, never for a time: `wait_for`, and `wait_for_async` inside an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds that a condition may take on a machine that has a dozen other things to do; only a test that fails waits so
#: long.
DEADLINE_S = 60.0
#: Seconds within which something is over there that waits for nothing. What it must not wait for has to last several
#: times as long, or the bound would tell nothing apart.
AT_ONCE_S = 10.0
#: Seconds between two looks, in a thread and in an event loop.
LOOK_S = 0.01
ASYNC_LOOK_S = 0.005


def wait_for(
    condition: Callable[[], T | None],
    what: str = "the condition is not true",
    deadline_s: float = DEADLINE_S,
    look_s: float = LOOK_S,
) -> T:
    """The first truthy value of `condition`; the test fails with `what` when it has none in time. `look_s`: seconds
    between two looks, for one that costs more than a moment.
    """
    end_s = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"after {deadline_s:g} s: {what}"
        time.sleep(look_s)
    return value


async def wait_for_async(
    condition: Callable[[], T | None], what: str = "the condition is not true", deadline_s: float = DEADLINE_S
) -> T:
    """The same in an event loop, which goes on meanwhile."""
    end_s = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"after {deadline_s:g} s: {what}"
        await asyncio.sleep(ASYNC_LOOK_S)
    return value
