"""How many connections a file is worth.

Problem: a CDN gives each connection a fraction of the line, so several are needed; on a quick line the first one fills
the machine, and each further one only costs CPU. The easy way, a fixed number, is wrong for one of the two. So one
connection is looked at for a moment; if it does not saturate, it gets company, and more is added as long as the
aggregate rises by a tenth. Where each of the last ones brings its full share, as on a server that limits connections,
that is seen at once, and as many again are added. What does not pay is taken back. Pure arithmetic: the clock is given.
"""

from __future__ import annotations

from workers.transfer.limits import Limits

#: Looks that an addition has to pay off in: TCP needs a few round trips to open its window.
LOOKS_TO_PAY = 3

#: Part of its share, which is the rate of one connection before, that an added one must bring for as many again.
FULL_SHARE = 0.8

#: Seconds. Several connections hear "too many requests" at the same moment; that is one reason to halve, not several.
HALVE_EVERY_S = 1.0

#: How many times longer than usual a count stays at most where a server has refused more.
AGAIN_MAX_FACTOR = 16

#: Seconds after which a first connection that has fallen silent gets company all the same.
SILENT_S = 2.0


class ConnectionCount:
    """The number of connections a file should have now."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.target = 1
        #: The rate before the last addition, in bytes per second, and the count then.
        self._before_rate = 0.0
        self._before_count = 0
        self._looks_left = 0
        self._settled_s: float | None = None
        self._halved_s = -HALVE_EVERY_S
        #: Seconds for which a settled count stays.
        self._again_s = limits.ramp_again_s
        self._look_s: float | None = None
        self._look_bytes = 0

    def look(self, now_s: float, bytes_moved: int) -> int:
        """The target, given the bytes that all connections have moved so far. Call it often."""
        if self._look_s is None:
            # The clock starts with the first answer: the time before it says nothing of the rate.
            self._look_from(now_s, bytes_moved)
            return self.target
        alone = self.target == 1 and not self._before_count
        silent = alone and bytes_moved == self._look_bytes
        elapsed_s = now_s - self._look_s
        quick_s = min(self._limits.ramp_quick_s, self._limits.ramp_interval_s)
        if elapsed_s < (SILENT_S if silent else self._limits.solo_look_s if alone else quick_s):
            return self.target
        rate = (bytes_moved - self._look_bytes) / elapsed_s
        if not alone and elapsed_s < self._limits.ramp_interval_s:
            if self._settled_s is None and self._brings_its_share(rate):
                self._look_from(now_s, bytes_moved)
                self._grow(rate, now_s, double=self._before_count > 1)
            return self.target
        self._look_from(now_s, bytes_moved)
        if silent or (self._settled_s is not None and now_s - self._settled_s > self._again_s):
            self._grow(rate, now_s)
        elif self._settled_s is None:
            self._weigh(rate, now_s)
        return self.target

    def throttled(self, now_s: float) -> None:
        """The server wants fewer: halve, and stay there for a while."""
        if now_s - self._halved_s < HALVE_EVERY_S:
            return
        self._halved_s = now_s
        self._stay(max(1, self.target // 2), now_s)

    def refused(self, now_s: float, left: int) -> None:
        """The server serves no more than the `left` connections that it has: stay there for a while."""
        self._stay(max(1, min(self.target, left)), now_s)

    def _stay(self, target: int, now_s: float) -> None:
        """What the server did not like is tried again, but each time later."""
        if self._settled_s is None or now_s - self._settled_s > HALVE_EVERY_S:
            self._again_s = min(self._again_s * 2, self._limits.ramp_again_s * AGAIN_MAX_FACTOR)
        self.target, self._before_count, self._settled_s = target, target, now_s

    def _weigh(self, rate: float, now_s: float) -> None:
        if rate > self._before_rate * self._limits.ramp_gain:
            self._grow(rate, now_s)
            return
        self._looks_left -= 1
        if self._looks_left <= 0:
            self.target = max(1, self._before_count)
            self._settled_s = now_s

    def _brings_its_share(self, rate: float) -> bool:
        """Whether each connection that was added last brings about what those before it do."""
        per_connection = self._before_rate / max(1, self._before_count)
        return rate - self._before_rate >= FULL_SHARE * per_connection * (self.target - self._before_count)

    def _grow(self, rate: float, now_s: float, *, double: bool = False) -> None:
        step = self.target if double else self._limits.connections_step
        wanted = self.target + step if self._before_count else self._limits.connections_start
        wanted = min(wanted, self._limits.connections_max)
        if wanted <= self.target or rate >= self._limits.saturated_bytes_per_s * self.target:
            self._before_count = self.target
            self._settled_s = now_s
            return
        self._before_rate, self._before_count = rate, self.target
        self.target = wanted
        self._looks_left = LOOKS_TO_PAY
        self._settled_s = None

    def _look_from(self, now_s: float, bytes_moved: int) -> None:
        self._look_s, self._look_bytes = now_s, bytes_moved
