"""The HTTP process: uvicorn with sockets tuned for many streams, which hands connections over and drains on SIGTERM.

A stream needs a socket and nothing of HTTP once its head is sent, so the protocol offers each request its connection
(see streams/writer.py); uvicorn goes on counting it among the open ones.

uvicorn by itself waits for open responses before it runs the application's shutdown, without bound: with one open
stream it never stops. So the server is ours to stop: on SIGTERM the listener closes, every stream is ended cleanly
with a `retry:` and no `[DONE]`, spread over a window, and then uvicorn stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hive.api.app import Api
from hive.api.gate import ANSWER_HEADERS
from hive.api.services import make_services
from hive.errors import CannotListen, HiveError
from hive.processes.prefork import Prefork
from hive.secrets import check_key
from hive.settings import Settings
from hive.store import probe
from hive.streams import sse
from hive.streams.writer import EXTENSION, Listener, SocketWriter

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


def run(settings: Settings, host: str, port: int, processes: int = 1) -> None:
    """Serve until SIGTERM or SIGINT, with so many processes on one listening socket.

    Raises:
        CannotListen: when the address is taken.
    """
    _allow_many_connections()
    listener = listen(host, port)
    bound_host, bound_port = listener.getsockname()[:2]
    probe.report(settings)
    _check_key(settings)
    log.info("listening", extra={"fields": {"address": f"http://{bound_host}:{bound_port}"}})
    if processes == 1:
        serve(settings, listener, host)
    else:
        Prefork([lambda: serve(settings, listener, host)] * processes).run()


def serve(settings: Settings, listener: socket.socket, host: str) -> None:
    """Be one HTTP process on this socket until SIGTERM or SIGINT; `host` is the name that it was told to listen on."""
    assert settings.redis_url is not None
    services = make_services(settings, settings.redis_url)
    config = uvicorn.Config(
        Api(services, host),
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
    # What was imported stays for good: a full collection of garbage, which stops every stream, need not look at it.
    gc.freeze()
    DrainingServer(config, services.drain, settings.drain_s).run(sockets=[listener])


def _check_key(settings: Settings) -> None:
    """Say at the start, and not at the first request with a token, that HIVE_HOME is somebody else's."""
    try:
        check_key(settings.secret_key_path)
    except HiveError as error:
        log.error("requests with a token will be refused", extra={"fields": {"reason": error.message}})


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as we may: each client is one, and the customary 1,024 are soon used up."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "infinity" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
    """uvicorn's protocol, which hands a connection over to the stream that asks for it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A small write buffer: back-pressure is to reach a response before it holds much."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    def on_message_begin(self) -> None:
        """Offer the connection to the request."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self._hand_over}  # type: ignore[dict-item]

    def _hand_over(self, scope: Scope, listener: Listener) -> SocketWriter | None:
        """The connection of this request, from which everything of HTTP is taken away, as for a WebSocket.

        None where the client has gone, has sent a second request behind this one, or has yet to take the answer
        before: that client gets its stream through `send`.
        """
        cycle = self.cycle
        if cycle.scope is not scope or cycle.disconnected or self.flow.write_paused or self.transport.is_closing():
            return None
        del scope["extensions"]
        self.connections.discard(self)
        self.flow.resume_reading()
        # What belongs to a connection that is not the request's any more is silent: its task ends without a word.
        cycle.disconnected = True
        self.parser = None  # type: ignore[assignment]
        chunked = scope["http_version"] == "1.1"
        added: list[tuple[bytes, bytes]] = scope.get(ANSWER_HEADERS, [])  # type: ignore[assignment]
        head = _stream_head([*self.server_state.default_headers, *added], chunked)
        return SocketWriter(self.transport, self.connections, listener, head=head, chunked=chunked)


def _stream_head(added: list[tuple[bytes, bytes]], chunked: bool) -> bytes:
    headers = [*added, *sse.HEADERS, (b"connection", b"close")]
    if chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    return b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"


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
