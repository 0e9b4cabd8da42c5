"""Exponential backoff: how long to wait before the next try, bounded, and with jitter.

Problem: what fails once often fails for a while, and whoever asks again at once makes it worse; many that failed
together return together. The easy way, a doubling wait written where it is needed, was written seven times, each with
another mistake to make: no bound, no jitter, a count that is never set back. So the arithmetic is here, once, and the
figures stay with their owners.

Full jitter, the default, draws from zero to the bound: it spreads clients that failed at the same moment best. Who
must not hurry, or is alone, asks for less.
"""

from __future__ import annotations

import random
from typing import Final, NamedTuple


class Jitter(NamedTuple):
    """The part of a bound that a wait is drawn from, evenly: fractions of it."""

    low: float
    high: float

    def of(self, seconds: float) -> float:
        """A wait in seconds for a bound of `seconds`."""
        return random.uniform(self.low * seconds, self.high * seconds)


#: From nothing to the bound: for crowds.
FULL_JITTER: Final = Jitter(0.0, 1.0)
#: For one that is alone, and whose waits people read in a log.
NO_JITTER: Final = Jitter(1.0, 1.0)
#: Exponents beyond this change no bound that anybody waits for, and would overflow one day.
MAX_EXPONENT: Final = 64


class Backoff:
    """The failures in a row of one who tries again, and the wait after each. For one thread."""

    def __init__(
        self,
        first_s: float,
        last_s: float,
        *,
        factor: float = 2.0,
        jitter: Jitter = FULL_JITTER,
        least_s: float = 0.0,
    ) -> None:
        """Bounds from `first_s`, each `factor` times the one before, to `last_s`; no wait is below `least_s`."""
        self.first_s = first_s
        self.failures = 0
        self._last_s = last_s
        self._factor = factor
        self._jitter = jitter
        self._least_s = least_s

    def reset(self) -> None:
        """It worked: the next failure is the first one."""
        self.failures = 0

    def next_s(self) -> float:
        """Count a failure; gives the seconds to wait before the next try."""
        bound_s = max(self._least_s, min(self._last_s, self.first_s * self._factor ** min(self.failures, MAX_EXPONENT)))
        self.failures += 1
        return random.uniform(max(self._least_s, self._jitter.low * bound_s), self._jitter.high * bound_s)
