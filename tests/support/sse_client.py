"""An SSE client of few lines, for tests that must see every byte."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from tests.support.sse import parse_frame
from tests.support.waiting import DEADLINE_S


class SseClient:
    """Reads a stream over a plain socket in a thread: status, headers, events, comments, and how it ended."""

    def __init__(
        self,
        url: str,
        headers: dict[str, str] | None = None,
        timeout_s: float = DEADLINE_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout_s)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=parts.hostname)
        lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}", "Accept: text/event-stream"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.status = 0
        self.headers: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.names: list[str] = []
        self.retries: list[int] = []
        self.comments = 0
        #: Frames that no browser would understand.
        self.malformed: list[str] = []
        self.done = 0
        self.after_done = 0
        self.first_byte_s: float | None = None
        self._started = time.monotonic()
        self.closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float = DEADLINE_S) -> SseClient:
        """Until the server ends the response."""
        if not self.closed.wait(timeout_s):
            raise TimeoutError(f"the stream did not end; events: {self.events[-3:]}")
        assert self.malformed == []
        return self

    def close(self) -> None:
        """Go, as a client does that loses interest."""
        self._socket.close()

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    def _run(self) -> None:
        try:
            with self._socket.makefile("rb") as stream:
                self.status = int(stream.readline().split()[1])
                while (line := stream.readline().strip()) != b"":
                    name, _, value = line.decode().partition(":")
                    self.headers[name.lower()] = value.strip()
                self.first_byte_s = time.monotonic() - self._started
                if self.headers.get("transfer-encoding") == "chunked":
                    buffer = b""
                    while size := int(stream.readline() or b"0", 16):
                        buffer += stream.read(size)
                        stream.readline()
                        *frames, buffer = buffer.split(b"\n\n")
                        for frame in frames:
                            self._take(frame)
                else:
                    self.body = stream.read(int(self.headers.get("content-length", "0")))
        except (OSError, ValueError, IndexError):
            pass
        finally:
            self.closed.set()
            self._socket.close()

    def _take(self, text: bytes) -> None:
        try:
            frame = parse_frame(text)
        except ValueError as error:
            self.malformed.append(str(error))
            return
        self.after_done += bool(self.done)
        self.comments += frame.comments
        if frame.id is not None:
            self.ids.append(frame.id)
        if frame.event is not None:
            self.names.append(frame.event)
        if frame.retry_ms is not None:
            self.retries.append(frame.retry_ms)
        if frame.is_done:
            self.done += 1
        elif frame.data is not None:
            self.events.append(json.loads(frame.data))
