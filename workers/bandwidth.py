"""Bandwidth: how long to wait before bytes may be accepted, by the limit of the line and by one of the download's own.

The line is a queue in time (GCRA): whoever wants to accept n bytes moves the moment at which it is free by n / limit,
and waits until the old one. That is fair, exact on average, and nobody polls. Who shares a line is for `Line` to say:
the fleet through Redis (workers.fleet.bandwidth), or the processes of one machine (workers.local.bandwidth).

Bytes are counted when they are accepted from the kernel. Whoever is held back makes the kernel take little ahead, and
adds no connection (workers/transfer); else the buffers of thirty connections were seen to take 130 MB at full speed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

#: Seconds of its own share that a process takes at a time, and that may be sent at once after a pause.
SHARE_S = 0.1
#: Seconds after which a thread asks again whose turn is about to come.
ASK_AGAIN_S = 0.001


class Line(Protocol):
    """A line that several share. Not for threads."""

    #: Grows when the limit changes: what was booked under the old one is void.
    changes: int

    def book(self, n_bytes: int) -> tuple[bool, float]:
        """The moment (monotonic) from which these bytes may be accepted, 0.0 for now. (False, moment): ask again
        then.
        """

    def look(self) -> None:
        """See whether the limit has changed: for those who wait."""

    @property
    def limited(self) -> bool:
        """Whether there is a limit now, as far as is known."""

    @property
    def share(self) -> int | None:
        """Bytes per second that it leaves to this process at least, None without a limit."""


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

    def __init__(self, line: Line, own_limit: int | None = None) -> None:
        """`own_limit`: bytes per second of this download alone."""
        self._line = line
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
                self._line.look()
                if not booking.booked or booking.changes != self._line.changes:
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
            return bool(self._own_limit) or self._line.limited

    @property
    def share(self) -> int | None:
        """Bytes per second that the limits leave to this download at least, None without any."""
        with self._lock:
            shares = [share for share in (self._own_limit, self._line.share) if share]
        return min(shares, default=None)

    def _book(self, n_bytes: int, own_s: float) -> _Booking:
        booked, start_s = self._line.book(n_bytes)
        return _Booking(n_bytes, own_s, max(own_s, start_s), booked, self._line.changes)
