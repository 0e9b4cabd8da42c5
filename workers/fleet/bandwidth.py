"""The fleet's line in `workers.bandwidth`: the limit to the outside, shared through Redis.

Problem: the limit belongs to the line to the outside, and many processes on many machines share it. The easy way, a
token bucket that each worker polls in Redis, makes calls in proportion to the waiting, and gives the line to whoever
polls at the right moment. Giving each worker its n-th part wastes the parts of those that do nothing.

So the line is a queue in time: Redis keeps the moment at which it is free, and whoever wants to accept n bytes moves
that moment by n / limit and waits until the old one. That is one call, fair, exact on average, and nobody polls. A
process takes a tenth of a second of its own share at a time, so each makes ten calls a second at most. While Redis is
away it goes on at the share it had last.
"""

from __future__ import annotations

import logging
import time

from redis.exceptions import RedisError

from hive.downloads.admission import read_limit
from hive.redis.client import RedisClient
from hive.redis.lua import Script, load
from hive.wire import keys
from workers.bandwidth import SHARE_S, Gcra

log = logging.getLogger("workers.fleet.bandwidth")

#: Seconds between two looks for a limit where there is none, or while waiting under one.
LOOK_S = 1.0
#: Seconds after which Redis is tried again when it was away.
REDIS_RETRY_S = 2.0
#: Seconds after which a process that takes nothing is not counted any more.
TAKER_TTL_S = 3.0
#: Seconds by which the line may be booked ahead; more is a clock that was set back.
BOOKED_MAX_S = 600.0
#: Microseconds in a second: Redis' clock has them.
_US = 1_000_000


class FleetLimiter:
    """This process' place in the fleet's queue. Not for threads."""

    def __init__(self, client: RedisClient, initial: int, taker: str) -> None:
        """`initial`: the limit by the settings, in bytes per second, 0 for none. `taker` names this process."""
        self._redis = client
        self._take = Script(client, load("workers.fleet", "take_bandwidth"))
        self._initial = initial
        self._taker = taker
        self._own = Gcra()
        #: As Redis said last.
        self._limit = initial
        self._takers = 1
        #: Bytes that were taken and not used yet, and the moment from which they may be.
        self._left = 0
        self._start_s = 0.0
        self._look_at_s = self._store_at_s = 0.0
        #: Grows when the limit changes: what was booked under the old one is void.
        self.changes = 0

    def book(self, n_bytes: int) -> tuple[bool, float]:
        """The moment (monotonic) from which these bytes may be accepted, 0.0 for now. (False, moment): ask again then.

        A process has one place in the queue, however many connections it has: what was taken last must be due before it
        takes more, or those with many connections would leave little to the others.
        """
        now_s = time.monotonic()
        if self._limit == 0 and now_s < self._look_at_s:
            return True, 0.0
        if self._left < n_bytes:
            if now_s < self._start_s:
                return False, self._start_s
            if not self._refill(n_bytes - self._left):
                return True, self._own.book(n_bytes, self._limit / self._takers) if self._limit else 0.0
        if self._limit == 0:
            return True, 0.0
        self._left -= n_bytes
        return True, self._start_s

    def look(self) -> None:
        """See whether the limit has changed, once a second at most: for those who wait."""
        now_s = time.monotonic()
        if now_s < self._look_at_s or now_s < self._store_at_s:
            return
        self._look_at_s = now_s + LOOK_S
        try:
            found = self._redis.get(keys.BANDWIDTH_LIMIT)
        except RedisError as error:
            self._away(error)
            return
        self._now_is(read_limit(found, self._initial))

    @property
    def limited(self) -> bool:
        """Whether there is a limit now, as far as is known."""
        self.look()
        return self._limit > 0

    @property
    def share(self) -> int | None:
        """Bytes per second that this process may take at least, None where there is no limit; as far as is known."""
        self.look()
        return self._limit // self._takers if self._limit else None

    def _refill(self, n_bytes: int) -> bool:
        """Take at least so many bytes from Redis; False while it is away."""
        now_s = time.monotonic()
        if now_s < self._store_at_s:
            return False
        try:
            limit, granted, wait_us, takers = self._take(
                limit=keys.BANDWIDTH_LIMIT,
                line=keys.BANDWIDTH_LINE,
                takers=keys.BANDWIDTH_TAKERS,
                wanted=n_bytes,
                share_us=int(SHARE_S * _US),
                initial=self._initial,
                taker=self._taker,
                taker_ttl_us=int(TAKER_TTL_S * _US),
                booked_max_us=int(BOOKED_MAX_S * _US),
            )
        except RedisError as error:
            self._away(error)
            return False
        self._now_is(int(limit))
        self._takers = max(1, int(takers))
        self._left += int(granted)
        self._start_s = time.monotonic() + int(wait_us) / _US
        self._look_at_s = now_s + LOOK_S
        return True

    def _now_is(self, limit: int) -> None:
        if limit != self._limit:
            self._limit = limit
            self._left = 0
            self._start_s = 0.0
            self.changes += 1

    def _away(self, error: RedisError) -> None:
        self._store_at_s = time.monotonic() + REDIS_RETRY_S
        self._left = 0
        self._start_s = 0.0
        reason = {"reason": type(error).__name__}
        log.debug("no share of the bandwidth from Redis; going on at the last one", extra={"fields": reason})
