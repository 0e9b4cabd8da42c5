"""Rate limits: GCRA per key, or per address where there is no key, in the memory of the process.

Problem: one client that asks as fast as it can takes the event loop and the thread to Redis from all others. The easy
way, a window of a minute in Redis, costs a round trip for each request and lets twice as many through at its edge. What
is limited here is the work of this process, so this process counts: one number for each who asks, the moment at which
all that was asked would have been due. Those who were not here for longest are forgotten when there are many.

What must hold for the fleet (downloads that wait, records, bytes a day) is not here but in the scripts of Redis:
hive/downloads/scripts/create.lua.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from hive.auth.holder import holder_of, is_unlimited
from hive.errors import TooManyRequests
from hive.settings import Settings

#: Keys and addresses that are remembered for each limit. One that was forgotten begins anew.
MAX_HOLDERS: Final = 10_000
#: Requests at once that a key may make, in seconds of its rate; and who has none: a page loads, a loop of curl runs.
KEY_BURST_S: Final = 2.0
ANONYMOUS_BURST_S: Final = 10.0
_MINUTE_S: Final = 60.0
#: Seconds by which sums of intervals are wrong: no refusal.
_ROUNDING_S: Final = 1e-6
#: Files of the page, a second and at once, of a key or address. A page is thirty of them, each answered from memory:
#: where they counted as requests do, a person who reloads it, or an office behind one address, got a page with holes.
PAGE_FILES_PER_S: Final = 200.0
PAGE_FILES_AT_ONCE: Final = 2_000.0
_PAGE: Final = "/page/"
#: Answered to whoever asks, as often as they ask: a supervisor that hears 429 ends what is healthy.
_PROBES: Final = frozenset({"/healthz", "/readyz"})


class Rate:
    """So many in a time for each holder, evenly, with some at once."""

    def __init__(self, per_second: float, at_once: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_second` of 0: no limit."""
        self._interval_s = 1 / per_second if per_second else 0.0
        self._burst_s = max(at_once, 1.0) * self._interval_s
        self._clock = clock
        #: When all that each has asked for would have been due; who asked last, last.
        self._due_s: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, holder: str) -> float:
        """0 where this holder may; then it counts. Else the seconds until it may."""
        if not self._interval_s:
            return 0.0
        now_s = self._clock()
        due_s = max(self._due_s.get(holder, 0.0), now_s) + self._interval_s
        if (wait_s := due_s - now_s - self._burst_s) > _ROUNDING_S:
            return wait_s
        self._due_s[holder] = due_s
        self._due_s.move_to_end(holder)
        if len(self._due_s) > MAX_HOLDERS:
            self._due_s.popitem(last=False)
        return 0.0


class RateLimits:
    """The rate limits of one HTTP process."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        by_key, anonymous = settings.max_requests_per_second, settings.max_anonymous_requests_per_second
        self._by_key = Rate(by_key, by_key * KEY_BURST_S, clock)
        self._anonymous = Rate(anonymous, anonymous * ANONYMOUS_BURST_S, clock)
        self._files = Rate(PAGE_FILES_PER_S, PAGE_FILES_AT_ONCE, clock)
        asks, webhooks = settings.max_download_requests_per_minute, settings.max_webhooks_per_minute
        self._asks = Rate(asks / _MINUTE_S, asks, clock)
        self._webhooks = Rate(webhooks / _MINUTE_S, webhooks, clock)

    def admit(self, connection: Mapping[str, Any]) -> None:
        """Count a request. Raises TooManyRequests."""
        is_probe = connection["path"] in _PROBES and connection["method"] in ("GET", "HEAD")
        if is_probe or is_unlimited(connection):
            return
        holder = holder_of(connection)
        rate = self._by_key if holder.startswith("key:") else self._anonymous
        if connection["path"].startswith(_PAGE) and connection["method"] in ("GET", "HEAD"):
            rate = self._files
        _check(rate, holder, "requests")

    def admit_ask(self, connection: Mapping[str, Any], *, webhook: bool = False) -> None:
        """Count a request for a model: a download, a retry, a plan; and the webhook that it brings.

        Raises:
            TooManyRequests: there were too many of either.
        """
        if is_unlimited(connection):
            return
        holder = holder_of(connection)
        _check(self._asks, holder, "requests for models")
        if webhook:
            _check(self._webhooks, holder, "webhooks")


def _check(rate: Rate, holder: str, what: str) -> None:
    wait_s = rate.wait_s(holder)
    if wait_s > 0:
        wait_s = max(1, math.ceil(wait_s))
        text = f"Too many {what} came from this key or address. Try again in {wait_s} s."
        raise TooManyRequests(text, retry_after_s=wait_s)
