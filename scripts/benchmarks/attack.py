"""What a stranger may throw at a server, each kind in a process of its own: `python -m benchmarks.attack --help`.

    slow        clients that send a head, or a body, a byte at a time
    junk        requests that mean nothing, at an even rate: unknown addresses, wrong methods, broken bodies, no HTTP
    silent      connections that say nothing
    headers     heads without end
    pipeline    thousands of requests in one piece, whose answers nobody reads

Whoever is thrown out comes again. It opens its connections, says so with a line of JSON on standard output, answers
each line on standard input with what it has counted since the line before, and ends with its input or its deadline.
Each connection has one of many addresses of the loopback, as a crowd would have.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from benchmarks import machine
from benchmarks.running import ROOT, Told

#: Connections of each kind, unless told otherwise; of junk, those that its requests are spread over.
CONNECTIONS = {"slow": 200, "junk": 100, "silent": 5000, "headers": 50, "pipeline": 50}
#: Requests a second of junk, and heads a second of endless ones.
JUNK_PER_S, HEADS_PER_S = 5000.0, 200.0
#: Connections that are opened a second, at most: no server's backlog is what is tried here.
OPENED_PER_S = 1000.0
#: Seconds between two bytes of a slow client, and for which one that floods does not read.
BYTE_EVERY_S, DEAF_S = 0.5, 5.0
#: Requests in one piece.
PIPELINED = 2000
#: Addresses that connections come from.
SOURCES = 1000
#: Seconds that a connection may take, and until one that failed is tried again.
CONNECT_TIMEOUT_S, RETRY_S = 20.0, 0.5
#: Bytes of an endless head.
HEAD_BYTES = 200_000


class Attack(Told):
    """One kind, started; `ready` says how many connections are open."""

    def __init__(self, kind: str, port: int, seconds: float) -> None:
        command = [sys.executable, "-m", "benchmarks.attack", kind, "--port", str(port), "--seconds", str(seconds)]
        super().__init__(command, None, {"PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"})
        self.ready = self.hear()


class Crowd:
    """The connections of one kind, and what became of them."""

    def __init__(self, port: int) -> None:
        self.counts: Counter[str] = Counter()
        self.open = 0
        self.all_tried = asyncio.Event()
        self._port = port
        self._numbers = itertools.count()
        self._tried: set[int] = set()
        self._gate = asyncio.Semaphore(256)

    async def member(self, number: int, size: int, act: Act) -> None:
        """Connect, act, and come again, for ever."""
        await asyncio.sleep(number / OPENED_PER_S)
        while True:
            writer: asyncio.StreamWriter | None = None
            try:
                async with self._gate, asyncio.timeout(CONNECT_TIMEOUT_S):
                    source = (f"127.9.{next(self._numbers) % SOURCES // 250}.{number % 250 + 1}", 0)
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=source)
                self.counts["opened"] += 1
                self.open += 1
                self._try(number, size)
                try:
                    await act(self, reader, writer)
                finally:
                    self.open -= 1
                self.counts["thrown out"] += 1
            except (OSError, TimeoutError, EOFError):
                self.counts["thrown out"] += 1
                self._try(number, size)
            finally:
                if writer is not None:
                    writer.transport.abort()
            await asyncio.sleep(RETRY_S)

    def answered(self, data: bytes) -> None:
        """Count the answers in what came, by the first digit of their status."""
        for piece in data.split(b"HTTP/1.1 ")[1:]:
            self.counts[f"{piece[:1].decode()}xx"] += 1

    def _try(self, number: int, size: int) -> None:
        self._tried.add(number)
        if len(self._tried) == size:
            self.all_tried.set()


#: What one connection does until it is thrown out.
Act = Callable[[Crowd, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _read(crowd: Crowd, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(65536):
        crowd.answered(data)


async def silent(crowd: Crowd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing."""
    await _read(crowd, reader)


async def slow(crowd: Crowd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte of a head, or of a body, now and then."""
    head = b"POST /v1/models/download HTTP/1.1\r\nHost: localhost\r\n"
    if random.random() < 0.5:
        writer.write(head + b"Content-Length: 60000\r\n\r\n")
    else:
        writer.write(head + b"X-Slow: ")
    reading = asyncio.create_task(_read(crowd, reader))
    try:
        while not reading.done():
            writer.write(b"x")
            crowd.counts["bytes"] += 1
            await asyncio.wait([reading], timeout=BYTE_EVERY_S)
        await reading
    finally:
        reading.cancel()


async def headers(crowd: Crowd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A head that does not end, at the pace of its share."""
    await asyncio.sleep(random.random() * 2 * CONNECTIONS["headers"] / HEADS_PER_S)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Header: yyyyyyyyyyyyyyyy\r\n" * (HEAD_BYTES // 28))
    crowd.counts["sent"] += 1
    await _read(crowd, reader)


async def pipeline(crowd: Crowd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests in one piece; their answers are left where they are."""
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n" * PIPELINED)
    crowd.counts["sent"] += PIPELINED
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(DEAF_S)


async def junk(crowd: Crowd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests at the pace of its share, whether they are answered or not."""
    loop = asyncio.get_running_loop()
    gap_s = CONNECTIONS["junk"] / JUNK_PER_S
    due_s = loop.time() + random.random() * gap_s
    reading = asyncio.create_task(_read(crowd, reader))
    try:
        while not reading.done():
            writer.write(random.choice(JUNK))
            crowd.counts["sent"] += 1
            await writer.drain()
            # What could not be sent in time is left out: it is a rate, and not a number.
            due_s = max(due_s + gap_s, loop.time() - gap_s)
            await asyncio.sleep(due_s - loop.time())
        await reading
    finally:
        reading.cancel()


def _request(method: str, path: str, body: bytes = b"", host: str = "localhost") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


#: What means nothing. The last one is no HTTP and ends its connection, so it is rare.
JUNK: list[bytes] = [
    *(
        piece
        for number in range(10)
        for piece in (
            _request("GET", f"/wp-admin/{number}.php?x={'y' * number * 100}"),
            _request("GET", f"/v1/downloads/{number:08x}-0000-4000-8000-000000000000"),
            _request("GET", f"/v1/models/download/progress?id={number}"),
            _request("GET", "/v1/downloads?limit=-1&cursor=///"),
            _request("GET", f"/v1/models/{'../' * number}etc/passwd"),
            _request("DELETE", "/v1/models/org/none"),
            _request("POST", "/v1/models/download", b'{"model_ref": "' + b"x" * number * 100),
            _request("POST", "/v1/models/download", b"[" * number * 1000),
            _request("POST", "/v1/models/verify", b'{"models": 7}'),
            _request("PUT", "/v1/settings/downloads", b'{"max_running": "many"}'),
            _request("PATCH", "/v1/gc"),
            _request("GET", "/v1/health", host="example.org"),
            _request("POST", "/v1/tickets", b"\xff\xfe\x00"),
        )
    ),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
]
ACTS: dict[str, Act] = {"slow": slow, "junk": junk, "silent": silent, "headers": headers, "pipeline": pipeline}


async def run(kind: str, port: int, seconds: float, size: int) -> None:
    """Throw, and obey, until standard input ends or the time is up."""
    crowd, loop = Crowd(port), asyncio.get_running_loop()
    over = asyncio.Event()

    def obey() -> None:
        if not sys.stdin.buffer.readline():
            over.set()
            loop.remove_reader(sys.stdin.fileno())
            return
        print(json.dumps({"open": crowd.open, **crowd.counts}), flush=True)
        crowd.counts.clear()

    members = [asyncio.create_task(crowd.member(number, size, ACTS[kind])) for number in range(size)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await crowd.all_tried.wait()
            print(json.dumps({"open": crowd.open}), flush=True)
            loop.add_reader(sys.stdin.fileno(), obey)
            await over.wait()
    for member in members:
        member.cancel()
    await asyncio.gather(*members, return_exceptions=True)


def main() -> None:
    """Read the command line, throw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack", description=__doc__)
    parser.add_argument("kind", choices=sorted(ACTS))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=120.0, help="after which it ends whatever happens")
    options: Any = parser.parse_args()
    machine.prepare()
    uvloop.run(run(options.kind, options.port, options.seconds, CONNECTIONS[options.kind]))


if __name__ == "__main__":
    main()
