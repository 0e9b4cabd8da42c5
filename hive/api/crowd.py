"""Connections are counted, in all and by address, so that one client does not take all that a process has.

Problem: whoever opens connections and says nothing takes descriptors from those who have something to ask. A plain
limit for each address would hit those behind one proxy, and a fleet of streams that comes back all at once. So the
share of an address is soft: those above it must ask within a short time and are closed after the answer, and only many
times as many are closed at once.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Final

from hive.auth.holder import LOOPBACK, holder_of_address
from hive.net.forwarded import TrustedProxies

log = logging.getLogger("hive.api.crowd")

#: How many times too many connections of an address are none at all.
CROWD_FACTOR: Final = 256
#: How many times the share of an address this machine has: its balancer, and one person's tools, come from there.
LOOPBACK_SHARES: Final = 4
#: Seconds between two lines in the log about connections that are closed because there are too many.
SAY_EVERY_S: Final = 60.0

NO_PROXIES: Final = TrustedProxies()


class Connections:
    """How many connections a process has: those that are no streams by address (of IPv6 by /64), and all together.

    The limit of an address is a soft one, because a fleet of streams that comes back all at once, from behind one
    proxy, is not an attack: each of them is a stream, and not counted any more, as soon as it has asked. A trusted
    proxy has no share: it has as many as requests are under way, and those are limited by their clients' rates.
    """

    def __init__(
        self,
        most: int = 0,
        most_of_one: int = 0,
        loopback_shares: int = 1,
        trusted: TrustedProxies = NO_PROXIES,
    ) -> None:
        """`most` in all, `most_of_one` for each address, streams not counted; 0 for no limit. This machine has so many
        shares, and `trusted` proxies are counted in all only.
        """
        self._most = most
        self._most_of_one = most_of_one
        self._loopback_shares = loopback_shares
        self._trusted = trusted
        #: Whether the server is about to stop: each answer is then the last of its connection.
        self.stopping = False
        self._by_holder: Counter[str] = Counter()
        self._said_s = -SAY_EVERY_S

    def admit(self, address: str, connections: int) -> bool:
        """Whether one more may stay, `connections` being open by now; then it counts until `release`."""
        holder = holder_of_address(address)
        of_one = self._by_holder[holder] if address else 0
        most_of_one = 0 if self._trusted.trusts(address) else self._most_of_one * CROWD_FACTOR
        if (self._most and connections > self._most) or (most_of_one and of_one >= most_of_one):
            self._say(address)
            return False
        self._by_holder[holder] += 1
        return True

    def is_crowded(self, address: str) -> bool:
        """Whether this address has more than its share."""
        holder = holder_of_address(address)
        shares = self._loopback_shares if holder == LOOPBACK else 1
        return 0 < self._most_of_one * shares < self._by_holder[holder] and not self._trusted.trusts(address)

    def release(self, address: str) -> None:
        """It is gone, or has become a stream."""
        holder = holder_of_address(address)
        self._by_holder[holder] -= 1
        if self._by_holder[holder] <= 0:
            del self._by_holder[holder]

    def _say(self, address: str) -> None:
        if time.monotonic() - self._said_s >= SAY_EVERY_S:
            self._said_s = time.monotonic()
            log.warning("too many connections; new ones are closed", extra={"fields": {"address": address}})
