"""A server for tests of which only the answers have to be written."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class LocalServer(ABC):
    """Has each GET and HEAD handled by `handle`, on a port of the loopback. A context manager."""

    def __init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):
                    server.handle(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @abstractmethod
    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send_head(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], length: int) -> None:
    """Write the status and the headers of an answer with so many bytes."""
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(length)}.items():
        request.send_header(name, value)
    request.end_headers()


class Answer(NamedTuple):
    """What is answered to a GET."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}


class TinyServer(LocalServer):
    """Answers each request with what `answer` says."""

    def __init__(self) -> None:
        super().__init__()
        #: Paths and Authorization headers of all requests.
        self.requests: list[tuple[str, str | None]] = []

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        authorization = request.headers.get("Authorization")
        self.requests.append((request.path, authorization))
        found = self.answer(request.path, authorization)
        send_head(request, found.status, found.headers, len(found.body))
        if request.command == "GET":
            request.wfile.write(found.body)

    @abstractmethod
    def answer(self, path: str, authorization: str | None) -> Answer:
        """What is answered."""
