"""RedisCooldown: a host that asks one worker for a rest gets it from all of them.

Problem: rate limits count per address or token, and a fleet behind one address is one client to the Hub. A worker that
waits alone leaves the others to run into the same 429 one by one, which the Hub may answer with a longer one. So the
rest stands in Redis, expires there by itself, and everybody looks before a request. That must cost no round trip per
request of two thousand small files: what Redis said holds for half a second, and a rest that is known needs no look.
While Redis is away each process keeps to what it knows.
"""

from __future__ import annotations

import logging
import threading
import time

from redis.exceptions import RedisError

from hive.redis.client import RedisClient
from hive.redis.lua import Script, load
from hive.wire import keys

log = logging.getLogger("workers.fleet.cooldown")

#: Seconds for which the answer of Redis about a host is believed.
FRESH_S = 0.5
#: Seconds for which Redis is not asked again when it was away.
REDIS_RETRY_S = 2.0
#: Seconds; a longer rest is not believed: the Hub counts per 5 minutes.
REST_MAX_S = 900.0
#: Hosts that are remembered; more are forgotten, and looked up again.
HOSTS_MAX = 1_000


class RedisCooldown:
    """The cool-down of the whole fleet; see workers.transfer.Cooldown. Safe from any thread, never raises."""

    def __init__(self, client: RedisClient) -> None:
        self._redis = client
        self._set = Script(client, load("workers.fleet", "set_cooldown"))
        self._lock = threading.Lock()
        #: Host -> until when it rests, and when to look again (monotonic).
        self._known: dict[str, tuple[float, float]] = {}

    def remaining_s(self, host: str) -> float:
        """Seconds to wait before the next request to this host; 0.0 as a rule."""
        with self._lock:
            until_s, look_s = self._known.get(host, (0.0, 0.0))
            now_s = time.monotonic()
            if until_s <= now_s and look_s <= now_s:
                until_s = self._look(host, now_s)
            return max(0.0, until_s - now_s)

    def set(self, host: str, seconds: float) -> None:
        """The host asked to be left alone for so long."""
        rest_ms = int(min(max(seconds, 0.0), REST_MAX_S) * 1000)
        if rest_ms == 0:
            return
        with self._lock:
            try:
                rest_ms = int(
                    self._set(cooldown=keys.cooldown(host), rest_ms=rest_ms, rest_max_ms=int(REST_MAX_S * 1000))
                )
            except RedisError:
                log.debug("the rest of a host is not told to the others: Redis is away")
            self._note(host, rest_ms)

    def _look(self, host: str, now_s: float) -> float:
        try:
            # Negative: there is none, or one without an end, which is not ours.
            left_ms = max(0, int(self._redis.pttl(keys.cooldown(host))))
            if left_ms > REST_MAX_S * 1000:
                left_ms = 0  # longer than any: Redis' clock was set back
        except RedisError:
            self._note(host, 0, REDIS_RETRY_S)
            return 0.0
        self._note(host, left_ms)
        return now_s + left_ms / 1000

    def _note(self, host: str, rest_ms: int, fresh_s: float = FRESH_S) -> None:
        if len(self._known) >= HOSTS_MAX:
            self._known.clear()
        now_s = time.monotonic()
        until_s = max(self._known.get(host, (0.0, 0.0))[0], now_s + rest_ms / 1000)
        self._known[host] = (until_s, now_s + fresh_s)
