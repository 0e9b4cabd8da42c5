"""The cable between one process of hive and its Redis, which a test may delay, silence, cut, or plug in elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

#: Where Redis listens: the path of a socket, or host and port.
Address = str | tuple[str, int]

#: Bytes moved at a time.
CHUNK_BYTES = 65_536
#: Seconds that a call into the loop's thread may take.
CALL_S = 20.0


class LoopThread:
    """An event loop in a thread of its own, so that cables and viewers go on while a test blocks."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="chaos-loop", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine."""
        return self.spawn(work).result(CALL_S)

    def spawn(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        """End what runs in it, and the thread."""
        self.call(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CALL_S)
        self.loop.close()

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Link:
    """One connection through the cable."""

    def __init__(self, client: asyncio.StreamWriter, redis: asyncio.StreamWriter) -> None:
        self.client, self.redis = client, redis
        self.doomed = False

    def cut(self) -> None:
        """Both ends see it end; the client a reset."""
        _reset(self.client)
        self.redis.transport.abort()


class Proxy:
    """A TCP port that leads to Redis. All may be changed while it runs, from any thread.

    `delay_s` is added to every chunk in both directions; `target` is where new connections go.
    """

    def __init__(self, thread: LoopThread, target: Address) -> None:
        self.target = target
        self.delay_s = 0.0
        #: Replies that were kept back, see `drop_reply_to`.
        self.dropped = 0
        self._thread = thread
        self._words: dict[bytes, int] = {}
        self._links: set[_Link] = set()
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._server = thread.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """What to put into REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def silence(self, silent: bool = True) -> None:
        """A black hole: connections stay open, and nothing comes through. What was sent arrives when it ends."""
        self._thread.loop.call_soon_threadsafe(self._speaks.clear if silent else self._speaks.set)

    def reset(self) -> None:
        """Cut every connection."""
        self._thread.call(self._reset())

    def drop_reply_to(self, word: bytes, times: int = 1) -> None:
        """The next requests with this word in them are carried out; instead of the reply comes a reset."""
        self._words[word] = times

    def close(self) -> None:
        """Unplug it."""
        self._thread.call(self._close())

    async def _reset(self) -> None:
        for link in list(self._links):
            link.cut()

    async def _close(self) -> None:
        self._server.close()
        await self._reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._speaks.wait()
        try:
            if isinstance(self.target, str):
                up_reader, up_writer = await asyncio.open_unix_connection(self.target)
            else:
                up_reader, up_writer = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, up_writer)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._requests(reader, link)),
            asyncio.create_task(self._replies(up_reader, link)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the loop's end; asyncio would log it as a mistake of ours
        finally:
            link.cut()
            self._links.discard(link)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while data := await self._read(reader):
            for word, left in list(self._words.items()):
                if left and word in data:
                    self._words[word] = left - 1
                    link.doomed = True
            await _write(link.redis, data)

    async def _replies(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while data := await self._read(reader):
            if link.doomed:
                self.dropped += 1
                return
            await _write(link.client, data)

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        data = b""
        with contextlib.suppress(OSError):
            data = await reader.read(CHUNK_BYTES)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._speaks.wait()
        return data


def _reset(writer: asyncio.StreamWriter) -> None:
    plain = writer.transport.get_extra_info("socket")
    if not writer.transport.is_closing():
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    with contextlib.suppress(OSError):
        await writer.drain()
