"""Bandwidth: how long to wait before bytes may be accepted, for the whole fleet and for one download.

Problem: the limit belongs to the line to the outside, and many processes on many machines share it. The easy way, a
token bucket that each worker polls in Redis, makes calls in proportion to the waiting, and gives the line to whoever
polls at the right moment. Giving each worker its n-th part wastes the parts of those that do nothing.

So the line is a queue in time: Redis keeps the moment at which it is free, and whoever wants to accept n bytes moves
that moment by n / limit and waits until the old one. That is one call, fair, exact on average, and nobody polls. A
process takes a tenth of a second of its own share at a time, so each makes ten calls a second at most. While Redis is
away it goes on at the share it had last.

Bytes are counted when they are accepted from the kernel. Whoever is held back makes the kernel take little ahead, and
adds no connection (workers/transfer); else the buffers of thirty connections were seen to take 130 MB at full speed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from redis.exceptions import RedisError

from hive.lua import Script, load
from hive.redis_client import RedisClient
from hive.wire import keys

log = logging.getLogger("workers.fleet.bandwidth")

#: Seconds of its own share that a process takes at a time, and that may be sent at once after a pause.
SHARE_S = 0.1
#: Seconds between two looks for a limit where there is none, or while waiting under one.
LOOK_S = 1.0
#: Seconds after which a thread asks again whose turn is about to come.
ASK_AGAIN_S = 0.001
#: Seconds after which Redis is tried again when it was away.
REDIS_RETRY_S = 2.0
#: Seconds after which a process that takes nothing is not counted any more.
TAKER_TTL_S = 3.0
#: Seconds by which the line may be booked ahead; more is a clock that was set back.
BOOKED_MAX_S = 600.0
#: Microseconds in a second: Redis' clock has them.
_US = 1_000_000


class Gcra:
    """A queue in time of this process alone: who takes bytes moves the moment at which it is free. Not for threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free_s = 0.0

    def book(self, n_bytes: int, bytes_per_second: float) -> float:
        """The moment (of the clock) from which these bytes may be accepted."""
        start_s = max(self._free_s, self._clock() - SHARE_S)
        self._free_s = start_s + n_bytes / bytes_per_second
        return start_s


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
        self._now_is(self._initial if found is None else int(found))

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


class _Booking(NamedTuple):
    """What a thread waits for."""

    n_bytes: int
    #: The moment by the download's own limit, and by both; whether the fleet's is settled, and under which limit.
    own_s: float
    start_s: float
    booked: bool
    changes: int


class BandwidthLimiter:
    """What a `Control` asks before bytes are accepted: the fleet's limit and one of the download's own. For many
    threads.
    """

    def __init__(self, fleet: FleetLimiter, own_limit: int | None = None) -> None:
        """`own_limit`: bytes per second of this download alone."""
        self._fleet = fleet
        self._own_limit = own_limit
        self._own = Gcra()
        self._lock = threading.Lock()
        self._mine = threading.local()
        #: Bytes asked for so far, which are the bytes that were received.
        self.received = 0

    def __call__(self, n_bytes: int) -> float:
        """Seconds to wait before these bytes may be accepted. With 0: how much longer, for the thread's last ones; a
        limit that was changed meanwhile counts at once.
        """
        booking: _Booking | None = getattr(self._mine, "booking", None)
        with self._lock:
            if n_bytes:
                self.received += n_bytes
                own_s = self._own.book(n_bytes, self._own_limit) if self._own_limit else 0.0
                booking = self._book(n_bytes, own_s)
            elif booking is not None:
                self._fleet.look()
                if not booking.booked or booking.changes != self._fleet.changes:
                    booking = self._book(booking.n_bytes, booking.own_s)
        self._mine.booking = booking
        if booking is None:
            return 0.0
        # Not 0 for what is not booked yet: the caller would take it for a yes.
        return max(0.0 if booking.booked else ASK_AGAIN_S, booking.start_s - time.monotonic())

    @property
    def limited(self) -> bool:
        """Whether any limit applies now."""
        with self._lock:
            return bool(self._own_limit) or self._fleet.limited

    @property
    def share(self) -> int | None:
        """Bytes per second that the limits leave to this download at least, None without any."""
        with self._lock:
            shares = [share for share in (self._own_limit, self._fleet.share) if share]
        return min(shares, default=None)

    def _book(self, n_bytes: int, own_s: float) -> _Booking:
        booked, start_s = self._fleet.book(n_bytes)
        return _Booking(n_bytes, own_s, max(own_s, start_s), booked, self._fleet.changes)
