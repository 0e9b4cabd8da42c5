"""How fast, and how long still: speed over a sliding window, and the sum over the files under way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

#: Seconds over which speed is averaged: short enough to follow a change, long enough not to flicker.
WINDOW_S = 5.0
#: Samples kept; the window at ten a second and some room.
MAX_SAMPLES = 128


class Meter:
    """Speed of a growing count of bytes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque(maxlen=MAX_SAMPLES)

    def update(self, bytes_done: int) -> None:
        """Note the count as it is now."""
        now = self._clock()
        self._samples.append((now, bytes_done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= WINDOW_S:
            self._samples.popleft()

    @property
    def bytes_per_second(self) -> int:
        """The average over the window, 0 until there are two samples or when nothing moved in it."""
        if len(self._samples) < 2:
            return 0
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        elapsed_s = max(self._clock(), last_s) - first_s
        return int(max(0, last - first) / elapsed_s) if elapsed_s > 0 else 0

    def eta_seconds(self, remaining: int) -> int | None:
        """Seconds until `remaining` bytes have come at this speed; None while there is no speed."""
        speed = self.bytes_per_second
        return -(-remaining // speed) if speed > 0 else None
