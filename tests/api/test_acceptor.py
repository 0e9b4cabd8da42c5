"""Connections come in though the event loop is busy, and though the system has no room for one."""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
import time
from collections.abc import Iterator
from typing import ClassVar, cast

import pytest
import uvloop

from hive.api import acceptor
from hive.api.acceptor import MAX_IN_A_TURN, Acceptor
from tests.support.waiting import wait_for_async

WAITING = 200
#: Seconds of work in each turn of a busy loop.
WORK_S = 0.01


class Counted(asyncio.Protocol):
    """Counts the connections, and says what it was sent."""

    made = lost = 0
    open: ClassVar[list[asyncio.Transport]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Counted.made += 1
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        Counted.open.append(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        Counted.lost += 1

    @classmethod
    async def end(cls) -> None:
        """Close what is open."""
        for transport in cls.open:
            transport.abort()
        cls.open.clear()
        await wait_for_async(lambda: cls.lost == cls.made)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.fixture(autouse=True)
def _count_from_zero() -> None:
    Counted.made = Counted.lost = 0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen(1024)
        made.setblocking(False)
        yield made


def test_a_busy_loop_accepts_many_in_a_turn(listener: socket.socket) -> None:
    clients = [socket.create_connection(listener.getsockname()) for _ in range(WAITING)]
    turns: list[int] = []

    async def main() -> None:
        accepting = Acceptor(listener, Counted)
        loop = asyncio.get_running_loop()

        def work() -> None:
            time.sleep(WORK_S)
            turns.append(Counted.made)
            if Counted.made < WAITING:
                loop.call_soon(work)

        loop.call_soon(work)
        await wait_for_async(lambda: Counted.made == WAITING)
        accepting.close()
        await Counted.end()

    uvloop.run(main())
    for client in clients:
        client.close()
    assert len(turns) <= WAITING // MAX_IN_A_TURN + 5
    assert all(after - before <= MAX_IN_A_TURN for before, after in itertools.pairwise(turns))


def test_who_is_accepted_is_served_and_after_the_end_nobody_is(listener: socket.socket) -> None:
    address = listener.getsockname()

    async def main() -> None:
        accepting = Acceptor(listener, Counted)
        reader, writer = await asyncio.open_connection(*address)
        accepting.close()
        accepting.close()
        await accepting.wait_closed()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        await Counted.end()

    uvloop.run(main())


class Full(socket.socket):
    """A listener for which the system has no descriptor, the first time."""

    refusals = 1

    def accept(self) -> tuple[socket.socket, object]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_process_without_descriptors_accepts_again_when_it_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "PAUSE_S", 0.05)

    async def main() -> None:
        with Full() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            accepting = Acceptor(listener, Counted)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            assert listener.refusals == 0
            writer.close()
            accepting.close()
            await Counted.end()

    uvloop.run(main())
