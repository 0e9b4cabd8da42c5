"""The seam between the engine and the ways to get bytes.

"bytes [start, end) of the file", as an iterator that can be cut off.

HTTP is one way (the package http). Whatever else can give exact ranges of the same file is another; all of them feed
the same map, journal and hash, so a file that stalls on one goes on over the next without losing a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Final, NamedTuple, Protocol, runtime_checkable

from hive.errors import HiveError
from workers.transfer.control import Control
from workers.transfer.limits import Limits
from workers.transfer.source import Served

#: Seconds from which on a wait is told in minutes.
SPOKEN_IN_MINUTES_S: Final = 120.0


class ExpectedContent(NamedTuple):
    """What the engine knows of the content and the answer must agree with."""

    size: int | None = None
    #: A strong validator; "" when the digest is enough, or there is none.
    validator: str = ""


class ByteStream(Protocol):
    """Bytes on their way. `start` is the file's offset of the first one."""

    start: int
    #: True when the server sends the whole file, come what may (no ranges): `start` is 0 then.
    whole: bool
    #: Bytes of the whole file; None when the server does not say.
    total: int | None
    #: A strong validator of the content, "" without one.
    validator: str
    #: The ETag as it came, for the record.
    etag: str | None

    def chunks(self) -> Iterator[memoryview]:
        """The bytes.

        A view is good until the next one is asked for. Ends early when the stream breaks off in good order.

        Raises Transient when it breaks otherwise.
        """

    def abort(self) -> None:
        """End `chunks` at once, from any thread; never blocks."""

    def close(self) -> None:
        """Give the connection back, or close it when bytes are left. Call it when through; twice does no harm."""


class Transport(Protocol):
    """One way to get the bytes of one file. Safe from any thread."""

    name: str

    def open(self, start: int, end: int | None, known: ExpectedContent, control: Control) -> ByteStream:
        """Bytes [start, end), or the whole file in one stream when `end` is None. `control.cancel` ends the wait.

        Raises Transient, Throttled, Declined, RangesRefused, ContentChanged, Unusable, or the
        HiveError that ends the download (a changed source, an unsafe URL, cancelled).
        """

    def refresh(self) -> None:
        """Whatever is remembered of the location is in doubt: resolve it anew."""


@runtime_checkable
class HasLimits(Protocol):
    """A transport with numbers of its own: how long a piece is, how many connections pay."""

    limits: Limits


@runtime_checkable
class Sparing(Protocol):
    """A transport that knows what it is worth to wait for one connection among several."""

    def open_spare(self, start: int, end: int | None, known: ExpectedContent, control: Control) -> ByteStream:
        """As `open`, while other connections of the file bring bytes: Silent comes soon where no answer does."""


@runtime_checkable
class Presented(Protocol):
    """A stream with a word of its server about it."""

    served: Served
    #: Whether the end of the body differs from a connection that broke.
    delimited: bool


@runtime_checkable
class Remembering(Protocol):
    """A transport that remembers for other files what it learned of its host."""

    def fell_silent(self) -> None:
        """Nothing came this way for so long that another is taken. Must not block."""


@runtime_checkable
class Narrowable(Protocol):
    """A stream whose sender can be kept from running ahead of its reader."""

    def narrow(self) -> None:
        """The reader is held back by a limit: take little ahead of it, or the limit is that of the disk only."""


class Transient(Exception):
    """It may work when tried again. The text is for people and holds no URL."""


class Silent(Transient):
    """Not a byte came for too long."""


class NameUnknown(Transient):
    """DNS says that there is no such host. The text names it."""


class Busy(Transient):
    """The server is overloaded: it may work when tried again, over fewer connections."""


class Throttled(Exception):
    """The server wants fewer requests. `seconds`: what it asked for, None when it did not say. The text says it too."""

    def __init__(self, reason: str, seconds: float | None) -> None:
        super().__init__(reason if seconds is None else f"{reason}; hive waits {_spoken(seconds)}")
        self.seconds = seconds


class Declined(Exception):
    """The server refuses this request (access denied, not found, 400, 409). `error` is what the download ends with when
    nothing else helps: fewer connections, and another try where a fresh location may be treated otherwise (`curable`).
    `final`: the last connection does not ask again, whatever came before.
    """

    def __init__(self, error: HiveError, *, curable: bool, final: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.curable = curable
        self.final = final


class Unusable(Exception):
    """This way does not bring this file; another may. `transport` is the one that says so."""

    def __init__(self, reason: str, transport: Transport) -> None:
        super().__init__(reason)
        self.transport = transport


class RangesRefused(Exception):
    """The server answers a range with the whole file: only one stream from the first byte will do."""


class ContentChanged(Exception):
    """The file is not the one that the partial file is a part of."""


def _spoken(seconds: float) -> str:
    """A wait as a person reads it: `90 s`, `5 minutes`; not shorter than it is."""
    return f"{ceil(seconds)} s" if seconds < SPOKEN_IN_MINUTES_S else f"{ceil(seconds / 60)} minutes"
