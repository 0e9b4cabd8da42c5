"""SO_RCVLOWAT: a read waits until there is enough to be worth it.

Problem: a line brings its bytes in pieces of 1 to 64 KiB, and each that is read as it comes is a turn of the whole
engine: a wake-up, a write, a CRC, counts under locks. The easy way, a nap after a short read, lets the receive window
fill before the kernel has opened it wide, and slows the line down. So the kernel is told how many bytes are worth a
wake-up (socket(7), tcp(7)): what the connection brings in `GATHER_S`. It widens the window for them, and wakes the
reader sooner when that is full or the sender closes. Where they do not come in twice the time, what is there is read,
and what follows as it comes, until the rate is known again: nothing waits for longer than that.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from typing import Final

#: Seconds over which the rate is taken, and for whose bytes a read waits; it waits for twice as long at most.
GATHER_S: Final = 0.01
WAIT_MS: Final = 20
#: Bytes of a TLS record and its head (RFC 8446, 5.2), which may have left the kernel while the record is not whole.
TLS_RECORD_BYTES: Final = 5 + 16_384 + 256
#: Bytes that are always worth a wake-up, and those that are not worth waiting for: not less than a record, for the read
#: that follows would else wait for its rest, and that is under this mark still.
MOST_BYTES: Final = 256 * 1024
LEAST_BYTES: Final = TLS_RECORD_BYTES


class LowWaterMark:
    """The mark of one connection whose body is read. Belongs to the reader.

    It does nothing where the system does not heed it in poll(2), and for what is no socket (TLS within TLS).
    """

    def __init__(self, sock: object) -> None:
        self._sock = sock if sys.platform == "linux" and isinstance(sock, socket.socket) else None
        if self._sock is not None:
            self._poll = select.poll()
            self._poll.register(self._sock, select.POLLIN)
        self._mark = 1
        self._aim = 0
        self._bytes, self._since_s = 0, time.monotonic()

    def wait(self, left: int | None) -> None:
        """Until there is enough of the `left` bytes to come, or for `WAIT_MS`; not at all where nobody knows how many
        there are (None): the last ones would be waited for in vain.
        """
        mark = min(self._aim, (left or 0) - TLS_RECORD_BYTES)
        if self._sock is None or mark < LEAST_BYTES:
            self.lower()
            return
        self._set(mark)
        if not self._poll.poll(WAIT_MS):
            self._aim //= 2
            self.lower()

    def count(self, n_bytes: int) -> None:
        """So many bytes were read."""
        self._bytes += n_bytes
        now_s = time.monotonic()
        if now_s - self._since_s >= GATHER_S:
            self._aim = min(MOST_BYTES, round(self._bytes / (now_s - self._since_s) * GATHER_S))
            self._bytes, self._since_s = 0, now_s

    def lower(self) -> None:
        """One byte is worth a wake-up again: whatever is read next on the connection may be short."""
        self._set(1)

    def _set(self, mark: int) -> None:
        if self._sock is not None and mark != self._mark:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
            self._mark = mark
