"""Kept connections: an answer that is whole leaves its connection for the next request to the same worker.

Problem: a connection made for each request is a handshake before each first token, and at 200 requests at once a queue.
The easy way, to keep them for as long as the worker does, loses requests: one that is sent in the moment in which the
other side closes gets no answer, and nobody knows whether it was read. So a connection is kept for a fraction of the
time that a worker waits, and what came to nothing on one is asked once more, on a new one: a worker closes none of
which it has read a request and not answered, unless it ends, and then the new one is refused.
"""

from __future__ import annotations

import asyncio
from typing import Final

from hive.serving.endpoint import Endpoint

#: Connections that are kept for one worker, and for all of them.
MAX_KEPT_EACH: Final = 64
MAX_KEPT: Final = 256
#: Seconds that one is kept; a worker waits for 30 (SILENCE_S of workers/inference/http1.py).
KEPT_S: Final = 10.0


class KeptConnections:
    """The connections that are kept, of one event loop."""

    def __init__(self) -> None:
        self._idle: dict[Endpoint, list[_Idle]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def take(self, target: Endpoint) -> asyncio.Transport | None:
        """The one that was used last; None where there is none. Whoever takes it sets its protocol."""
        idle = self._idle.get(target)
        if not idle:
            return None
        found = idle[-1]
        found.leave()
        return None if found.transport.is_closing() else found.transport

    def keep(self, target: Endpoint, transport: asyncio.Transport) -> None:
        """Keep this one, or close it where there are enough."""
        if self._count >= MAX_KEPT or len(self._idle.get(target, ())) >= MAX_KEPT_EACH:
            transport.close()
            return
        self._idle.setdefault(target, []).append(_Idle(self, target, transport))
        self._count += 1

    def close(self) -> None:
        """Close them all."""
        for each in [idle for found in self._idle.values() for idle in found]:
            each.close()

    def _forget(self, each: _Idle) -> None:
        self._idle[each.target].remove(each)
        if not self._idle[each.target]:
            del self._idle[each.target]
        self._count -= 1


class _Idle(asyncio.Protocol):
    """One that waits: whatever happens to it is its end."""

    def __init__(self, kept: KeptConnections, target: Endpoint, transport: asyncio.Transport) -> None:
        self._kept: KeptConnections | None = kept
        self._timer = asyncio.get_running_loop().call_later(KEPT_S, self.close)
        self.target = target
        self.transport = transport
        transport.set_protocol(self)

    def leave(self) -> None:
        """It is kept no more."""
        self._timer.cancel()
        kept, self._kept = self._kept, None
        if kept is not None:
            kept._forget(self)

    def close(self) -> None:
        """Nobody has wanted it, or it is no good."""
        self.leave()
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Nothing was asked."""
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has closed."""
        self.leave()
