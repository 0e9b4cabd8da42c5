"""How far a model is loaded, for everybody who watches: one slot with the latest event, as in the streams of downloads.

Whoever comes late gets the present state at once; after the end, the end. `[DONE]` follows every end, once, and a
stream that ends without it means that the worker has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from hive.serving.registry import Told
from hive.wire.events import Version
from hive.wire.llm import LoadingEvent, data_frame, is_final
from workers.inference.http1 import Response

#: The end of a stream, behind its last event.
DONE: Final = b"data: [DONE]\n\n"
KEEPALIVE: Final = b":\n\n"
#: Seconds between two looks whether a client that is slow has taken what it was sent.
SLOW_LOOK_S: Final = 0.1
#: What a stream is served with.
STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Loading:
    """The slot. `on_change` is told that there is something new."""

    def __init__(self, on_change: Callable[[], None], keepalive_s: float) -> None:
        self._on_change = on_change
        self._keepalive_s = keepalive_s
        self._seq = 0
        self._fence = int(time.time() * 1000)
        self._changed = asyncio.Event()
        self.event: LoadingEvent | None = None

    @property
    def told(self) -> Told | None:
        """The latest event and its place in the order."""
        return Told(Version(self._fence, self._seq), self.event) if self.event is not None else None

    @property
    def is_over(self) -> bool:
        """Whether nothing follows."""
        return self.event is not None and is_final(self.event)

    def tell(self, event: LoadingEvent) -> None:
        """The latest event; after an end nothing counts any more."""
        if self.is_over:
            return
        self._seq += 1
        self.event = event
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._on_change()

    async def stream(self, response: Response) -> None:
        """Send it all to one client, until the end, or until the client has gone."""
        response.start(200, STREAM_HEADERS)
        seen: LoadingEvent | None = None
        while not response.is_gone:
            event, changed = self.event, self._changed
            if event is not None and event is not seen and not response.paused:
                seen = event
                if is_final(event):
                    response.end(data_frame(event) + DONE)
                    return
                response.write(data_frame(event))
            timed_out = True
            # A client that is slow is looked at again in a moment: it then gets what is newest.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SLOW_LOOK_S if response.paused else self._keepalive_s):
                    await changed.wait()
                    timed_out = False
            if timed_out and not response.paused and not response.is_gone:
                response.write(KEEPALIVE)
