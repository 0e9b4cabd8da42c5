"""The progress vocabulary: three stages, a closed tagged union, and the version that orders them.

`downloading`, `complete` and `error` are the whole vocabulary: clients decode into a closed union, so a fourth stage
would break them. Everything finer (queued, resolving, verifying, paused, retrying, cancelled) is the extra field
`status`.

An event travels through Redis as one line, `<fence>-<seq> <terminal> <JSON>`, so that the process that fans it out
can order it and frame it without decoding JSON.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from hive.wire.encoding import encode_json
from hive.wire.jobs import Priority

#: Bytes per megabyte in `speed_mbps`: the original prints it as MB/s, 10^6 bytes.
BYTES_PER_MB: Final = 1_000_000
#: The longest `message` of an event, in characters.
MAX_MESSAGE_CHARS: Final = 2000
#: How many files under way an event names.
MAX_FILES_IN_EVENT: Final = 8

# The one vocabulary of statuses. A record's `state` says who may act on it, its `status` what people see: the three
# terminal ones are the same in both.
ActiveStatus = Literal["queued", "resolving", "downloading", "verifying", "paused", "retrying"]
TerminalStatus = Literal["complete", "failed", "cancelled"]
Status = Literal[ActiveStatus, TerminalStatus]
State = Literal["queued", "running", "paused", TerminalStatus]
#: Something follows; nothing follows.
ACTIVE: Final[frozenset[str]] = frozenset(get_args(ActiveStatus))
TERMINAL: Final[frozenset[str]] = frozenset(get_args(TerminalStatus))
#: The stages of the events after which nothing follows.
TERMINAL_STAGES: Final = frozenset({"complete", "error"})


class FileProgress(msgspec.Struct, frozen=True):
    """One file that is under way: sizes in bytes, `bytes_total` 0 while it is not known."""

    path: str
    bytes_downloaded: int
    bytes_total: int


class Downloading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="stage", tag="downloading"):
    """Under way. `bytes_total` is 0 while it is not known; `speed_mbps` is 10^6 bytes a second, `bytes_per_second` is
    exact.
    """

    bytes_downloaded: int
    bytes_total: int
    speed_mbps: float
    status: ActiveStatus | None = None
    bytes_per_second: int | None = None
    eta_seconds: int | None = None
    files_done: int | None = None
    files_total: int | None = None
    files: tuple[FileProgress, ...] = ()
    bytes_refetched: int = 0
    attempt: int | None = None
    #: What it is called, where that is known before a worker has it: `org/name:Q4_K_M`.
    name: str | None = None
    #: Where it is not `normal`.
    priority: Priority | None = None
    message: str | None = None


class Complete(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="stage", tag="complete"):
    """The end, well: every file is verified and in the store at `local_path`."""

    local_path: str
    status: Literal["complete"] | None = None
    bytes_total: int | None = None
    files_total: int | None = None
    bytes_refetched: int = 0
    verified: bool | None = None
    seconds: float | None = None
    attempt: int | None = None
    #: What is to be known of it: that the Hub could not be asked whether this is all.
    message: str | None = None


class Error(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="stage", tag="error"):
    """The end, otherwise. `code` is one of hive.errors; `message` says what to do."""

    message: str
    code: str | None = None
    status: Literal["failed", "cancelled"] | None = None
    details: dict[str, Any] | None = None
    bytes_downloaded: int | None = None
    bytes_total: int | None = None
    attempt: int | None = None


Event = Downloading | Complete | Error


class Version(NamedTuple):
    """Orders the events of one download: `fence` is taken by whoever claims it, `seq` counts up inside. Also the SSE
    id.
    """

    fence: int
    seq: int

    def __str__(self) -> str:
        return f"{self.fence}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """The version written `<fence>-<seq>`, or None where the text is anything else (a stranger's Last-Event-ID)."""
        fence, dash, seq = text.partition("-")
        if not dash or not (fence.isdecimal() and seq.isdecimal()) or len(text) > 40 or not text.isascii():
            return None
        return cls(int(fence), int(seq))


class Message(NamedTuple):
    """One event as it lies in Redis and goes through its channels: ordered and framed without decoding the JSON."""

    version: Version
    terminal: bool
    data: bytes


_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """The event as one line of JSON, `stage` first."""
    return encode_json(event)


def decode(data: bytes | str) -> Event:
    """The event in this JSON.

    Raises:
        msgspec.ValidationError: when it is none of the three.
    """
    return _decoder.decode(data)


def shown(priority: Priority) -> Priority | None:
    """A priority as events have it: only where it is not the ordinary one."""
    return None if priority == "normal" else priority


def is_terminal(event: Event) -> bool:
    """Whether nothing follows this event."""
    return not isinstance(event, Downloading)


def parse_message(payload: bytes) -> Message | None:
    """A channel's payload `<fence>-<seq> <0|1> <JSON>`, or None where it is not one of ours."""
    parts = payload.split(b" ", 2)
    if len(parts) != 3 or parts[1] not in (b"0", b"1"):
        return None
    version = Version.parse(parts[0].decode("ascii", "replace"))
    return Message(version, parts[1] == b"1", parts[2]) if version else None


def shorten(message: str) -> str:
    """A message of one line within the limit."""
    line = " ".join(message.split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 3] + "..."
