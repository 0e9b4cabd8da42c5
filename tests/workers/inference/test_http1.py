"""The small HTTP server of a worker, on a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest

from workers.inference import http1
from workers.inference.http1 import HttpRequest, Listener, Response


async def echo(request: HttpRequest, response: Response) -> None:
    response.whole(200, request.body)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("Content-Length: 400000\r\n\r\n", "BODY_TOO_LARGE"),
        ("Transfer-Encoding: chunked\r\n\r\n61a80\r\n" + "x" * 270_000, "BODY_TOO_LARGE"),
        ("X: ", "HEADERS_TOO_LARGE"),
        ("Transfer-Encoding: chunked\r\n\r\n1;", "BODY_TOO_LARGE"),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", "BODY_TOO_LARGE"),
        ("no header\r\n\r\n", "INVALID_REQUEST"),
    ],
)
async def test_who_is_refused_while_it_sends_reads_why(head: str, code: str) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    server = await Listener(echo).listen(sock)
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    async with server, asyncio.timeout(60):
        writer.write(f"POST / HTTP/1.1\r\nHost: x\r\n{head}".encode() + b"x" * 70_000)
        answered = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        behind = 0
        while behind < 100_000:
            writer.write(b"x" * 10_000)
            await writer.drain()
            await asyncio.sleep(0)  # lets the reader read
            behind += 10_000 * answered.done()
        answer = await answered
        body = await reader.read()  # an end, and no reset
    assert b"connection: close" in answer
    assert json.loads(body)["error"]["code"] == code
    writer.close()


@pytest.mark.anyio
async def test_a_target_that_names_a_host_counts_in_its_place_and_two_hosts_are_none() -> None:
    async def show(request: HttpRequest, response: Response) -> None:
        response.whole(200, request.path.encode() + b" " + request.headers[b"host"])

    sock = socket.create_server(("127.0.0.1", 0))
    server = await Listener(show).listen(sock)
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    async with server, asyncio.timeout(60):
        writer.write(b"GET http://other:1/a?b HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readuntil(b"/a other:1")
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")
        assert b"INVALID_REQUEST" in await reader.read()
    writer.close()


@pytest.mark.anyio
@pytest.mark.parametrize(("limit", "via"), [("STREAM_STALL_S", ""), ("PASSED_ON_STALL_S", "Via: 1.1 hive-server\r\n")])
async def test_the_reader_of_a_stream_may_rest_for_longer_than_others(
    limit: str, via: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = asyncio.Event()

    async def stream(request: HttpRequest, response: Response) -> None:
        response.on_gone = gone.set
        response.start(200, [])
        while not response.paused:
            response.write(b"x" * 10_000)
        await gone.wait()

    for name in ("STALL_TIMEOUT_S", "STREAM_STALL_S", "PASSED_ON_STALL_S"):
        monkeypatch.setattr(http1, name, 0.1 if name == "STALL_TIMEOUT_S" else 0.6 if name == limit else 60.0)
    sock = socket.create_server(("127.0.0.1", 0))
    server = await Listener(stream).listen(sock)
    _, writer = await asyncio.open_connection(*sock.getsockname(), limit=1)
    async with server, asyncio.timeout(60):
        began_s = time.monotonic()
        writer.write(f"POST / HTTP/1.1\r\nHost: x\r\n{via}Content-Length: 0\r\n\r\n".encode())
        await gone.wait()
    assert time.monotonic() - began_s > 0.5
    writer.close()
