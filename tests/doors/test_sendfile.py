"""Files by sendfile on a connection that was taken over: how far, at what pace, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from pathlib import Path

import pytest

from hive.auth.principal import ANONYMOUS, NOBODY
from hive.doors import sendfile
from hive.doors.sendfile import FileConnection, FileSender, FileTransfer, OpenFile
from hive.errors import ServerBusy, TooManyRequests
from hive.streams import right_of_way
from hive.streams.right_of_way import RightOfWay
from tests.support.waiting import DEADLINE_S, wait_for_async

pytestmark = pytest.mark.anyio

HEAD = b"HEAD\r\n"
CONTENT = os.urandom(12 << 20)


class World:
    """A sender, and clients whose connections it has."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(CONTENT)
        self.path = path
        self.way = RightOfWay()
        self.files = FileSender(self.way)
        self.open: set[object] = set()

    async def connect(
        self, start: int = 0, limit: int | None = None, holder: str = "", source: type[OpenFile] = OpenFile
    ) -> tuple[FileConnection, socket.socket]:
        """A connection on which the file is sent from `start` on, and its client."""
        ours, theirs = socket.socketpair()
        self.client = theirs
        theirs.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        end = len(CONTENT)
        opened = source(os.open(self.path, os.O_RDONLY))
        transfer = FileTransfer(HEAD, opened, start, end, end if limit is None else limit, ANONYMOUS)
        self.files.admit(holder)
        return self.files.send(transport, self.open, transfer, holder), theirs


async def _read(client: socket.socket, n_bytes: int = 1 << 40) -> bytes:
    """So many bytes, or all until the end."""
    loop, data = asyncio.get_running_loop(), bytearray()
    while len(data) < n_bytes:
        try:
            piece = await asyncio.wait_for(loop.sock_recv(client, min(1 << 20, n_bytes - len(data))), DEADLINE_S)
        except ConnectionError:
            break
        if not piece:
            break
        data += piece
    return bytes(data)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "content")


async def test_sixteen_clients_get_every_byte_behind_the_head_and_their_connections_are_closed(world: World) -> None:
    made = [await world.connect(start) for start in [0, 1, 4096, len(CONTENT) - 1] * 4]
    found = await asyncio.gather(*(_read(client) for _, client in made))
    for (connection, client), data, start in zip(made, found, [0, 1, 4096, len(CONTENT) - 1] * 4, strict=True):
        assert data == HEAD + CONTENT[start:]
        assert await asyncio.wait_for(connection.ended, DEADLINE_S) == "sent"
        client.close()
    await wait_for_async(lambda: not world.files.count and not world.open)


async def test_no_byte_behind_the_limit_leaves_before_the_limit_moves(world: World) -> None:
    connection, client = await world.connect(limit=1000)
    assert await _read(client, len(HEAD) + 1000) == HEAD + CONTENT[:1000]
    connection.extend(5000)
    connection.extend(400)  # goes nowhere
    assert await _read(client, 4000) == CONTENT[1000:5000]
    with pytest.raises(BlockingIOError):
        client.recv(1)
    connection.cut()
    assert await _read(client) == b""
    assert await asyncio.wait_for(connection.ended, DEADLINE_S) == "cut"
    client.close()


async def test_no_file_is_sent_while_subscribers_are_told_and_all_of_it_when_that_takes_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(right_of_way, "MAX_WAIT_S", DEADLINE_S)
    with world.way.taken():
        connection, client = await world.connect()
        assert await _read(client, len(HEAD)) == HEAD
        await wait_for_async(lambda: world.files.count == 1)
        with pytest.raises(BlockingIOError):
            client.recv(1)
    assert await _read(client) == CONTENT
    assert await asyncio.wait_for(connection.ended, DEADLINE_S) == "sent"
    client.close()
    monkeypatch.undo()
    with world.way.taken():
        connection, client = await world.connect()
        assert await _read(client) == HEAD + CONTENT
        assert await asyncio.wait_for(connection.ended, DEADLINE_S) == "sent"
    client.close()


async def test_a_client_that_takes_nothing_is_given_up_and_others_are_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sendfile, "STALL_TIMEOUT_S", 1.5)
    stalled, silent = await world.connect()
    slow, reader = await world.connect()
    while not stalled.ended.done():
        assert await _read(reader, 1000)
        await asyncio.sleep(0.02)
    assert stalled.ended.result() == "gone"
    assert not slow.ended.done()
    assert (await _read(reader))[-100:] == CONTENT[-100:]
    assert await asyncio.wait_for(slow.ended, DEADLINE_S) == "sent"
    silent.close()
    reader.close()


async def test_a_client_that_goes_gives_everything_back(world: World) -> None:
    before = len(os.listdir("/proc/self/fd"))
    connection, client = await world.connect(limit=100)
    await _read(client, 100)
    client.close()
    assert await asyncio.wait_for(connection.ended, DEADLINE_S) == "gone"
    await wait_for_async(lambda: not world.files.count and not world.open)
    # A pipe, an epoll and no more: those of the thread.
    await wait_for_async(lambda: len(os.listdir("/proc/self/fd")) <= before + 3)


@pytest.mark.parametrize("lacks", ["a descriptor", "a thread"])
async def test_a_transfer_that_cannot_begin_gives_everything_back(
    world: World, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "") if lacks == "a descriptor" else RuntimeError("can't start new thread")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr("os.dup" if lacks == "a descriptor" else "threading.Thread.start", fail)
        with pytest.raises(ServerBusy):
            await world.connect(holder="key:a")
    await wait_for_async(lambda: not world.files.count and not world.open)
    client = world.client
    assert await _read(client) == b""
    client.close()
    # A pipe, an epoll and no more: those of a thread that was started.
    await wait_for_async(lambda: len(os.listdir("/proc/self/fd")) <= before + 3 * (lacks == "a descriptor"))
    for _ in range(sendfile.MAX_TRANSFERS_OF_ONE):
        world.files.admit("key:a")


async def test_where_there_is_no_further_thread_the_others_send(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    _, first = await world.connect(len(CONTENT) - 1)
    monkeypatch.setattr("threading.Thread.start", fail)
    _, second = await world.connect(len(CONTENT) - 1)
    for client in (first, second):
        assert await _read(client) == HEAD + CONTENT[-1:]
        client.close()


async def test_a_file_that_does_not_close_ends_all_the_same(world: World) -> None:
    class Refuses(OpenFile):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EIO, "")

    for _ in range(sendfile.SENDERS + 1):
        connection, client = await world.connect(len(CONTENT) - 1, source=Refuses)
        assert await _read(client) == HEAD + CONTENT[-1:]
        assert await asyncio.wait_for(connection.ended, DEADLINE_S) == "sent"
        client.close()


async def test_a_file_that_hive_itself_breaks_is_cut_off_and_the_others_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaks(OpenFile):
        @property
        def fd(self) -> int:
            raise ValueError

        @fd.setter
        def fd(self, fd: int) -> None:
            self.file = fd

        def close(self) -> None:
            os.close(self.file)

    monkeypatch.setattr(sendfile, "SENDERS", 1)
    broken, client = await world.connect(source=Breaks)
    assert await asyncio.wait_for(broken.ended, DEADLINE_S) == "cut"
    client.close()
    _, other = await world.connect(len(CONTENT) - 1)
    assert await _read(other) == HEAD + CONTENT[-1:]
    other.close()


async def test_transfers_end_with_their_key_and_with_the_server(world: World) -> None:
    first, client = await world.connect()
    second, other = await world.connect()
    first.principal = NOBODY
    assert await world.files.end_dead(lambda principal: principal is ANONYMOUS) == 1
    assert await asyncio.wait_for(first.ended, DEADLINE_S) == "cut"
    assert not second.ended.done()
    await world.files.drain(0.05)
    assert await asyncio.wait_for(second.ended, DEADLINE_S) == "cut"
    client.close()
    other.close()


async def test_a_key_has_its_share_of_transfers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(sendfile.MAX_TRANSFERS_OF_ONE):
        world.files.admit("key:a")
    with pytest.raises(TooManyRequests):
        world.files.admit("key:a")
    world.files.admit("key:b")
    world.files.release("key:a")
    world.files.admit("key:a")
