"""Sending a body over a socket, including the ways in which a body goes wrong."""

import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable

from tests.hub.messages import Body

#: Bytes written at once when nothing limits the rate.
SEND_BYTES = 1 << 20

#: Largest paced write (bytes), so that fast rates stay smooth too.
PACE_MAX_BYTES = 256 << 10

#: Seconds to wait until the client's kernel has acknowledged everything, before a reset: a reset drops what is unsent.
DRAIN_TIMEOUT_S = 5.0

#: Linux's SIOCOUTQ: bytes sent and not acknowledged.
SIOCOUTQ = termios.TIOCOUTQ

#: Seconds after which a client that reads nothing is given up.
SEND_TIMEOUT_S = 120


class ConnectionEnded(Exception):
    """The connection is over: by a fault, by the client, or because the server stops."""


class Wire:
    """The sending half of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        # A blocking socket with a kernel time-out: Python's own time-outs make it non-blocking, and sendfile(2) fails.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it. Raises OSError."""
        self._socket.sendall(data)

    def send_file(self, descriptor: int, start: int, length: int) -> int:
        """Send up to `length` bytes of an open file by sendfile(2); returns how many. Raises OSError."""
        return os.sendfile(self._socket.fileno(), descriptor, start, length)

    def pause(self, seconds: float) -> bool:
        """Wait; true at once when the client hangs up or the server stops (which shuts the socket down)."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return bool(poll.poll(seconds * 1_000))

    def reset(self) -> None:
        """Make the coming close a TCP reset, after everything sent has reached the client's kernel."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while self._unacknowledged() and time.monotonic() < deadline:
            if self.pause(0.001):
                break
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _unacknowledged(self) -> int:
        return int(struct.unpack("i", fcntl.ioctl(self._socket, SIOCOUTQ, b"\0" * 4))[0])


class BodySender:
    """Sends one body; `count` is told how many bytes went out, `idle` when a stall begins and ends."""

    def __init__(self, wire: Wire, body: Body, count: Callable[[int], None], idle: Callable[[bool], None]) -> None:
        self._wire = wire
        self._body = body
        self._count = count
        self._idle = idle
        self._sent = 0
        self._began_s = time.monotonic()
        self._chunked = body.declared_length is None and body.chunked

    def send(self) -> None:
        """Send it all. Raises ConnectionEnded where the body ends the connection, OSError where the client does."""
        body = self._body
        stop = body.length if body.ends_after is None else min(body.length, body.ends_after)
        for after, seconds in sorted(body.stalls):
            if after < stop or after == stop == body.length:
                self._send_until(after)
                self._stall(seconds)
        self._send_until(stop)
        if body.ends_after is not None:
            if body.ending == "reset":
                self._wire.reset()
            raise ConnectionEnded("as the fault says")
        if self._chunked:
            self._wire.send(b"0\r\n\r\n")

    def _stall(self, seconds: float) -> None:
        self._idle(True)
        if self._wire.pause(seconds):
            raise ConnectionEnded("gone during a stall")
        self._idle(False)

    def _send_until(self, position: int) -> None:
        body = self._body
        start, end = body.start + self._sent, body.start + position
        plain = body.rate_bytes_per_s is None and not body.flips and not self._chunked
        if plain and body.content.path is not None:
            self._send_file(start, end)
            return
        for block in body.content.blocks(start, end):
            self._send_block(self._flipped(block))

    def _send_file(self, start: int, end: int) -> None:
        with open(str(self._body.content.path), "rb") as file:
            while start < end:
                sent = self._wire.send_file(file.fileno(), start, min(SEND_BYTES, end - start))
                if sent == 0:
                    raise ConnectionEnded("the file has become shorter")
                start += sent
                self._note(sent)

    def _send_block(self, block: memoryview) -> None:
        rate = self._body.rate_bytes_per_s
        step = SEND_BYTES if rate is None else max(1, min(PACE_MAX_BYTES, int(rate * self._body.pace_step_s)))
        for at in range(0, len(block), step):
            piece = block[at : at + step]
            self._wire.send(b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")) if self._chunked else piece)
            self._note(len(piece))
            if rate is not None:
                self._keep_pace(rate)

    def _keep_pace(self, rate_bytes_per_s: float) -> None:
        ahead_s = self._began_s + self._sent / rate_bytes_per_s - time.monotonic()
        if ahead_s >= 0.001 and self._wire.pause(ahead_s):
            raise ConnectionEnded("gone while paced")

    def _flipped(self, block: memoryview) -> memoryview:
        """The block with one bit of each byte to be flipped turned; sent bytes give its place."""
        start = self._body.start + self._sent
        inside = [offset - start for offset in self._body.flips if start <= offset < start + len(block)]
        if not inside:
            return block
        changed = bytearray(block)
        for index in inside:
            changed[index] ^= 1
        return memoryview(changed)

    def _note(self, count: int) -> None:
        self._sent += count
        self._count(count)
