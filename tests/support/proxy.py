"""An HTTP proxy on the loopback: passes requests on, opens tunnels, and may want credentials."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

#: Seconds without a byte after which a connection is given up.
IDLE_S = 60.0


class Asked(NamedTuple):
    """One request: its first line in parts, and the credentials that came with it."""

    method: str
    target: str
    credentials: str | None


class ForwardProxy:
    """Listens until `close`. `credentials` is what it wants as "user:password", `answer` a status for every request,
    `offers` what it names with a 407, `headers` and `body` what it says besides.
    """

    def __init__(
        self,
        credentials: str | None = None,
        answer: int | None = None,
        offers: tuple[str, ...] = ("Basic realm=x",),
        headers: tuple[str, ...] = (),
        body: bytes = b"",
    ) -> None:
        self._offers = offers
        self._headers = headers
        self._body = body
        self.asked: list[Asked] = []
        self._credentials = credentials
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, user_info: str = "") -> str:
        """The value for a variable."""
        return f"http://{user_info + '@' if user_info else ''}127.0.0.1:{self.port}"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(IDLE_S)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(IDLE_S)
        with client, contextlib.suppress(OSError, ValueError):
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(4096)
                if not data:
                    return
                head += data
            self._pass_on(client, head)

    def _pass_on(self, client: socket.socket, head: bytes) -> None:
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split()
        asked = Asked(method, target, _credentials(head))
        self.asked.append(asked)
        refused = self._answer
        if refused is None and self._credentials is not None and asked.credentials != self._credentials:
            refused = 407
        if refused is not None:
            said = [*(f"Proxy-Authenticate: {offer}" for offer in self._offers if refused == 407), *self._headers]
            more = "".join(f"{line}\r\n" for line in said).encode()
            first = b"HTTP/1.1 %d No\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n"
            client.sendall(first % (refused, more, len(self._body)) + self._body)
            return
        place = urlsplit(target if "://" in target else f"//{target}")
        with socket.create_connection((place.hostname or "", place.port or 80), IDLE_S) as upstream:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                # One request a connection: what follows would pass unseen.
                first, *lines = head.split(b"\r\n")
                kept = [line for line in lines if not line.lower().startswith((b"proxy-", b"connection:"))]
                upstream.sendall(b"\r\n".join([first, b"Connection: close", *kept]))
            pump(client, upstream, closing=method != "CONNECT")


def pump(one: socket.socket, other: socket.socket, *, closing: bool = False) -> None:
    """Pass bytes on in both directions until one side ends. Also out of what a TLS layer holds already.

    `closing`: the first answer of `other` is made to say that its connection is not kept.
    """
    while True:
        held = [sock for sock in (one, other) if getattr(sock, "pending", int)()]
        ready = held or select.select([one, other], [], [], IDLE_S)[0]
        if not ready:
            return
        for sock in ready:
            data = sock.recv(65536)
            if not data:
                return
            if sock is other and closing:
                data, closing = data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), False
            (other if sock is one else one).sendall(data)


def _credentials(head: bytes) -> str | None:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name.lower() == b"proxy-authorization":
            return base64.b64decode(value.removeprefix(b"Basic ")).decode()
    return None


@contextlib.contextmanager
def forward_proxy(credentials: str | None = None, answer: int | None = None, **says: Any) -> Iterator[ForwardProxy]:
    """A proxy that is closed at the end."""
    made = ForwardProxy(credentials, answer, **says)
    try:
        yield made
    finally:
        made.close()
