"""An answer passed on unread: what one read of the other side brought becomes one write, and a slow reader slows it.

The one place that lets go of the other side when the client has gone, and cuts the client's answer where the other side
went away in the middle: whoever reads it sees that something is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from hive.serving.endpoint import Endpoint
from hive.serving.kept_connections import KeptConnections
from hive.serving.upstream import Headers, Upstream, send

#: The headers of an answer that go on; the others are about the connection, or about who answered.
PASSED_ON: Final = (b"content-type", b"retry-after", b"x-accel-buffering", b"cache-control")


class Downstream(Protocol):
    """The answer to our client."""

    on_gone: Callable[[], None] | None
    on_writable: Callable[[], None] | None

    @property
    def paused(self) -> bool:
        """Whether the client has not taken what it was sent."""

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Begin."""

    def write(self, data: bytes) -> None:
        """A piece of the body."""

    def end(self) -> None:
        """The end."""

    def cut(self) -> None:
        """No end: something is missing."""


class Relay:
    """One answer on its way. `over` is set when it has ended, however; then `outcome` says how."""

    def __init__(self, downstream: Downstream, kept: KeptConnections | None = None) -> None:
        self._down = downstream
        self._kept = kept
        #: Whether a kept connection was closed before anything of an answer came: it is asked once more.
        self._is_stale = False
        self._upstream: Upstream | None = None
        self._began_s = time.monotonic()
        #: When something came last; at first, when it was asked.
        self.moved_s = self._began_s
        self.over = asyncio.Event()
        self.status = 0
        self.outcome = ""
        #: Seconds until the first bytes of the body; 0 where none came.
        self.first_s = 0.0
        #: Why there is no answer, where nothing was sent to the client yet.
        self.failure = ""

    async def run(self, target: Endpoint, method: str, path: str, headers: Headers, body: bytes) -> None:
        """Ask, and pass the answer on; returns when it is over. Where nothing was sent, `failure` says why."""
        self._down.on_gone = self._on_gone
        self._down.on_writable = self._on_writable
        try:
            await self._ask(target, method, path, headers, body, self._kept)
            if self._is_stale:
                self._is_stale = False
                self._upstream = None
                self.over.clear()
                await self._ask(target, method, path, headers, body, None)
        finally:
            self._end("gone")

    async def _ask(
        self, target: Endpoint, method: str, path: str, headers: Headers, body: bytes, kept: KeptConnections | None
    ) -> None:
        try:
            self._upstream = await send(target, method, path, headers, body, self, kept=kept)
        except OSError as error:
            self.on_failed(str(error) or "not in time")
        if self.over.is_set() and self._upstream is not None:
            self._upstream.close()
        await self.over.wait()

    def stop(self) -> None:
        """End it in the middle."""
        if self._is_stale or not self.over.is_set():
            if self.status:
                self._down.cut()
            else:
                self.failure = "it was stopped"
            self._end("stopped")

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """The answer begins."""
        self.status = status
        self._down.start(status, [(name, headers[name]) for name in PASSED_ON if name in headers])

    def on_data(self, data: bytes) -> None:
        """A piece."""
        self.moved_s = time.monotonic()
        if not self.first_s:
            self.first_s = self.moved_s - self._began_s
        self._down.write(data)
        if self._down.paused and self._upstream is not None:
            self._upstream.pause()

    def on_end(self) -> None:
        """The end."""
        self._down.end()
        self._end("end")

    def on_failed(self, reason: str) -> None:
        """The other side has gone."""
        if self._upstream is not None and self._upstream.may_be_stale:
            self._is_stale = True
            self.over.set()
            return
        if self.status:
            self._down.cut()
        else:
            self.failure = reason
        self._end("failed")

    def _on_gone(self) -> None:
        self._end("gone")

    def _on_writable(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    def _end(self, outcome: str) -> None:
        self._is_stale = False
        if self._upstream is not None:
            self._upstream.close()
        self.outcome = self.outcome or outcome
        self.over.set()
