"""sendfile(2): files go from the page cache to sockets in threads of their own, without passing through Python.

Problem: a file of gigabytes through ASGI is a read, a copy and a message for each piece, in the loop that streams wait
for; and a read from a disk that is busy stops that loop. The easy way, sendfile from the loop, still stops it for each
page that is not in memory. So the connection is taken from the HTTP server, and a descriptor of it is given to one of
a few threads. Each has a loop of its own over the sockets that have room, and sends so much to each in turn. A disk
that is slow holds up files, and no event.

A file that is still being fetched is sent as far as it is there: the `limit` of a transfer says how far that is, and
moves on. A client that takes nothing for as long as a stream's may is given up with a reset; so is one that is cut off.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import fcntl
import logging
import os
import selectors
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

from hive.auth.principal import Principal
from hive.errors import ServerBusy, TooManyRequests
from hive.streams.right_of_way import RightOfWay
from hive.streams.shares import RETRY_S, Shares
from hive.streams.writer import MAX_IGNORED_BYTES, STALL_TIMEOUT_S, reset

log = logging.getLogger("hive.doors.sendfile")

#: Threads that send. One fills a fast line; the others go on where a disk holds one up.
SENDERS: Final = 4
#: Transfers of a process, and those of one key or address.
MAX_TRANSFERS: Final = 1_000
MAX_TRANSFERS_OF_ONE: Final = 200
#: Bytes that one call asks the kernel to send, and that one client gets before others have their turn.
CALL_BYTES: Final = 1 << 20
TURN_BYTES: Final = 4 << 20
#: Seconds between two looks at who takes nothing, and for which one is as good as another.
LOOK_S: Final = 1.0
#: The kernel's send buffer of a file's connection, in bytes, as far as the system allows.
SEND_BUFFER_BYTES: Final = 4 << 20

#: How a transfer ended: all was sent; the client went or took nothing; it was cut off by us.
Outcome = Literal["sent", "gone", "cut"]


class FileSource(Protocol):
    """Where the bytes are. `close` is called once, when no more are read."""

    @property
    def fd(self) -> int:
        """A descriptor to read from."""

    def close(self) -> None:
        """Let go of it."""


class OpenFile:
    """A source that is one open file."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


class FileTransfer:
    """Bytes [at, end) of a source on their way to a socket; those before `limit` may be sent. A sender's, but for what
    is asked of `FileSender`.
    """

    def __init__(self, head: bytes, source: FileSource, start: int, end: int, limit: int, principal: Principal) -> None:
        self.head = memoryview(head)
        self.source = source
        self.at, self.end, self.limit = start, end, limit
        self.principal = principal
        self.sock: socket.socket | None = None
        self.sent = 0
        self.taken, self.taken_s = -1, 0.0
        self.waits_for_room = False
        self.on_end: Callable[[Outcome], None] = lambda _: None

    @property
    def is_behind(self) -> bool:
        """Whether there is something to send."""
        return bool(self.head) or self.at < min(self.limit, self.end)

    @property
    def is_done(self) -> bool:
        """Whether all was sent."""
        return not self.head and self.at >= self.end


class _Sender(threading.Thread):
    """One thread: an event loop over sockets that have room."""

    def __init__(self, number: int, way: RightOfWay) -> None:
        super().__init__(name=f"sendfile-{number}", daemon=True)
        self._way = way
        self._selector = selectors.DefaultSelector()
        self._calls: collections.deque[Callable[[], None]] = collections.deque()
        self._wake_read, self._wake_write = (
            os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if sys.platform == "linux" else os.pipe()
        )
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self.open: set[FileTransfer] = set()

    def call(self, what: Callable[[], None]) -> None:
        """Do this in the thread, soon. From any thread."""
        self._calls.append(what)
        with contextlib.suppress(BlockingIOError):  # it has a word to wake up by already
            os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """Close what it has, where its thread could not be started."""
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def run(self) -> None:
        """For ever: the process's end is its own."""
        looked_s = time.monotonic()
        while True:
            try:
                for key, _ in self._selector.select(LOOK_S if self.open else None):
                    if key.data is None:
                        self._take_calls()
                    else:
                        self._send(key.data)
                if time.monotonic() - looked_s >= LOOK_S:
                    looked_s = time.monotonic()
                    self._give_up_stalled(looked_s)
            except Exception:  # a mistake of ours with one file must not keep the others for ever
                log.exception("a sender of files failed; it goes on")
                time.sleep(LOOK_S)

    def _take_calls(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while self._calls:
            self._calls.popleft()()

    def begin(self, transfer: FileTransfer) -> None:
        """Send it."""
        self.open.add(transfer)
        transfer.taken_s = time.monotonic()
        self._send(transfer)

    def extend(self, transfer: FileTransfer, limit: int) -> None:
        """Bytes before this may be sent now."""
        if transfer in self.open and limit > transfer.limit:
            transfer.limit = limit
            if not transfer.waits_for_room:
                transfer.taken_s = time.monotonic()
                self._send(transfer)

    def end(self, transfer: FileTransfer, outcome: Outcome) -> None:
        """Send no more of it."""
        if transfer not in self.open:
            return
        self.open.discard(transfer)
        self._wait_for_room(transfer, False)
        assert transfer.sock is not None
        transfer.sock.close()
        with contextlib.suppress(OSError):  # some filesystems refuse a close, of what was only read too
            transfer.source.close()
        transfer.on_end(outcome)

    def _send(self, transfer: FileTransfer) -> None:
        """As much as there is room for, and its turn allows."""
        try:
            self._send_some(transfer)
        except BlockingIOError:
            pass
        except OSError:
            self.end(transfer, "gone")
            return
        except Exception:  # left open, it would fail again at each turn, and take the others' with it
            log.exception("a file cannot be sent and is cut off; the others go on")
            self.end(transfer, "cut")
            return
        if transfer.is_done:
            self.end(transfer, "sent")
        else:
            self._wait_for_room(transfer, transfer.is_behind)

    def _send_some(self, transfer: FileTransfer) -> None:
        sock, turn_bytes = transfer.sock, TURN_BYTES
        assert sock is not None
        while transfer.head:
            transfer.head = transfer.head[sock.send(transfer.head) :]
        while (left := min(transfer.limit, transfer.end) - transfer.at) > 0 and turn_bytes > 0:
            self._way.give()
            n_bytes = os.sendfile(sock.fileno(), transfer.source.fd, transfer.at, min(left, CALL_BYTES))
            if not n_bytes:
                raise OSError("the file is shorter than it was")
            transfer.at += n_bytes
            transfer.sent += n_bytes
            turn_bytes -= n_bytes

    def _wait_for_room(self, transfer: FileTransfer, wanted: bool) -> None:
        if wanted == transfer.waits_for_room:
            return
        transfer.waits_for_room = wanted
        assert transfer.sock is not None
        if wanted:
            self._selector.register(transfer.sock, selectors.EVENT_WRITE, transfer)
        else:
            self._selector.unregister(transfer.sock)

    def _give_up_stalled(self, now_s: float) -> None:
        for transfer in list(self.open):
            waiting = _waiting_bytes(transfer)
            taken = transfer.sent - waiting
            if taken > transfer.taken or (not waiting and not transfer.waits_for_room):
                transfer.taken, transfer.taken_s = taken, now_s
            elif now_s - transfer.taken_s >= STALL_TIMEOUT_S:
                self.end(transfer, "gone")


def _waiting_bytes(transfer: FileTransfer) -> int:
    """Bytes that the kernel has for the client, as far as the system tells."""
    in_kernel = bytes(4)
    with contextlib.suppress(OSError):
        assert transfer.sock is not None
        in_kernel = fcntl.ioctl(transfer.sock.fileno(), termios.TIOCOUTQ, in_kernel)
    return int.from_bytes(in_kernel, sys.byteorder)


class FileSender:
    """The threads of a process, started with the first file. Its methods belong to the event loop."""

    def __init__(self, way: RightOfWay | None = None) -> None:
        """Its threads give `way`."""
        self._way = way or RightOfWay()
        self._senders: list[_Sender] = []
        self._connections: set[FileConnection] = set()
        self._shares = Shares(MAX_TRANSFERS_OF_ONE)

    def admit(self, holder: str) -> None:
        """Count one more of this holder ("" is not counted) until its transfer ends, or `release`.

        Raises:
            ServerBusy, TooManyRequests: there are as many as may be, or this holder has.
        """
        if len(self._connections) >= MAX_TRANSFERS:
            raise ServerBusy("As many files as may be are on their way to clients. Try again in a moment.")
        if not self._shares.take(holder):
            text = f"{MAX_TRANSFERS_OF_ONE} files are on their way to this key or address, which are as many as may be."
            raise TooManyRequests(text, retry_after_s=RETRY_S)

    def release(self, holder: str) -> None:
        """No transfer came of it."""
        self._shares.give_back(holder)

    def send(
        self, transport: asyncio.Transport, siblings: set[Any], transfer: FileTransfer, holder: str
    ) -> FileConnection:
        """Send on a connection that is this transfer's from now on; both are closed at its end.

        Raises:
            ServerBusy: no descriptor or no thread can be had. Both are closed then, and the holder has its share back.
        """
        try:
            connection = FileConnection(self, self._least_busy(), transport, siblings, transfer, holder)
            connection.start()
        except (OSError, RuntimeError) as error:
            reset(transport)
            transfer.source.close()
            self.release(holder)
            raise ServerBusy from error
        self._connections.add(connection)
        return connection

    def _least_busy(self) -> _Sender:
        if len(self._senders) < SENDERS:
            try:
                self._senders.append(_started(len(self._senders), self._way))
                return self._senders[-1]
            except (OSError, RuntimeError):
                if not self._senders:
                    raise
        return min(self._senders, key=lambda each: len(each.open))

    def forget(self, connection: FileConnection, holder: str) -> None:
        """It has ended."""
        self._connections.discard(connection)
        self._shares.give_back(holder)

    @property
    def count(self) -> int:
        """How many are on their way."""
        return len(self._connections)

    async def drain(self, window_s: float) -> None:
        """Wait until all have ended, or for so long; what is left is cut off, and its client asks for the rest."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + window_s
        while self._connections and loop.time() < until_s:
            await asyncio.wait([connection.ended for connection in self._connections], timeout=until_s - loop.time())
        for connection in list(self._connections):
            connection.cut()

    async def end_dead(self, is_alive: Callable[[Principal], bool]) -> int:
        """Cut off what was opened by principals that are not alive any more; how many."""
        dead = [connection for connection in self._connections if not is_alive(connection.principal)]
        for connection in dead:
            connection.cut()
        return len(dead)


class FileConnection(asyncio.Protocol):
    """The connection of a transfer, as the event loop sees it: it hears that the client has gone."""

    def __init__(
        self,
        files: FileSender,
        sender: _Sender,
        transport: asyncio.Transport,
        siblings: set[Any],
        transfer: FileTransfer,
        holder: str,
    ) -> None:
        self._files, self._sender = files, sender
        self._transport, self._siblings = transport, siblings
        self._transfer, self._holder = transfer, holder
        self._loop = asyncio.get_running_loop()
        self._ignored_bytes = 0
        self.principal = transfer.principal
        #: Done with the outcome when it has ended.
        self.ended: asyncio.Future[Outcome] = self._loop.create_future()

    def start(self) -> None:
        """Take the connection, and begin. Raises OSError where there is no descriptor for it any more."""
        self._siblings.add(self)
        self._transport.set_protocol(self)
        sock = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        sock.setblocking(False)
        _let_grow(sock)
        self._transfer.sock = sock
        self._transfer.on_end = lambda outcome: _soon(self._loop, self._on_end, outcome)
        self._sender.call(lambda: self._sender.begin(self._transfer))

    def extend(self, limit: int) -> None:
        """Bytes before this may be sent now."""
        self._sender.call(lambda: self._sender.extend(self._transfer, limit))

    def cut(self) -> None:
        """End it short."""
        self._sender.call(lambda: self._sender.end(self._transfer, "cut"))

    def shutdown(self) -> None:
        """The server stops."""
        self.cut()

    # -- called by the event loop ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """A client has nothing to say: the head told it that the connection closes after this."""
        self._ignored_bytes += len(data)
        if self._ignored_bytes > MAX_IGNORED_BYTES:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or we have closed."""
        self._siblings.discard(self)
        self._sender.call(lambda: self._sender.end(self._transfer, "gone"))

    def _on_end(self, outcome: Outcome) -> None:
        self._files.forget(self, self._holder)
        if not self.ended.done():
            self.ended.set_result(outcome)
        if outcome == "sent":
            self._transport.close()  # the kernel sends what it has
        elif not self._transport.is_closing():
            reset(self._transport)


def _started(number: int, way: RightOfWay) -> _Sender:
    """A thread that sends. Raises OSError, RuntimeError where it cannot be had."""
    sender = _Sender(number, way)
    try:
        sender.start()
    except RuntimeError:
        sender.close()
        raise
    return sender


def _let_grow(sock: socket.socket) -> None:
    """Streams have small buffers (hive/server.py); a file is to fill the line. It holds pages of the cache."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended before
        loop.call_soon_threadsafe(call, *args)
