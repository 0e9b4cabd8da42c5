"""A limit on wrong keys by address: a fixed window.

Nobody guesses a key of 43 random characters. What is limited is what the guessing costs the server and its log. Right
keys are let in all the same: many people may stand behind one address, and one of them may have an old key.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from hive.auth.holder import LOOPBACK, holder_of_address

log = logging.getLogger("hive.auth")

#: Wrong keys that an address may send in a window, and seconds of the window.
MAX_FAILURES: Final = 20
WINDOW_S: Final = 60.0
#: Addresses that are remembered; the oldest goes first.
MAX_ADDRESSES: Final = 10_000


class Failures:
    """How many wrong keys came from where."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[float, int]] = {}

    def add(self, address: str) -> float | None:
        """Count one; gives the seconds to wait where there are too many by now, and logs the first of these."""
        now_s, source = time.monotonic(), holder_of_address(address)
        if source == LOOPBACK:
            source = address  # 127.0.0.0/8 are programs of this machine, each for itself
        began_s, count = self._windows.get(source, (now_s, 0))
        if now_s - began_s >= WINDOW_S:
            self._windows.pop(source)
            began_s, count = now_s, 0
        self._windows[source] = (began_s, count + 1)
        if len(self._windows) > MAX_ADDRESSES:
            del self._windows[next(iter(self._windows))]
        if count == MAX_FAILURES:  # once a window: a flood must not fill the log
            log.warning("wrong keys: refused for a while", extra={"fields": {"address": address}})
        return began_s + WINDOW_S - now_s if count >= MAX_FAILURES else None
