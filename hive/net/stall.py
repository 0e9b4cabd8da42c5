"""Clients that take nothing of what they were sent: who they are, and when they are given up."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sys
import termios
from collections.abc import Callable


class StallTimer:
    """Calls `on_stalled` where a client has taken nothing, within a time-out, of what waits for it, here and in the
    kernel. To be started when no more is written; neither the loop nor the kernel gives up a client that is there and
    has no room. One that is slow keeps its connection: what waits for it is bounded.
    """

    __slots__ = ("_handle", "_on_stalled", "_timeout_s", "_transport")

    def __init__(self, transport: asyncio.Transport, on_stalled: Callable[[], None], timeout_s: float) -> None:
        self._transport = transport
        self._on_stalled = on_stalled
        self._timeout_s = timeout_s
        self._start()

    def cancel(self) -> None:
        """It has taken all."""
        self._handle.cancel()

    def _start(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(self._timeout_s, self._check, self._waiting_bytes())

    def _check(self, waited_bytes: int) -> None:
        if self._waiting_bytes() < waited_bytes:
            self._start()
        else:
            self._on_stalled()

    def _waiting_bytes(self) -> int:
        in_kernel = bytes(4)
        with contextlib.suppress(OSError):  # not every system tells, and a socket may have been closed
            in_kernel = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_kernel)
        return self._transport.get_write_buffer_size() + int.from_bytes(in_kernel, sys.byteorder)
