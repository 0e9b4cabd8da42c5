"""The HTTP process: uvicorn with sockets tuned for many streams, which drains them on SIGTERM.

uvicorn by itself waits for open responses before it runs the application's shutdown, without bound: with one open
stream it never stops. So the server is ours to stop: on SIGTERM the listener closes, every stream is ended cleanly
with a `retry:` and no `[DONE]`, spread over a window, and then uvicorn stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hive.api.app import Api
from hive.api.services import make_services
from hive.errors import HiveError
from hive.settings import Settings

log = logging.getLogger("hive.server")

#: Bytes of a connection's kernel send buffer. A frame has some 300: a stalled client may hold this much, not the
#: default's megabytes.
SEND_BUFFER_BYTES = 16_384
#: Milliseconds that sent bytes may stay unacknowledged before the kernel gives a connection up.
USER_TIMEOUT_MS = 30_000
#: Bytes that wait in user space for a slow client before its sends wait.
WRITE_HIGH_WATER_BYTES = 8_192
#: Connections that may wait to be accepted: a fleet of clients that reconnects at once.
BACKLOG = 4096
#: Seconds between the end of the drain and giving up on what is still open.
SHUTDOWN_GRACE_S = 2
#: Seconds that an idle keep-alive connection stays open.
KEEPALIVE_IDLE_S = 30


class CannotListen(HiveError):
    """The address is in use, or may not be used."""

    code = "CANNOT_LISTEN"


def run(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CannotListen: when the address is taken.
    """
    assert settings.redis_url is not None
    listener = listen(host, port)
    parts = make_services(settings, settings.redis_url)
    config = uvicorn.Config(
        Api(parts),
        loop="uvloop",
        http=StreamProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEPALIVE_IDLE_S,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    bound_host, bound_port = listener.getsockname()[:2]
    log.info("listening", extra={"fields": {"address": f"http://{bound_host}:{bound_port}"}})
    DrainingServer(config, parts.streams.drain, settings.drain_s).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket whose options every accepted connection inherits.

    Raises:
        CannotListen: when the address is taken or not allowed.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise CannotListen(f"Cannot listen on {host}: {error.strerror or error}.") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(
            f"Cannot listen on {host}:{port}: {error.strerror or error}. Choose another --port."
        ) from None
    listener.setblocking(False)
    return listener


class StreamProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a small write buffer: back-pressure is to reach a stream before it holds much."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set the buffer's limit for this connection."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)


class DrainingServer(uvicorn.Server):
    """Stops accepting, drains the streams, then stops."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[float], Awaitable[None]], window_s: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._window_s = window_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn when it was told to exit."""
        for server in self.servers:
            server.close()
        await self._drain(self._window_s)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises the signal again when it has stopped, which would make an orderly stop look like a death by
        signal.
        """
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain and stop. Second: stop now."""
        if self.should_exit:
            self._window_s = 0.0
        super().handle_exit(sig, frame)
