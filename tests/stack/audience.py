"""Clients of the stream as a browser's EventSource: they come back with Last-Event-ID, and give up where that would.

Each judges every frame that it sees (tests/support/witness.py), and notes when bytes arrived.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from hive.wire.events import Downloading, Event, Version
from tests.support.waiting import wait_for
from tests.support.witness import Witness, watch

#: Clients of each download.
CLIENTS: Final = 2
#: Seconds before a client comes back that was not told when.
RETRY_S: Final = 1.0
#: Statuses that an EventSource lives through: a stream, and nobody there.
LASTING: Final = (200, 0)
#: Seconds for all downloads to end, whatever was done to them.
ALL_END_S: Final = 180.0


class Client:
    """One client of one download."""

    def __init__(self, url: str, download_id: str) -> None:
        self._url = url
        self.download_id = download_id
        self.witness = Witness(self._note)
        self.wrong: list[str] = []
        self.connections = 0
        #: When it saw more bytes than ever before: seconds of the monotonic clock, and the bytes.
        self.arrivals: list[tuple[float, int]] = []
        self.is_over = False

    async def follow(self) -> None:
        """Until the end, or a status that ends an EventSource."""
        while not self.witness.done:
            connection = await watch(
                self._url, self.download_id, self.witness, last_event_id=self.witness.last_event_id
            )
            self.connections += 1
            status = await connection.answered
            if status not in LASTING:
                self.wrong.append(f"status {status}, which an EventSource does not come back from")
                break
            await connection.over
            if not self.witness.done:
                told = self.witness.retries_ms
                await asyncio.sleep(told[-1] / 1000 if told else RETRY_S)
        self.is_over = True

    def _note(self, version: Version, event: Event) -> str | None:
        if isinstance(event, Downloading) and event.bytes_downloaded > self.bytes_seen:
            self.arrivals.append((time.monotonic(), event.bytes_downloaded))
        return None

    @property
    def bytes_seen(self) -> int:
        """The most bytes that an event has told."""
        return self.arrivals[-1][1] if self.arrivals else 0

    def problems(self) -> list[str]:
        """What must not have been: all that is wrong, and anything but one end."""
        found = [*self.wrong, *self.witness.wrong]
        if self.witness.done != 1:
            found.append(f"{self.witness.done} ends")
        return [f"{self.download_id}: {text}" for text in found]


class Audience:
    """The clients of several downloads, in a thread of their own."""

    def __init__(self, url: str, download_ids: Iterable[str]) -> None:
        self.clients = [Client(url, download_id) for download_id in download_ids for _ in range(CLIENTS)]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()), daemon=True)
        self._thread.start()

    async def _follow(self) -> None:
        await asyncio.gather(*(client.follow() for client in self.clients))

    def wait_until_all_flow(self) -> None:
        """Each download has brought bytes."""
        wait_for(lambda: all(client.arrivals or client.is_over for client in self.clients), "not all downloads run")
        assert [text for client in self.clients for text in (*client.wrong, *client.witness.wrong)] == []

    def wait_for_bytes_since(self, start_s: float) -> None:
        """Each download that is not over has brought bytes since."""
        wait_for(
            lambda: all(client.is_over or client.arrivals[-1][0] > start_s for client in self.clients),
            "some downloads stand still",
        )

    def wait(self) -> None:
        """All are over."""
        wait_for(lambda: all(client.is_over for client in self.clients), "streams without an end", ALL_END_S)

    def longest_silence_s(self, start_s: float) -> float:
        """The longest time without new bytes in any download since then; what its end took counts as well."""
        return max(_longest_gap_s(client, start_s) for client in self.clients)

    @property
    def reconnections(self) -> int:
        """How often a client came back."""
        return sum(client.connections - 1 for client in self.clients)


def _longest_gap_s(client: Client, start_s: float) -> float:
    times = [start_s, *(at for at, _ in client.arrivals if at > start_s)]
    return max((later - sooner for sooner, later in pairwise(times)), default=0.0)
