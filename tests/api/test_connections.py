"""What a connection may cost: heads, bodies, silence, pipelined requests, and how many there are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from hive.api import crowd, http1
from hive.api.crowd import Connections
from hive.api.http1 import HttpProtocol
from hive.api.json import MAX_BODY_BYTES
from hive.auth.holder import LOOPBACK
from hive.downloads.context import DownloadContext
from hive.streams import writer
from tests.support.asgi_server import SMALL_BUFFER, Serving, read_to_end, read_until, running
from tests.support.downloads import create
from tests.support.processes import Server
from tests.support.waiting import AT_ONCE_S, wait_for_async

MIB = 1 << 20


class Wire:
    """A plain connection to a server."""

    def __init__(self, api: str) -> None:
        self.address = urlsplit(api)
        self.socket = socket.create_connection((self.address.hostname, self.address.port), 20)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, text: str | bytes) -> bool:
        """Whether the server still takes it."""
        try:
            self.socket.sendall(text.encode() if isinstance(text, str) else text)
        except OSError:
            return False
        return True

    def answer(self) -> tuple[int, dict[str, object], str]:
        """The status, the error, and what stood in the head of everything until the server closes."""
        whole = b""
        try:
            while part := self.socket.recv(65536):
                whole += part
        except ConnectionResetError:
            pass
        head, _, body = whole.partition(b"\r\n\r\n")
        found = json.loads(body)["error"]
        assert f"x-request-id: {found['request_id']}".encode() in head
        return int(head.split()[1]), found, head.decode()

    @property
    def host(self) -> str:
        return f"Host: {self.address.netloc}\r\n"


def read_all(wire: Wire) -> bytes:
    """Everything until the server closes."""
    whole = b""
    while part := wire.socket.recv(65536):
        whole += part
    return whole


def rss(process: Server) -> int:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.parametrize(
    "head",
    [
        "GET /v1/health HTTP/1.1\r\nX: " + "a" * 33_000 + "\r\n\r\n",
        "GET /" + "a" * 33_000 + " HTTP/1.1\r\n\r\n",
        "GET /v1/health HTTP/1.1\r\n" + "A: b\r\n" * 101 + "\r\n",
        "GET /v1/health HTTP/1.1\r\n" + "".join(f"X-{n}: {'a' * 400}\r\n" for n in range(90)) + "\r\n",
        "GET /v1/health HTTP/1.1\r\n" + "a" * 33_000 + ": b\r\n\r\n",
        "POST /v1/gc HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + "X: " + "a" * 40_000 + "\r\n\r\n0\r\n\r\n",
    ],
)
def test_a_head_that_is_too_large_is_431(api: str, head: str) -> None:
    with Wire(api) as wire:
        wire.send(head)
        status, error, answered = wire.answer()
    assert (status, error["code"]) == (431, "HEADERS_TOO_LARGE")
    assert "content-type: application/json" in answered


def test_a_head_below_the_limits_passes(api: str) -> None:
    headers = {f"X-{n}": "a" * 300 for n in range(90)}
    assert requests.get(f"{api}/v1/health", headers=headers, timeout=60).status_code == 200


def test_an_endless_header_costs_nothing_and_keeps_nobody_waiting(api: str, server: Server) -> None:
    before = rss(server)
    with Wire(api) as wire:
        wire.send(f"GET /v1/health HTTP/1.1\r\n{wire.host}X: ")
        sent = 0
        while sent < 64 * MIB and wire.send(b"a" * MIB):
            sent += MIB
        began_s = time.monotonic()
        assert requests.get(f"{api}/v1/health", timeout=60).status_code == 200
        assert time.monotonic() - began_s < AT_ONCE_S
    assert sent < 16 * MIB
    assert rss(server) - before < 8 * MIB


@pytest.mark.parametrize(
    "route",
    [
        "POST /v1/models/download",
        "POST /v1/models/plan",
        "POST /v1/gc",
        "POST /v1/models/verify",
        "PUT /v1/downloads/00000000-0000-4000-8000-000000000000/priority",
        "POST /v1/downloads/00000000-0000-4000-8000-000000000000/pause",
        "POST /v1/downloads/00000000-0000-4000-8000-000000000000/retry",
        "DELETE /v1/models/org/none",
        "PUT /v1/settings/bandwidth",
        "GET /v1/models",
        "GET /v1/downloads?limit=1",
        "POST /nothing",
        "GET /healthz",
        "POST /v1/models/download/progress",
    ],
)
@pytest.mark.parametrize("chunked", [True, False])
def test_no_route_takes_a_body_of_any_size(api: str, server: Server, route: str, chunked: bool) -> None:
    before = rss(server)
    with Wire(api) as wire:
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {1 << 30}"
        wire.send(f"{route} HTTP/1.1\r\n{wire.host}{length}\r\n\r\n")
        piece = b"a" * MIB
        sent = 0
        while sent < 64 * MIB and wire.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece):
            sent += MIB
    assert sent < 32 * MIB, "it goes on reading"
    assert rss(server) - before < 8 * MIB
    assert requests.get(f"{api}/v1/health", timeout=60).status_code == 200


@pytest.mark.parametrize("path", ["gc", "models/verify"])
def test_a_body_in_chunks_is_413_also_where_it_may_be_left_out(api: str, path: str) -> None:
    answer = requests.post(f"{api}/v1/{path}", data=(b"a" * 1000 for _ in range(70)), timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "BODY_TOO_LARGE")
    assert requests.post(f"{api}/v1/{path}", timeout=60).status_code == 200


@pytest.mark.parametrize(
    "framing",
    [b"0\r\nX: ", b"5\r\n     \r\n0\r\nX-A: b\r\nX-B: ", b"5;a=", b"0;", b'5;a="'],
    ids=["trailer", "second trailer", "extension", "extension of the last chunk", "quoted extension"],
)
@pytest.mark.parametrize("route", ["POST /v1/gc", "POST /nothing", "GET /healthz"])
def test_what_frames_a_body_is_bounded_as_the_body_is(api: str, server: Server, route: str, framing: bytes) -> None:
    before = rss(server)
    with Wire(api) as wire:
        wire.send(f"{route} HTTP/1.1\r\n{wire.host}Transfer-Encoding: chunked\r\n\r\n")
        wire.send(framing)
        sent = 0
        while sent < 32 * MIB and wire.send(b"a" * MIB):
            sent += MIB
        began_s = time.monotonic()
        assert requests.get(f"{api}/v1/health", timeout=60).status_code == 200
        assert time.monotonic() - began_s < AT_ONCE_S
    assert sent < 16 * MIB, "it goes on reading"
    assert rss(server) - before < 8 * MIB


def test_who_ends_a_body_that_was_answered_without_it_may_ask_again(api: str, server: Server) -> None:
    too_much = MAX_BODY_BYTES + 1
    with Wire(api) as wire:
        wire.send(f"GET /v1/none HTTP/1.1\r\n{wire.host}Content-Length: {too_much}\r\n\r\n")
        assert wire.socket.recv(65536).startswith(b"HTTP/1.1 413 ")
        wire.send(b"x" * (too_much - 100))
        last = "GET /v1/health HTTP/1.1\r\nConnection: close\r\n"
        wire.send(f"{'x' * 100}{last}{wire.host}\r\n")
        answer = b"".join(iter(lambda: wire.socket.recv(65536), b""))
    assert b"HTTP/1.1 200 " in answer, answer  # behind what was left of the first one
    assert "Traceback" not in server.output


def test_a_body_in_single_bytes_is_read(api: str) -> None:
    answer = requests.post(f"{api}/v1/gc", data=(b" " for _ in range(60_000)), timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    "trailer",
    ["Host: evil.example", "Origin: http://evil.example", "Sec-Fetch-Site: cross-site", "X-Request-ID: smuggled"],
)
def test_a_trailer_is_no_header(api: str, trailer: str, at_once: bool) -> None:
    with Wire(api) as wire:
        head = f"POST /v1/gc HTTP/1.1\r\n{wire.host}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        body = f"4\r\nnull\r\n0\r\n{trailer}\r\n\r\n"
        for piece in [head + body] if at_once else [head, body]:
            wire.send(piece)
        status, error, answered = wire.answer()
    assert (status, error["code"]) == (400, "INVALID_REQUEST")
    assert "got `null`" in str(error["message"])
    assert "smuggled" not in answered


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "anything"])
def test_the_body_of_a_request_that_asks_for_another_protocol_is_no_request(api: str, protocol: str) -> None:
    with Wire(api) as wire:
        upgrade = f"{wire.host}Connection: Upgrade\r\nUpgrade: {protocol}\r\n"
        inner = f"GET /v1/health HTTP/1.1\r\n{wire.host}\r\n"
        wire.send(f"POST /v1/gc HTTP/1.1\r\n{upgrade}Content-Length: {len(inner)}\r\n\r\n")
        status, error, head = wire.answer()  # answered before the body is there, which then finds no connection
        assert (status, error["code"], "connection: close" in head) == (400, "INVALID_REQUEST", True)
        assert "Upgrade" in str(error["message"])


@pytest.mark.parametrize("at_once", [True, False])
def test_a_request_that_asks_for_another_protocol_is_answered_and_the_last_one(api: str, at_once: bool) -> None:
    with Wire(api) as wire:
        first = (
            f"GET /v1/health HTTP/1.1\r\n{wire.host}Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"
        )
        second = f"GET /v1/models HTTP/1.1\r\n{wire.host}\r\n"
        wire.send(first + second if at_once else first)
        answered = read_all(wire)
    assert answered.count(b"HTTP/1.1 ") == answered.count(b"HTTP/1.1 200 OK") == 1
    assert b"connection: close" in answered


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/0.9\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"POST /v1/gc HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"CONNECT localhost:6379 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http:///healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET ftp://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"DESCRIBE rtsp://localhost RTSP/1.0\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_like_everything_else(api: str, server: Server, garbage: bytes) -> None:
    with Wire(api) as wire:
        wire.send(garbage)
        status, error, _ = wire.answer()
    assert (status, error["code"]) == (400, "INVALID_REQUEST")
    with Wire(api) as wire:
        wire.send(f"GET /v1/health HTTP/1.1\r\n{wire.host}Connection: close\r\n\r\n")
        assert b" 200 " in read_all(wire)
    assert "Traceback" not in server.output


def test_pipelined_requests_are_answered_in_order_and_cost_nothing_while_nobody_reads(api: str, server: Server) -> None:
    before = rss(server)
    with Wire(api) as wire:
        one = f"GET /v1/health HTTP/1.1\r\n{wire.host}\r\n".encode()
        wire.socket.settimeout(2)
        sent = 0
        try:
            while sent < 64 * MIB:
                sent += wire.socket.send(one * 20_000)
        except TimeoutError:
            pass
        assert sent < 32 * MIB, "it goes on reading"
        assert rss(server) - before < 12 * MIB
        assert requests.get(f"{api}/v1/health", timeout=60).status_code == 200
    with Wire(api) as wire:
        paths = [f"/v1/downloads/{n:08x}-0000-4000-8000-000000000000" for n in range(300)]
        wire.send("".join(f"GET {path} HTTP/1.1\r\n{wire.host}\r\n" for path in paths))
        seen = b""
        while seen.count(b'"details":{"id":') < len(paths):
            part = wire.socket.recv(65536)
            assert part, "it closed before the last answer"
            seen += part
    order = [piece[:8].decode() for piece in seen.split(b'"details":{"id":"')[1:]]
    assert order == [f"{n:08x}" for n in range(300)]


@pytest.mark.parametrize(
    "framing",
    ["Content-Length: 200000", "Transfer-Encoding: chunked", "Expect: 100-continue\r\nContent-Length: 200000"],
)
def test_who_is_answered_before_its_body_is_sent_and_closes_reads_the_answer(api: str, framing: str) -> None:
    """As a proxy that keeps no connections: it writes the body on while the answer comes, and a reset were a 502."""
    head = ["POST /v1/models/download HTTP/1.1", "Content-Type: application/json", "Connection: close", framing]
    with Wire(api) as wire:
        size = "493e0\r\n" if "chunked" in framing else ""
        assert wire.send("\r\n".join([*head, wire.host, size]) + "x" * 70_000)
        answer = b""
        while b"request_id" not in answer:
            part = wire.socket.recv(65536)
            assert part, answer
            answer += part
        assert all(wire.send(b"x" * 10_000) for _ in range(10))
        while part := wire.socket.recv(65536):  # an end, and no reset
            answer += part
    answered, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in answered.lower()
    assert json.loads(body)["error"]["code"] == "BODY_TOO_LARGE"


# -- the clock, at a server in this process whose patience is short ----------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEAD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(http1, "BODY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(http1, "SILENCE_S", 0.3)
    monkeypatch.setattr(http1, "CROWDED_SILENCE_S", 0.1)
    monkeypatch.setattr(http1, "LINGER_S", 0.1)
    monkeypatch.setattr(writer, "STALL_TIMEOUT_S", 0.5)


@pytest.fixture
async def serving(impatient: None, redis_url: str) -> AsyncIterator[Serving]:
    async with running(redis_url, hands_over=True) as found:
        yield found


def connect(serving: Serving) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", serving.port))
    client.setblocking(False)
    return client


@pytest.mark.anyio
async def test_a_head_that_trickles_is_408(serving: Serving) -> None:
    client, loop = connect(serving), asyncio.get_running_loop()
    began_s = loop.time()

    async def trickle() -> None:
        for byte in b"GET /big HTTP/1.1\r\nX: " + b"a" * 10_000:
            await loop.sock_sendall(client, bytes([byte]))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(trickle())
    answer = await read_to_end(client)
    assert loop.time() - began_s < 10_000 * 0.02, "it was not waited for the head"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "REQUEST_TIMEOUT"
    client.close()


@pytest.mark.anyio
async def test_a_body_that_does_not_come_ends_the_connection(serving: Serving) -> None:
    client, loop = connect(serving), asyncio.get_running_loop()
    await loop.sock_sendall(client, b"POST /big HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    async with asyncio.timeout(60):
        answer = await read_to_end(client)
    assert answer.count(b"b") > 200_000, "it was answered without its body"
    await wait_for_async(lambda: not serving.state.connections, "the connection to be forgotten")
    client.close()


@pytest.mark.anyio
async def test_silence_ends_a_connection_before_its_first_request(serving: Serving) -> None:
    clients = [connect(serving) for _ in range(50)]
    for client in clients:
        assert await read_to_end(client) == b""
        client.close()
    await wait_for_async(lambda: not serving.state.connections, "the connections to be forgotten")


@pytest.mark.anyio
@pytest.mark.parametrize("asks_first", [False, True])
async def test_empty_lines_are_silence(serving: Serving, asks_first: bool) -> None:
    client, loop = connect(serving), asyncio.get_running_loop()
    if asks_first:
        await loop.sock_sendall(client, b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_until(client, b"404")

    async def drip() -> None:
        while True:
            await loop.sock_sendall(client, b"\r\n")
            await asyncio.sleep(0.05)

    task = asyncio.create_task(drip())
    said = b""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError):
            said = await read_to_end(client)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await wait_for_async(lambda: not serving.state.connections, "the connection to be forgotten")
    assert said == b"", "they are no request"
    client.close()


@pytest.mark.anyio
@pytest.mark.parametrize("requests", [1, 3, 40], ids=["one", "some behind it", "more than are read"])
@pytest.mark.parametrize("leaves", [False, True], ids=["keep-alive", "close"])
async def test_who_does_not_take_an_answer_is_given_up(serving: Serving, requests: int, leaves: bool) -> None:
    client = serving.connect("big", receive_buffer=SMALL_BUFFER, headers="Connection: close\r\n" if leaves else "")
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n" * (requests - 1))
    await wait_for_async(lambda: serving.state.connections, "it is connected")
    await wait_for_async(lambda: not serving.state.connections, "it is given up", 10)
    with pytest.raises(ConnectionResetError):
        await read_to_end(client)


@pytest.mark.anyio
async def test_who_takes_an_answer_slowly_gets_all_of_it(serving: Serving) -> None:
    client = serving.connect("big", receive_buffer=SMALL_BUFFER, headers="Connection: close\r\n")
    loop = asyncio.get_running_loop()
    taken = 0
    while part := await loop.sock_recv(client, 4096):
        taken += len(part)
        await asyncio.sleep(writer.STALL_TIMEOUT_S / 20)
    assert taken > 200_000


@pytest.mark.anyio
@pytest.mark.parametrize("hands_over", [True, False])
async def test_an_answer_knows_no_clock(
    impatient: None, redis_url: str, downloads: DownloadContext, hands_over: bool
) -> None:
    download_id = create(downloads)
    async with running(redis_url, hands_over=hands_over) as serving:
        client = serving.connect(download_id)
        await read_until(client, b'"status":"queued"')
        await asyncio.sleep(1.0)  # longer than every limit above: nothing may happen, so there is nothing to wait for
        assert serving.endpoint.open_streams == 1


@pytest.mark.anyio
async def test_one_address_has_its_share_and_streams_do_not_count(
    serving: Serving, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "SILENCE_S", 30.0)
    counted = Connections(most_of_one=2)
    monkeypatch.setattr(HttpProtocol, "counted", counted)
    download_id = create(downloads)
    streams = [serving.connect(download_id) for _ in range(20)]
    for stream in streams:
        await read_until(stream, b'"status":"queued"')
    assert serving.endpoint.open_streams == 20
    quiet = [connect(serving) for _ in range(2)]
    await wait_for_async(lambda: counted._by_holder[LOOPBACK] == 2, "both to be counted")
    crowded = connect(serving)
    assert await read_to_end(crowded) == b"", "it had to ask soon"
    loop = asyncio.get_running_loop()
    asking = connect(serving)
    await loop.sock_sendall(asking, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"connection: close" in await read_to_end(asking)
    for client in quiet:
        await loop.sock_sendall(client, b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_until(client, b"404")
    for client in (*quiet, crowded, asking):
        client.close()
    await wait_for_async(lambda: not counted._by_holder, "all to be forgotten")


def test_further_connections_than_there_may_be_are_closed_at_once() -> None:
    counted = Connections(most=10, most_of_one=2)
    assert [counted.admit("192.0.2.1", 1 + n) for n in range(2)] == [True, True]
    assert not counted.is_crowded("192.0.2.1")
    assert counted.admit("192.0.2.1", 3)
    assert counted.is_crowded("192.0.2.1")
    assert not counted.admit("192.0.2.2", 11)
    for _ in range(3):
        counted.release("192.0.2.1")
    assert not counted.is_crowded("192.0.2.1")
    assert sum(counted.admit("192.0.2.1", 1) for _ in range(1000)) == 2 * crowd.CROWD_FACTOR
    assert counted.admit("2001:db8:0:1::1", 1)
    assert [counted.admit(f"2001:db8:0:1::{n:x}", 1) for n in range(2, 4)] == [True, True]
    assert counted.is_crowded("2001:db8:0:1:ffff::1"), "a network of IPv6 is one address"
    assert not counted.is_crowded("2001:db8:0:2::1")
    unlimited = Connections()
    assert all(unlimited.admit("192.0.2.1", n) for n in range(10_000))
    assert not unlimited.is_crowded("192.0.2.1")
