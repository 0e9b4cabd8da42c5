"""A topic: one watched download's latest event, framed once, and who watches it.

Problem: of thousands of clients some are slow, and each of them must still see the end, in order and once. The easy
way, a queue of frames per client, grows without bound for a client that does not read. So: progress is state, and a
topic is one slot. A message with a greater version replaces what is in it; whoever was slow reads the slot later and
has missed nothing that matters. Versions make repeats harmless, so anything may be read again at any time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from hive.auth.principal import Principal
from hive.streams import sse
from hive.wire.events import Message, Version

#: The version of a topic of which nothing is known yet: less than every other.
NOTHING = Version(-1, 0)


class Subscriber(Protocol):
    """Whoever watches a topic. Calls come from the event loop and must return at once."""

    def notify(self, topic: Topic) -> None:
        """The topic's slot has a newer event."""

    def admit(self, topic: Topic) -> None:
        """It watches this topic too, from now on."""

    def withdraw(self, end: Topic) -> None:
        """The download that it watches is no longer its to see: in place of its topic there is this end."""

    def keep_alive(self) -> None:
        """Nothing was said for a while."""

    def abort(self) -> None:
        """One of these calls has failed: nothing more can be told, and its client is to notice."""


#: The forms in which an event is sent, to be added up: with `id:` for those who can come back with it, and as a chunk
#: of HTTP/1.1. The place of the form in `Topic.encoded`.
PLAIN: Final = 0
WITH_ID: Final = 1
CHUNKED: Final = 2
_FORMS: Final = 4


class Topic:
    """One watched download: the latest event, and each form of it that somebody needed, made once for all."""

    __slots__ = (
        "encoded",
        "first_read",
        "heard_s",
        "held",
        "id",
        "message",
        "missing_since_s",
        "owners",
        "queued",
        "spoke_s",
        "stale",
        "subscribers",
        "terminal",
        "version",
        "waiting",
    )

    def __init__(self, download_id: str) -> None:
        self.id = download_id
        self.version = NOTHING
        self.terminal = False
        self.message: Message | None = None
        #: The forms that were made; empty where nobody needed one yet.
        self.encoded = [b""] * _FORMS
        #: With whom they are there for, in the order in which they came, which is that in which they are told.
        self.subscribers: dict[Subscriber, Principal] = {}
        #: Who may see it; None while that was not read.
        self.owners: tuple[str, ...] | None = None
        #: Those that want to watch and wait for that.
        self.waiting: set[Subscriber] = set()
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
        self.version, self.terminal, self.message = message.version, message.terminal, message
        self.encoded = [b""] * _FORMS
        return True

    def encode(self, form: int) -> bytes:
        """What is in the slot, in this form; the end with `[DONE]` behind it. Empty where nothing is known yet."""
        if self.message is None:
            return b""
        data = sse.frame(self.message) if form & WITH_ID else sse.bare(self.message)
        if self.terminal:
            data += sse.DONE
        found = self.encoded[form] = sse.chunk(data, last=self.terminal) if form & CHUNKED else data
        return found
