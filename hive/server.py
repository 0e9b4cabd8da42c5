"""The HTTP process: uvicorn with sockets tuned for many streams, which hands connections over and drains on SIGTERM.

A stream needs a socket and nothing of HTTP once its head is sent, so the protocol (api/http1.py) offers each request
its connection; uvicorn goes on counting it among the open ones.

uvicorn by itself waits for open responses before it runs the application's shutdown, without bound: with one open
stream it never stops. So the server is ours to stop: on SIGTERM the listener closes, every stream is ended cleanly
with a `retry:` and no `[DONE]`, spread over a window, and then uvicorn stops.

It also closes connections that wait for a request at once, and a request that is on its way meets a closed door: a
proxy, which cannot know whether a POST was done, answers it with 502. So what waits to be accepted is taken, answers
say `Connection: close` from then on, and connections that are idle have half a second more.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import cast

import uvicorn

from hive import logs
from hive.api import audit
from hive.api.acceptor import Acceptor
from hive.api.app import Api
from hive.api.crowd import LOOPBACK_SHARES, Connections
from hive.api.http1 import HttpProtocol
from hive.api.services import make_services
from hive.auth.key_ring import Latch
from hive.auth.keys import KeyFile
from hive.errors import CannotListen, HiveError
from hive.processes.prefork import Prefork
from hive.redis import probe as redis_probe
from hive.secrets import check_key
from hive.settings import Settings, SettingsError
from hive.store import probe

log = logging.getLogger("hive.server")

#: Bytes of a connection's kernel send buffer. A frame has some 300: a stalled client may hold this much, not the
#: default's megabytes.
SEND_BUFFER_BYTES = 16_384
#: Milliseconds that sent bytes may stay unacknowledged before the kernel gives a connection up.
USER_TIMEOUT_MS = 30_000
#: Descriptors of a process that are not for connections: Redis, the log, files of the store, threads at work.
RESERVED_DESCRIPTORS = 128
#: Connections that may wait to be accepted: a fleet of clients that reconnects at once.
BACKLOG = 4096
#: Seconds between the end of the drain and giving up on what is still open.
SHUTDOWN_GRACE_S = 2
#: Seconds that connections without a request have for one that is on its way.
LAST_REQUESTS_S = 0.5
#: Seconds that a process may take beyond its drain before its parent kills it.
STOP_MARGIN_S = 8.0
#: Seconds for which a thread keeps the interpreter while others wait for it; 5 ms are usual.
SWITCH_INTERVAL_S = 0.001
#: Seconds that an idle keep-alive connection stays open.
KEEPALIVE_IDLE_S = 30


def run(settings: Settings, host: str, port: int, processes: int = 1, *, keys_required: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, with so many processes on one listening socket. `keys_required`: nobody is let in
    without a key, even if there are none.

    Raises:
        CannotListen: when the address is taken.
        KeyFileUnusable: it is there, and cannot be read or is read by others.
        SettingsError: Redis is a cluster or has known holes and may not, or the audit log cannot be written.
    """
    _allow_many_connections()
    # One for all processes and for those that take the place of one that died: keys that were on stay on.
    keys_on = Latch(is_set=keys_required or bool(KeyFile(settings.api_keys_path).read().keys))
    redis_probe.report(settings)
    listener = listen(host, port)
    bound_host, bound_port = listener.getsockname()[:2]
    probe.report(settings)
    _check_key(settings)
    _open_audit_log(settings)
    log.info("listening", extra={"fields": {"address": f"http://{bound_host}:{bound_port}"}})
    if processes == 1:
        serve(settings, listener, host, keys_on)
    else:
        # Connections of the API and those to models in memory drain one after the other.
        stop_s = 2 * settings.drain_s + SHUTDOWN_GRACE_S + STOP_MARGIN_S
        Prefork([lambda: serve(settings, listener, host, keys_on)] * processes, stop_s=stop_s).run()


def serve(settings: Settings, listener: socket.socket, host: str, keys_on: Latch) -> None:
    """Be one HTTP process on this socket until SIGTERM or SIGINT; `host` is the name that it was told to listen on."""
    redis = settings.redis_address
    assert redis is not None
    services = make_services(settings, redis, keys_on)
    config = uvicorn.Config(
        Api(services, host),
        loop="uvloop",
        http=_protocol(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        # What proxies tell is read by hive itself, which says why (api/forwarded.py).
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEPALIVE_IDLE_S,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    # Threads that read listings of 20,000 files take the interpreter from the event loop; it is to have it back soon.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What was imported stays for good: a full collection of garbage, which stops every stream, need not look at it.
    gc.freeze()
    server = DrainingServer(config, services.drain, settings.drain_s)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
        if server.started:
            # All is closed. Python would wait for each thread now, and one that a silent filesystem holds never ends.
            logs.flush()
            sys.stdout.flush()
            os._exit(0)


def _protocol(settings: Settings) -> type[HttpProtocol]:
    """The protocol of this process's connections, which are counted together."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = max(RESERVED_DESCRIPTORS, soft - RESERVED_DESCRIPTORS) if soft != resource.RLIM_INFINITY else 0
    most = min(filter(None, (settings.max_connections, room)), default=0)
    counted = Connections(most, settings.max_connections_per_address, LOOPBACK_SHARES, settings.trusted)
    return type("CountedProtocol", (HttpProtocol,), {"counted": counted})


def _open_audit_log(settings: Settings) -> None:
    """Raises SettingsError: who has asked for an audit log is not served without one."""
    try:
        audit.open_log(settings.audit_log_path)
    except OSError as error:
        raise SettingsError(f"HIVE_AUDIT_LOG cannot be written: {error.strerror or error}.") from None


def _check_key(settings: Settings) -> None:
    """Say at the start, and not at the first request with a token, that HIVE_HOME is somebody else's; and that there is
    a new key, which other machines must have too.
    """
    address, key_file = settings.redis_address, settings.secret_key_path
    is_told = address is not None and address.path is None and not key_file.exists()
    try:
        check_key(key_file)
        if is_told:
            fields = {"path": str(key_file), "reason": "servers and workers on other machines need a copy of it"}
            log.warning("a secret key was made", extra={"fields": fields})
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


class DrainingServer(uvicorn.Server):
    """Stops accepting, drains the streams, then stops."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[float], Awaitable[None]], window_s: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._window_s = window_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn; what listens is ours (api/acceptor.py)."""
        await super().startup([])
        acceptors = [Acceptor(listener, self._make_protocol) for listener in sockets or ()]
        self.servers = cast(list[asyncio.Server], acceptors)

    def _make_protocol(self) -> asyncio.Protocol:
        kind = cast(type[HttpProtocol], self.config.http_protocol_class)
        return kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn when it was told to exit."""
        loop = asyncio.get_running_loop()
        cast(type[HttpProtocol], self.config.http_protocol_class).counted.stopping = True
        for server in self.servers:
            server.close()
            await server.wait_closed()
        until_s = loop.time() + LAST_REQUESTS_S
        await self._drain(self._window_s)
        if self.server_state.connections and (rest_s := until_s - loop.time()) > 0:
            await asyncio.sleep(rest_s)
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
