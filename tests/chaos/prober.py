"""The prober: asks for the list of downloads five times a second, as a page does that people leave open, and counts
what is not answered. Behind a load balancer it is what a rolling restart must not disturb.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import requests

#: Seconds between two requests; an address without a key has ten a second.
EVERY_S = 0.2
#: Seconds that an answer may take.
ANSWER_S = 10.0


class Prober:
    """Asks, from a thread of its own, from its making to `stop`."""

    def __init__(self, urls: Callable[[], Sequence[str]]) -> None:
        self.asked = 0
        #: What came in place of an answer, in words.
        self.failures: list[str] = []
        self._urls = urls
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()
        self._thread.join(2 * ANSWER_S)

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            urls = self._urls()
            self.asked += 1
            try:
                answer = requests.get(f"{urls[self.asked % len(urls)]}/v1/downloads?limit=1", timeout=ANSWER_S)
            except requests.RequestException as error:
                self.failures.append(repr(error))
            else:
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code}: {answer.text[:200]}")
