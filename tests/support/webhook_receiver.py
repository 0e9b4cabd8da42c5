"""A receiver of webhooks on the loopback: it notes what comes, and answers as it is told."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import requests

from hive.redis.client import RedisClient
from hive.wire import keys
from tests.support.processes import Server
from tests.support.waiting import wait_for

DOCS = Path(__file__).parent.parent.parent / "docs" / "webhooks.md"

#: What the receivers of the tests check with, and the servers sign with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Hit(NamedTuple):
    """One request: names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Reply(NamedTuple):
    """What to answer, and what to wait for before."""

    status: int = 200
    headers: Mapping[str, str] = {}
    gate: threading.Event | None = None
    body: bytes = b""


class Receiver:
    """Answers with `replies` in their order, and with 200 when there are none left."""

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.hits: list[Hit] = []
        self.replies: list[Reply] = []
        self.default = Reply()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "https" if context is not None else "http"
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/hook"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, hit: Hit) -> Reply:
        with self._lock:
            self.hits.append(hit)
            return self.replies.pop(0) if self.replies else self.default

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = receiver.take(Hit(self.command, self.path, headers, body, time.monotonic()))
                if reply.gate is not None:
                    reply.gate.wait(30)
                with contextlib.suppress(OSError):
                    self.send_response(reply.status)
                    for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(reply.body)

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


@contextlib.contextmanager
def receiving(port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    made = Receiver(port, context)
    try:
        yield made
    finally:
        made.close()


def documented_verify() -> Callable[..., bool]:
    """The function `verify` of docs/webhooks.md, which shares no line with hive's own code."""
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert code is not None
    namespace: dict[str, Any] = {}
    exec(code[1], namespace)
    found: Callable[..., bool] = namespace["verify"]
    return found


#: Settings of a server that is quick to try again, and has a time-out that a busy machine keeps.
QUICK = {"HIVE_WEBHOOK_SECRET": SECRET, "HIVE_WEBHOOK_RETRY_S": "0.1,0.1,0.1,0.1,0.1", "HIVE_WEBHOOK_TIMEOUT_S": "5"}


def cancel(server: Server, download_id: str) -> None:
    assert requests.delete(f"{server.url}/v1/downloads/{download_id}", timeout=60).status_code == 202


def hits(receiver: Receiver, count: int = 1) -> None:
    wait_for(lambda: len(receiver.hits) >= count, what=lambda: f"{count} webhooks came, not {len(receiver.hits)}")


def nothing_due(store: RedisClient) -> bool:
    return not store.zcard(keys.WEBHOOKS_DUE) and not store.keys("hive:webhooks:{*")
