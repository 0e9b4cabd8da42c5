"""A topic: one watched download's latest event, framed once, and who watches it.

Problem: of thousands of clients some are slow, and each of them must still see the end, in order and once. The easy
way, a queue of frames per client, grows without bound for a client that does not read. So: progress is state, and a
topic is one slot. A message with a greater version replaces what is in it; whoever was slow reads the slot later and
has missed nothing that matters. Versions make repeats harmless, so anything may be read again at any time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from hive.streams import sse
from hive.wire.events import Message, Version

#: The version of a topic of which nothing is known yet: less than every other.
NOTHING = Version(-1, 0)


class Subscriber(Protocol):
    """Whoever watches a topic. Calls come from the event loop and must return at once."""

    def notify(self, topic: Topic) -> None:
        """The topic's slot has a newer event."""

    def keep_alive(self) -> None:
        """Nothing was said for a while."""


class Topic:
    """One watched download: the latest event, framed once for all; `chunk` is the frame as a chunk of HTTP/1.1."""

    __slots__ = (
        "chunk",
        "first_read",
        "frame",
        "heard_s",
        "held",
        "id",
        "missing_since_s",
        "queued",
        "spoke_s",
        "stale",
        "subscribers",
        "terminal",
        "version",
    )

    def __init__(self, download_id: str) -> None:
        self.id = download_id
        self.version = NOTHING
        self.frame = self.chunk = b""
        self.terminal = False
        #: In the order in which they came, which is that in which they are told.
        self.subscribers: dict[Subscriber, None] = {}
        self.heard_s = self.spoke_s = time.monotonic()
        self.missing_since_s: float | None = None
        #: The read of the state that everyone who comes meanwhile waits for. It belongs to this topic and not to the
        #: id: a read that began before the topic was there may have missed what was said in between.
        self.first_read: asyncio.Future[None] | None = None
        #: Whether a subscriber holds a stream without knowing any state, because Redis was away when it came.
        self.held = False
        #: Whether something may have been missed: it is read at every tick until a read has succeeded.
        self.stale = False
        #: Whether it waits for delivery.
        self.queued = False

    @property
    def known(self) -> bool:
        """Whether any state has been seen."""
        return self.version is not NOTHING

    def accept(self, message: Message) -> bool:
        """Take a message that is newer than the slot; False for repeats, and after the end."""
        self.heard_s, self.missing_since_s = time.monotonic(), None
        if self.terminal or message.version <= self.version:
            return False
        self.version, self.terminal, self.frame = message.version, message.terminal, sse.frame(message)
        if self.terminal:
            self.frame += sse.DONE
        self.chunk = sse.chunk(self.frame, last=self.terminal)
        return True
