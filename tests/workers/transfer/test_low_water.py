"""How much a read of a body waits for, and that nothing is left lying for it."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD

import pytest

from tests.support.content import KIB, MIB
from tests.support.tls import Authority
from tests.support.waiting import DEADLINE_S, wait_for
from workers.transfer.http import low_water
from workers.transfer.http.low_water import LEAST_BYTES, TLS_RECORD_BYTES, LowWaterMark
from workers.transfer.http.sockets import Body

BODY_BYTES = 4 * MIB
FAST_BYTES = 40 * KIB


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(low_water, "time", found)
    return found


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A reader and a sender, over TCP: other sockets do not heed the mark."""
    with connected() as found:
        yield found


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as reader:
        sender, _ = server.accept()
        with sender:
            for each in (reader, sender):
                each.settimeout(DEADLINE_S)
            yield reader, sender


def body_on(reader: socket.socket, sender: socket.socket, size: int = BODY_BYTES) -> Body:
    """An answer with so many bytes, of which none has been sent yet."""
    sender.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    body = Body(reader, method="GET")
    body.begin()
    return body


def mark_of(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def waiting_bytes(sock: socket.socket) -> int:
    return int(struct.unpack("i", ioctl(sock, FIONREAD, b"\0" * 4))[0])


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def make_fast(mark: LowWaterMark, clock: Clock) -> None:
    """As at four megabytes a second: what the kernel takes in any case before it widens the window."""
    clock.now_s += 0.01
    mark.count(FAST_BYTES)


def test_a_fast_line_wakes_the_reader_for_many_bytes(pair: tuple[socket.socket, socket.socket], clock: Clock) -> None:
    reader, sender = pair
    mark = LowWaterMark(reader)
    make_fast(mark, clock)
    sender.sendall(bytes(FAST_BYTES))
    mark.wait(BODY_BYTES)
    assert mark_of(reader) == FAST_BYTES
    left = FAST_BYTES
    while left:
        left -= len(reader.recv(left))
    sender.sendall(bytes(FAST_BYTES - 1))
    wait_for(lambda: waiting_bytes(reader) == FAST_BYTES - 1, "the bytes")
    assert not readable(reader)
    sender.sendall(b"x")
    wait_for(lambda: readable(reader), "the reader is woken")


def test_fewer_bytes_are_read_after_a_moment_and_the_next_as_they_come(
    pair: tuple[socket.socket, socket.socket], clock: Clock
) -> None:
    reader, sender = pair
    mark = LowWaterMark(reader)
    make_fast(mark, clock)
    sender.sendall(b"few")
    mark.wait(BODY_BYTES)
    assert (mark_of(reader), reader.recv(10)) == (1, b"few")
    sender.sendall(b"x")
    wait_for(lambda: readable(reader), "one byte is enough now")


@pytest.mark.parametrize(
    ("n_bytes", "seconds", "expected"),
    [
        (FAST_BYTES, 0.01, FAST_BYTES),
        (FAST_BYTES, 0.02, FAST_BYTES // 2),
        (FAST_BYTES, 0.1, 1),  # ten milliseconds of it are not worth a wait
        (FAST_BYTES, 0.009, 1),  # not known yet
        (TLS_RECORD_BYTES - 1, 0.01, 1),  # a record may be longer, whose rest would be waited for under the mark
    ],
)
def test_the_mark_follows_the_rate(
    pair: tuple[socket.socket, socket.socket], clock: Clock, n_bytes: int, seconds: float, expected: int
) -> None:
    reader, sender = pair
    mark = LowWaterMark(reader)
    clock.now_s += seconds
    mark.count(n_bytes)
    sender.sendall(bytes(FAST_BYTES))
    wait_for(lambda: waiting_bytes(reader) == FAST_BYTES, "the bytes")
    mark.wait(BODY_BYTES)
    assert mark_of(reader) == expected


def test_the_last_bytes_are_not_waited_for(pair: tuple[socket.socket, socket.socket], clock: Clock) -> None:
    reader, sender = pair
    mark = LowWaterMark(reader)
    make_fast(mark, clock)
    sender.sendall(bytes(FAST_BYTES))
    mark.wait(FAST_BYTES)  # of which a TLS record may have left the kernel
    assert mark_of(reader) == FAST_BYTES - TLS_RECORD_BYTES
    mark.wait(LEAST_BYTES + TLS_RECORD_BYTES - 1)
    assert mark_of(reader) == 1


def test_a_body_is_read_to_its_end_and_leaves_the_connection_as_it_was(
    pair: tuple[socket.socket, socket.socket], clock: Clock
) -> None:
    reader, sender = pair
    body, buffer = body_on(reader, sender), memoryview(bytearray(64 * KIB))
    sending = threading.Thread(target=sender.sendall, args=(bytes(BODY_BYTES),))
    sending.start()
    marks, left = set(), BODY_BYTES
    while left:
        clock.now_s += 0.001
        n_bytes = body.read_into(buffer)
        assert n_bytes > 0
        left -= n_bytes
        marks.add(mark_of(reader))
    sending.join(DEADLINE_S)
    assert max(marks) > LEAST_BYTES
    assert body.isclosed()
    assert mark_of(reader) == 1


@contextlib.contextmanager
def tls_pair(folder: Path) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """The same with TLS, after the handshake."""
    authority = Authority(folder)
    ours = ssl.create_default_context(cafile=authority.file)
    with (
        connected() as (plain_reader, plain_sender),
        ours.wrap_socket(plain_reader, server_hostname="localhost", do_handshake_on_connect=False) as reader,
        authority.context().wrap_socket(plain_sender, server_side=True, do_handshake_on_connect=False) as sender,
    ):
        other = threading.Thread(target=sender.do_handshake)
        other.start()
        reader.do_handshake()
        other.join(DEADLINE_S)
        yield reader, sender


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    with tls_pair(tmp_path) as found:
        yield found


def test_a_read_of_tls_takes_all_records_that_are_here(tls: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    ours, theirs = tls
    body = body_on(ours, theirs)
    buffer = memoryview(bytearray(MIB))
    for _ in range(20):
        theirs.sendall(b"0123456789abcdef" * 256)
    wait_for(lambda: waiting_bytes(ours) > 20 * 4 * KIB, "twenty records")
    n_bytes = body.read_into(buffer)
    assert (n_bytes, bytes(buffer[:n_bytes])) == (80 * KIB, b"0123456789abcdef" * 5120)
    assert ours.gettimeout() == DEADLINE_S
    theirs.sendall(b"x")
    assert body.read_into(buffer) == 1  # waits again


def test_a_broken_record_behind_good_ones_costs_none_of_them(tls: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    ours, theirs = tls
    body = body_on(ours, theirs)
    buffer = memoryview(bytearray(MIB))
    theirs.sendall(bytes(40 * KIB))
    under = socket.socket(fileno=theirs.detach())
    with under:
        under.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
        wait_for(lambda: waiting_bytes(ours) > 40 * KIB + 69, "the broken record")
        assert body.read_into(buffer) == 40 * KIB
        with pytest.raises(ssl.SSLError):
            body.read_into(buffer)
