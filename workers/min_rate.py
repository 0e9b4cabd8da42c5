"""A minimum rate: a download that crawls while others wait gives its worker back.

Problem: a source that sends 2 KiB/s is alive, so no time-out ends it, and two such URLs hold two workers for ever. The
easy way, a lower bound that ends the download, punishes people with a slow line and nobody else to serve. So the rate
counts only where somebody waits, over minutes, and what is too slow is not ended: it goes to the end of the queue with
its parts, and goes on when its turn comes again.

What holds it up on our side is no slowness: a limit of the bandwidth, a pause, the check of a digest.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from hive.wire.events import Downloading

#: Samples in a window: so exact is its length.
SAMPLES = 30
#: Looks in a row that must find somebody waiting: who has just come may be taken by a worker that is free.
LOOKS = 2
#: What a download does where its rate says something of its source.
_FETCHING = frozenset({"downloading", "retrying"})


class Sample(NamedTuple):
    """Bytes over the network, and bytes shown as done, which grow too while another download fetches the file."""

    at_s: float
    received: int
    done: int


class MinimumRate:
    """The rate of one download against the minimum. For one thread."""

    def __init__(
        self,
        bytes_per_second: int,
        window_s: float,
        *,
        others_wait: Callable[[], bool],
        allowed: Callable[[], int | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`others_wait` must not raise, and is asked only of what is too slow. `allowed` gives the bytes per second
        that limits of our own leave, None for no limit.
        """
        self._least = bytes_per_second
        self._window_s = window_s
        self._others_wait = others_wait
        self._allowed = allowed
        self._clock = clock
        self._samples: deque[Sample] = deque(maxlen=2 * SAMPLES)
        self._seen = 0

    def too_slow(self, event: Downloading, received: int) -> bool:
        """Whether to give the worker back. Call it every few seconds."""
        allowed = self._allowed()
        held_back = allowed is not None and allowed < 2 * self._least
        if not self._least or event.status not in _FETCHING or held_back:
            self._samples.clear()
            return False
        self._note(Sample(self._clock(), received, event.bytes_downloaded))
        if not self._is_below():
            self._seen = 0
            return False
        self._seen = self._seen + 1 if self._others_wait() else 0
        return self._seen >= LOOKS

    def _note(self, sample: Sample) -> None:
        """One sample more, unless the last one is young; those that the window does without go."""
        if not self._samples or sample.at_s - self._samples[-1].at_s >= self._window_s / SAMPLES:
            self._samples.append(sample)
        while len(self._samples) > 1 and sample.at_s - self._samples[1].at_s >= self._window_s:
            self._samples.popleft()

    def _is_below(self) -> bool:
        first, last = self._samples[0], self._samples[-1]
        elapsed_s = last.at_s - first.at_s
        moved = max(last.received - first.received, last.done - first.done)
        return elapsed_s >= self._window_s and moved < self._least * elapsed_s
