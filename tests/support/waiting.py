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
#: Seconds between two looks, in a thread and in an event loop: at first, and at most.
LOOK_S = 0.01
ASYNC_LOOK_S = 0.005
MAX_LOOK_S = 0.1
#: A wait is longer by up to this share of itself for the looks between which nobody looks. A look is often a request,
#: and what is waited for wants the cores that a hundred of them a second take.
LOOK_SHARE = 0.05


def wait_for(
    condition: Callable[[], T | None],
    what: str | Callable[[], str] = "the condition is not true",
    deadline_s: float = DEADLINE_S,
    look_s: float = LOOK_S,
) -> T:
    """The first truthy value of `condition`; the test fails with `what` when it has none in time. `look_s`: seconds
    between the first looks, for one that costs more than a moment.
    """
    begin_s = time.monotonic()
    while not (value := condition()):
        waited_s = time.monotonic() - begin_s
        assert waited_s < deadline_s, f"after {deadline_s:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(_pause_s(look_s, waited_s))
    return value


async def wait_for_async(
    condition: Callable[[], T | None], what: str = "the condition is not true", deadline_s: float = DEADLINE_S
) -> T:
    """The same in an event loop, which goes on meanwhile."""
    begin_s = time.monotonic()
    while not (value := condition()):
        waited_s = time.monotonic() - begin_s
        assert waited_s < deadline_s, f"after {deadline_s:g} s: {what}"
        await asyncio.sleep(_pause_s(ASYNC_LOOK_S, waited_s))
    return value


def _pause_s(look_s: float, waited_s: float) -> float:
    return max(look_s, min(waited_s * LOOK_SHARE, MAX_LOOK_S))
