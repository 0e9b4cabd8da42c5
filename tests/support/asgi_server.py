"""A server of nothing but streams, in the test's own event loop, and the bytes that its clients get."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import TypeVar

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from hive.api.http1 import HttpProtocol
from hive.auth.principal import ANONYMOUS, PRINCIPAL
from hive.redis.client import CommandThread
from hive.server import listen
from hive.streams import sse
from hive.streams.fanout import Fanout
from hive.streams.stream import StreamEndpoint
from hive.streams.writer import EXTENSION
from tests.support.downloads import download_context
from tests.support.waiting import DEADLINE_S, wait_for_async

T = TypeVar("T")

#: Bytes of a client's receive buffer that fills quickly.
SMALL_BUFFER = 2048


class Serving:
    """A server of one route, `/<download id>`, and what a test looks at."""

    def __init__(self, fanout: Fanout, *, hands_over: bool) -> None:
        self.fanout = fanout
        self.endpoint = StreamEndpoint(fanout, max_streams=1000)
        self.state = ServerState()
        self.hands_over = hands_over
        self._clients: list[socket.socket] = []
        self._listener = listen("127.0.0.1", 0)
        self.port = int(self._listener.getsockname()[1])

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.hands_over:
            del scope["extensions"][EXTENSION]
        if scope["path"] == "/big":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"200000")]})
            await send({"type": "http.response.body", "body": b"b" * 200_000})
            return
        scope[PRINCIPAL] = ANONYMOUS
        asked = sse.read_stream_request(scope["headers"], {})
        if not await self.endpoint(scope["path"][1:], asked, scope, receive, send):
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Serving]:
        config = uvicorn.Config(self.app, interface="asgi3", lifespan="off", access_log=False, log_config=None)
        server = await asyncio.get_running_loop().create_server(
            lambda: HttpProtocol(config=config, server_state=self.state, app_state={}), sock=self._listener
        )
        try:
            yield self
        finally:
            for client in self._clients:
                client.close()
            server.close()
            for connection in list(self.state.connections):
                connection.shutdown()
            await wait_for_async(lambda: not self.state.connections and not self.state.tasks)

    def connect(
        self,
        path: str,
        *,
        version: str = "1.1",
        headers: str = "",
        accept: str = "text/event-stream",
        receive_buffer: int = 0,
    ) -> socket.socket:
        """A client that has sent its request and has read nothing."""
        client = socket.socket()
        self._clients.append(client)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(("127.0.0.1", self.port))
        client.sendall(f"GET /{path} HTTP/{version}\r\nHost: x\r\nAccept: {accept}\r\n{headers}\r\n".encode())
        client.setblocking(False)
        return client

    async def watched(self, count: int = 1) -> None:
        await wait_for_async(lambda: sum(stream.phase == "running" for stream in self.endpoint._open) == count)


@contextlib.asynccontextmanager
async def running(redis_url: str, *, hands_over: bool) -> AsyncIterator[Serving]:
    commands = CommandThread(redis_url)
    downloads = download_context(commands.client, ended_ttl_s=60, max_queued=100, lease_s=6)
    fanout = Fanout(redis_url, commands, downloads.tracker, keepalive_s=10)
    task = asyncio.create_task(fanout.run())
    try:
        await wait_for_async(lambda: fanout.connected)
        async with Serving(fanout, hands_over=hands_over).listening() as found:
            yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        commands.close()


async def read_to_end(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    loop = asyncio.get_running_loop()
    found = bytearray()
    async with asyncio.timeout(DEADLINE_S):
        while part := await loop.sock_recv(client, 65536):
            found += part
    return bytes(found)


async def read_until(client: socket.socket, mark: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    found = b""
    async with asyncio.timeout(DEADLINE_S):
        while mark not in found:
            part = await loop.sock_recv(client, 65536)
            assert part, f"the connection ended before {mark!r}: {found!r}"
            found += part
    return found


def body_of(answer: bytes) -> bytes:
    """The body of a whole answer, chunks taken apart; the end of a chunked body must be there, and nothing after it."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return rest
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body, end, rest = body + rest[:length], rest[length : length + 2], rest[length + 2 :]
        assert end == b"\r\n"
        if length == 0:
            assert rest == b""
            return body
