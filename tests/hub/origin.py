"""One HTTP/1.1 origin: a thread per connection over the standard library's request parser."""

import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.hub.hits import Hit, HitLog
from tests.hub.messages import OriginName, Reply, Request, split_target
from tests.hub.wire import BodySender, ConnectionEnded, Wire

#: Largest request body (bytes): `paths-info` for some ten thousand paths.
MAX_REQUEST_BYTES = 4 << 20

#: Connections served at once; more are closed unanswered.
MAX_CONNECTIONS = 1_024

#: Connections that the kernel holds until they are accepted.
BACKLOG = 512

#: Seconds in which all threads must be gone at the stop: they are woken, so this is generous.
STOP_TIMEOUT_S = 60.0

#: Seconds between attempts to accept after a failure.
ACCEPT_RETRY_S = 0.01

#: What an origin answers to a request.
App = Callable[[Request], Reply]
#: What the URL is about: see Request.subject.
Naming = Callable[[Request], str]


class Origin(socketserver.TCPServer):
    """A listening socket and the threads behind it."""

    request_queue_size = BACKLOG
    allow_reuse_address = True

    def __init__(
        self,
        name: OriginName,
        app: App,
        naming: Naming,
        log: HitLog,
        port: int = 0,
        host: str = "127.0.0.1",
        host_name: str = "127.0.0.1",
    ) -> None:
        """Bind to the port (0: any free one) of `host`, which others call `host_name`. Raises OSError."""
        super().__init__((host, port), BaseHTTPRequestHandler)
        self._host_name = host_name
        self.name: OriginName = name
        self.app = app
        self.naming = naming
        self.log = log
        self._ids = itertools.count(1)
        self._live: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name=f"{name}-accept", daemon=True)

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http://{self._host_name}:{self.server_address[1]}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._live)

    def start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def stop(self) -> None:
        """Close everything, including what is being sent or stalled. Raises TimeoutError when a thread does not end."""
        self._stopping.set()
        # shutdown(2) wakes a thread that is blocked on the socket; close(2) does not.
        self._shut_down(self.socket)
        self._acceptor.join(STOP_TIMEOUT_S)
        self.socket.close()
        with self._lock:
            live = dict(self._live)
        for connection in live.values():
            self._shut_down(connection)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in live:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise TimeoutError(f"a connection of the {self.name} does not end")

    def close_connections(self) -> None:
        """Cut all open connections, as a restart of the server would."""
        with self._lock:
            live = list(self._live.values())
        for connection in live:
            self._shut_down(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self.socket.accept()
            except OSError:
                # Otherwise the client was gone again, or we are out of descriptors: wait a little for some to return.
                if self._stopping.wait(ACCEPT_RETRY_S):
                    return
                continue
            with self._lock:
                if len(self._live) >= MAX_CONNECTIONS:
                    connection.close()
                    continue
                thread = threading.Thread(target=self._serve, args=(connection, address), daemon=True)
                self._live[thread] = connection
            thread.start()

    def _serve(self, connection: socket.socket, address: Any) -> None:
        try:
            Handler(connection, address, self, next(self._ids))
        except (ConnectionEnded, OSError):
            # The client went away, or a fault ended the connection: both are what tests are about.
            pass
        finally:
            with self._lock:
                del self._live[threading.current_thread()]
                connection.close()

    @staticmethod
    def _shut_down(connection: socket.socket) -> None:
        # It may be closed by the other side already.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """Reads the requests of one connection and sends the origin's replies."""

    protocol_version = "HTTP/1.1"
    server_version = "stand-in"
    sys_version = ""
    server: Origin

    def __init__(self, connection: socket.socket, address: Any, origin: Origin, connection_id: int) -> None:
        self._connection_id = connection_id
        self._wire = Wire(connection)
        super().__init__(connection, address, origin)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the hits are the log."""

    def _serve(self) -> None:
        request = self._read()
        if request is None:
            return
        origin = self.server
        request.subject = origin.naming(request)
        with origin.log.record(request, self._connection_id) as hit:
            reply = origin.app(request)
            hit.status = reply.status
            self._reply(request, reply, hit)

    do_GET = do_HEAD = do_POST = _serve

    def _read(self) -> Request | None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_REQUEST_BYTES:
            self.send_error(413)
            return None
        body = self.rfile.read(length)
        path, query = split_target(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.server.name, self.command, path, query, headers, body, self._wire.pause)

    def _reply(self, request: Request, reply: Reply, hit: Hit) -> None:
        body = reply.body
        self.send_response(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        if reply.status == 206:
            self.send_header("Content-Range", f"bytes {body.start}-{body.end - 1}/{body.total}")
        if body.declared_length is None and not body.chunked:
            self.send_header("Connection", "close")
        elif body.declared_length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(body.declared_length))
        self.end_headers()
        if request.method == "HEAD":
            return

        def count(sent: int) -> None:
            hit.bytes_sent += sent

        def idle(is_idle: bool) -> None:
            self.server.log.mark(hit, busy=not is_idle)

        BodySender(self._wire, body, count, idle).send()
