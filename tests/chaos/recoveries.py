"""How long it takes from a fault until bytes flow again, for each download that it hit."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.chaos.faults import FAULTS, Strike
from tests.chaos.history import Viewer
from tests.chaos.orders import Order

#: Faults after which the download must be at another attempt before its bytes count.
NEW_ATTEMPT = frozenset(
    (
        "horse-kill",
        "worker-kill",
        "parent-kill",
        "pool-kill",
        "pool-stop",
        "scale-in",
        "scale-in-hasty",
        "scale-in-kill",
    )
)


@dataclass
class Recovery:
    """A download that was hit, on its way back."""

    strike: Strike
    order: Order
    #: The attempt, the bytes shown, and the bytes that the stand-in had sent, when it was hit.
    attempt: int
    shown: int
    sent: int | None = None
    #: Seconds that it took.
    took_s: float | None = None
    #: There is nothing to measure.
    void: bool = False

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.void or self.took_s is not None

    def look(self) -> None:
        """See whether bytes flow again."""
        order, now_s = self.order, time.monotonic()
        since_s = self.strike.began_s
        if FAULTS[self.strike.kind].since == "end":
            if self.strike.ended_s is None:
                self.shown = max(self.shown, order.watch.bytes_done)
                return
            since_s = self.strike.ended_s
        second_time = self.strike.kind not in NEW_ATTEMPT and order.sent > order.size
        if order.cancelled or order.paused or second_time:
            # Of a file that is fetched for the second time, whole, people see no progress.
            self.void = True
        elif order.ended_s is not None or self._bytes_flow():
            self.took_s = now_s - since_s

    def _bytes_flow(self) -> bool:
        if self.strike.kind not in NEW_ATTEMPT:
            return self.order.watch.bytes_done > self.shown
        if self.order.watch.attempt <= self.attempt:
            return False
        if self.sent is None:
            self.sent = self.order.sent
        return self.order.sent > self.sent


@dataclass
class Reconnection:
    """A viewer whose replica was hit, on its way to another, or back."""

    strike: Strike
    order: Order
    viewer: Viewer
    took_s: float | None = None
    void: bool = False

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.void or self.took_s is not None

    def look(self) -> None:
        """See whether it is served again."""
        since_s = self.strike.began_s
        if FAULTS[self.strike.kind].since == "end":
            if self.strike.ended_s is None:
                return
            since_s = self.strike.ended_s
        if self.order.watch.over or self.viewer.witness.terminal is not None:
            self.void = True
        elif self.viewer.served_s > since_s and (self.viewer.connected_s > since_s or self._outlived()):
            self.took_s = self.viewer.served_s - since_s

    def _outlived(self) -> bool:
        """Whether the connection is still the same, and speaks again."""
        return self.strike.ended_s is not None and self.viewer.served_s > self.strike.ended_s


def begin(strike: Strike, orders: list[Order]) -> list[Recovery | Reconnection]:
    """Everyone whom a fault hits."""
    hits = FAULTS[strike.kind].hits
    if hits == "viewers":
        return [
            Reconnection(strike, order, viewer)
            for order in orders
            for viewer in order.watch.viewers
            if viewer.replica == strike.replica and viewer.witness.terminal is None
        ]
    running = {holding.download_id for holding in strike.holdings}
    hit = running if hits == "running" else running & set(strike.named)
    found: list[Recovery | Reconnection] = []
    for order in orders:
        if order.watch.id in hit and not order.watch.over:
            order.strikes.append(strike.number)
            found.append(Recovery(strike, order, order.watch.attempt, order.watch.bytes_done))
    return found
