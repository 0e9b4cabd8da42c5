"""The record of a download: its fields, and the proof of a worker that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from hive.wire import events
from hive.wire.events import Event, Message, State
from hive.wire.jobs import Priority, Request

#: The most who share one download; whoever comes then has one of their own, of the same files.
MAX_OWNERS: Final = 64


#: A whole number of a record: what Lua, readers of JSON and clocks have room for. One outside is no number of ours.
Number = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """A download as it stands in Redis. Times are unix milliseconds, 0 where they have not come."""

    id: str
    state: State
    status: str
    ref: str
    dedup_key: str = msgspec.field(name="identity")
    request: Request
    fence: Number
    seq: Number
    event: bytes
    attempt: Number = 1
    stalls: Number = 0
    bytes_done: Number = 0
    bytes_at_claim: Number = 0
    worker: str = ""
    control: str = ""
    priority: Priority = "normal"
    local_path: str = ""
    retry_of: str = ""
    request_id: str = ""
    #: Who asked for it, one a line, whoever made it first; an empty line is somebody who had no key. See `owners`.
    owner_lines: str = msgspec.field(name="owners", default="")
    #: "1" where some of those who share it have asked without the token that it is fetched with.
    lent: str = ""
    #: What it is called, once it was resolved.
    name: str = ""
    #: Bytes that came over the network in all attempts, and how many of them had come before.
    bytes_received: Number = 0
    bytes_refetched: Number = 0
    #: Milliseconds that workers spent on it.
    active_ms: Number = 0
    queued_ms: Number = 0
    claimed_ms: Number = 0
    created_ms: Number = 0
    started_ms: Number = 0
    updated_ms: Number = 0
    ended_ms: Number = 0

    @property
    def is_terminal(self) -> bool:
        """Whether the download has ended."""
        return self.state in events.TERMINAL

    @property
    def owners(self) -> tuple[str, ...]:
        """Who may see it, the one who made it first; empty where it was made without a key."""
        return owners_in(self.owner_lines)

    @property
    def maker(self) -> str:
        """Who asked for it first; "" for somebody without a key."""
        return self.owner_lines.partition("\n")[0]

    def is_called(self, text: str) -> bool:
        """Whether its reference or its name has this text in it, in any case."""
        sought = text.casefold()
        return sought in self.ref.casefold() or sought in self.name.casefold()

    @property
    def is_shared(self) -> bool:
        """Whether several have asked for it."""
        return "\n" in self.owner_lines

    @property
    def last_event(self) -> Event:
        """The latest event, decoded; in its place one that says little where it is none that is known here."""
        try:
            return events.decode(self.event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if self.is_terminal:
                return events.Error(message="This version of hive cannot read how the download ended.")
            return events.Downloading(bytes_downloaded=self.bytes_done, bytes_total=0, speed_mbps=0.0)


class New(msgspec.Struct, kw_only=True, frozen=True):
    """A download to create. `local_path` with a `Complete` event records a model that is on disk already; `ref` is
    what may be shown.
    """

    dedup_key: str
    ref: str
    request: Request
    event: Event
    local_path: str = ""
    secret: bytes = b""
    secret_ttl_s: int = 0
    retry_of: str = ""
    request_id: str = ""
    priority: Priority = "normal"
    #: Who asks; "" for somebody without a key.
    owner: str = ""
    #: A name for the token that it is to be fetched with, where the key above does not tell it; "" for none of its own.
    permission: str = ""


class Claim(NamedTuple):
    """A worker's hold on a download: what it must show to change anything."""

    id: str
    dedup_key: str
    fence: int


class Ack(NamedTuple):
    """The answer to a publish or renewal: whether the claim still holds, and a word (`cancel`, `pause`, `yield`) or
    none.
    """

    held: bool
    control: str


class AttemptBytes(NamedTuple):
    """Bytes of one attempt: all that came over the network, and those among them that had come before."""

    received: int = 0
    refetched: int = 0


#: What nobody has counted.
NO_BYTES = AttemptBytes()


class RecordPage(NamedTuple):
    """One page of a list and the cursor of the next, or None at the end."""

    records: list[Record]
    cursor: tuple[int, str] | None


class TopicState(NamedTuple):
    """What a stream is to show of a download, and who may see it."""

    message: Message
    owners: tuple[str, ...]


class UnreadableRecord(ValueError):
    """What lies where a record should be is none."""


def owners_in(lines: str) -> tuple[str, ...]:
    """The owners in the field of a record: those who have a key."""
    return tuple(owner for owner in lines.split("\n") if owner)


def check_event(event: bytes) -> None:
    """Raises UnreadableRecord where an event is not one JSON object on one line. It goes into answers and streams as it
    is, and must break neither the list that others are in nor a frame.
    """
    try:
        is_object = event[:1] == b"{" and b"\n" not in event and b"\r" not in event
        if is_object and event.decode() and msgspec.json.decode(event, type=msgspec.Raw):
            return
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise UnreadableRecord("its event is no line of JSON")


def read_record(fields: Mapping[bytes, bytes] | Exception) -> Record | None:
    """The record in a hash as Redis gives it (or in what redis-py raised for it), or None where there is none.

    Raises:
        UnreadableRecord: it is broken, or of a version of hive that is not known here.
    """
    if isinstance(fields, Exception):
        raise UnreadableRecord(str(fields))
    if not fields:
        return None
    try:
        values: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items() if name != b"event"}
        values["event"] = fields[b"event"]
        check_event(values["event"])
        values["request"] = msgspec.json.decode(fields[b"request"], type=Request)
        return msgspec.convert(values, Record, strict=False, builtin_types=(bytes,))
    except (KeyError, UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as error:
        raise UnreadableRecord(f"{type(error).__name__}: {error}") from None
