"""A Redis that refuses: what stands between hive and a real server, and answers in its place."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Collection

import hiredis

#: Bytes moved at a time.
CHUNK_BYTES = 65_536


class RefusingRedis:
    """A TCP port that leads to a Redis on a Unix socket. While `refusal` is set, commands get it as their answer:
    all of them, or those that are named in `only`.
    """

    def __init__(self, path: str) -> None:
        self.refusal: bytes | None = None
        self.only: Collection[bytes] = ()
        #: Commands that were refused.
        self.refused = 0
        self._path = path
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """What to put into REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def refuse(self, answer: str, *only: str) -> None:
        """Answer so from now on: with this error."""
        self.only = frozenset(word.encode() for word in only)
        self.refusal = f"-{answer}\r\n".encode()

    def serve(self) -> None:
        """Be an ordinary Redis again."""
        self.refusal = None

    def close(self) -> None:
        """Unplug it."""
        for each in (self._server, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            redis = socket.socket(socket.AF_UNIX)
            redis.connect(self._path)
            self._sockets += [client, redis]
            threading.Thread(target=self._upwards, args=(client, redis), daemon=True).start()
            threading.Thread(target=self._downwards, args=(redis, client), daemon=True).start()

    def _upwards(self, client: socket.socket, redis: socket.socket) -> None:
        reader = hiredis.Reader()
        with contextlib.suppress(OSError):
            while data := client.recv(CHUNK_BYTES):
                reader.feed(data)
                while (words := reader.gets()) is not False:
                    if self.refusal is not None and (not self.only or words[0].upper() in self.only):
                        self.refused += 1
                        client.sendall(self.refusal)
                    else:
                        redis.sendall(hiredis.pack_command(tuple(words)))
        self._cut(client, redis)

    def _downwards(self, redis: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := redis.recv(CHUNK_BYTES):
                client.sendall(data)
        self._cut(client, redis)

    @staticmethod
    def _cut(*ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
