"""A proxy that puts a server far away: bytes arrive late, so much is under way, and now and then a connection breaks.

    python -m benchmarks.distance PORT UPSTREAM_PORT DELAY_MS WINDOW_BYTES CUT_EVERY_BYTES

It stands for a line that network emulation in the kernel would give. The breaks are drawn from a fixed seed, so that
every tool meets as many.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time

#: Bytes read in one go.
READ_BYTES = 2**16


class Distance:
    """The proxy of one port."""

    def __init__(self, upstream_port: int, delay_s: float, window_bytes: int, cut_every_bytes: int) -> None:
        self._upstream_port = upstream_port
        self._delay_s = delay_s
        self._window_bytes = window_bytes
        self._cut_every_bytes = cut_every_bytes
        self._random = random.Random(7)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it or it breaks."""
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        budget = self._random.expovariate(1 / self._cut_every_bytes) if self._cut_every_bytes else float("inf")
        ways = [
            asyncio.create_task(self._one_way(reader, upstream_writer, float("inf"))),
            asyncio.create_task(self._one_way(upstream_reader, writer, budget)),
        ]
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        broken = any(way.exception() or way.result() for way in done)
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, upstream_writer):
            if broken:
                end.transport.abort()
            else:
                end.close()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: float) -> bool:
        """Bytes in at once, out after the delay; no more than the window between. True when the budget is used up."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(max(1, self._window_bytes // READ_BYTES))
        sender = asyncio.create_task(self._send(under_way, writer))
        try:
            while data := await reader.read(READ_BYTES):
                await under_way.put((time.monotonic() + self._delay_s, data))
                budget -= len(data)
                if budget < 0:
                    return True
            await under_way.put((time.monotonic() + self._delay_s, b""))
            await sender
            return False
        finally:
            sender.cancel()

    @staticmethod
    async def _send(under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due_s, data = await under_way.get()
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if not data:
                return
            writer.write(data)
            await writer.drain()


async def serve(port: int, distance: Distance) -> None:
    """Listen until ended."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await distance.carry(reader, writer)

    server = await asyncio.start_server(carry, "127.0.0.1", port, limit=READ_BYTES)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    port_, upstream_, delay_ms, window, cut_every = (int(word) for word in sys.argv[1:6])
    import uvloop

    uvloop.run(serve(port_, Distance(upstream_, delay_ms / 1000, window, cut_every)))
