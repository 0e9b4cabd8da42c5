"""How a client follows one download over any number of connections: the state of a watch, without I/O.

Problem: a stream ends for two reasons that look alike on the wire. Either the download is over (`[DONE]`), or a server
was restarted, a proxy lost patience, a cable was pulled. The easy way, to read until the end, takes the second for the
first. So a stream that ends without `[DONE]` means "connect again", with the last id, so that the server can say that
nothing is left, and with jitter, so that the clients of a restarted server do not come back as one. `Client` and
`AsyncClient` do the I/O; what they decide is decided here, once.
"""

from __future__ import annotations

import time
from typing import Final

import httpx2
import msgspec

from hive.net.backoff import Backoff
from hive.wire import events
from hive.wire.events import Event

#: Seconds between two connections: at least, and at most however often it failed.
BACKOFF_MIN_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
#: Seconds that the first waits may take where the server has not said (`retry:`).
BACKOFF_FIRST_S: Final = 0.5
#: Seconds without any connection after which a watch gives up. A server that restarts is back in a few.
PATIENCE_S: Final = 120.0
#: What follows the terminal event.
DONE: Final = "[DONE]"


class Watch:
    """Where one watch stands: the last id, whether it is over, and how long it has gone without a connection."""

    def __init__(self, download_id: str, patience_s: float = PATIENCE_S) -> None:
        self.params = {"id": download_id}
        self.over = False
        self._last_id = ""
        self._patience_s = patience_s
        self._backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S, least_s=BACKOFF_MIN_S)
        self._down_since: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What the next connection says about what was seen."""
        return {"Last-Event-ID": self._last_id} if self._last_id else {}

    def opened(self) -> None:
        """A connection answered as it should: the next failure is the first one."""
        self._down_since = None

    def take(self, frame: httpx2.ServerSentEvent) -> Event | None:
        """The event in a frame, or None where the frame carries none. Sets `over` at `[DONE]` and at a terminal event.

        A terminal event is the last value a download ever has, so nothing is lost where the connection breaks before
        `[DONE]`.
        """
        self._backoff.reset()
        if frame.retry is not None:
            self._backoff.first_s = min(max(frame.retry / 1000, BACKOFF_MIN_S), BACKOFF_MAX_S)
        if frame.data == DONE:
            self.over = True
        if not frame.data or self.over:
            return None
        self._last_id = frame.id or self._last_id
        try:
            event = events.decode(frame.data)
        except msgspec.MsgspecError:
            # A stage or a field of a newer server. The next event, or the terminal one, says all again.
            return None
        self.over = events.is_terminal(event)
        return event

    def lost(self) -> float | None:
        """A connection ended or failed: seconds to wait before the next, or None where it is time to give up."""
        now = time.monotonic()
        self._down_since = self._down_since or now
        if now - self._down_since > self._patience_s:
            return None
        return self._backoff.next_s()
