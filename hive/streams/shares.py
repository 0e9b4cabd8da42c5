"""Shares: how many of something each key or address has open at a time, so that one does not take all of it.

Where there are no keys, this machine's own share is larger, or is not counted at all: see hive.auth.holder.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hive.auth.holder import holder_of, is_unlimited
from hive.errors import TooManyRequests

#: Seconds after which whoever had too many open is to try again.
RETRY_S: Final = 5


class Shares:
    """Counts by holder; see hive.auth.holder. It holds no more entries than there are things open."""

    def __init__(self, most: int) -> None:
        """`most` for each holder; 0 for no limit."""
        self._most = most
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def holding(self, connection: Mapping[str, Any]) -> Iterator[None]:
        """Have one more open inside the block. Raises TooManyRequests."""
        holder = "" if is_unlimited(connection) else holder_of(connection)
        if not self.take(holder):
            text = f"This key or address waits with {self._most} requests already, which are as many as it may."
            raise TooManyRequests(text, retry_after_s=RETRY_S)
        try:
            yield
        finally:
            self.give_back(holder)

    def take(self, holder: str, times: int = 1) -> bool:
        """Whether this holder may have one more; then it counts until `give_back`. "" is not counted; `times`: how many
        shares it has.
        """
        if not holder or not self._most:
            return True
        if self._open[holder] >= self._most * times:
            return False
        self._open[holder] += 1
        return True

    def give_back(self, holder: str) -> None:
        """It is not open any more."""
        if not holder or not self._most:
            return
        self._open[holder] -= 1
        if self._open[holder] <= 0:
            del self._open[holder]
