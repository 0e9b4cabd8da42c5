"""What is on disk of a partial file, told by an append-only file beside it.

Problem: after a kill -9 nobody knows which bytes of a preallocated file are real. The easy way, one small state file
rewritten in place, is torn by the same kill. So lines are appended, each with a CRC of its own; a torn or foreign tail
is ignored.

    <crc32 of the rest, 8 hex> {"v":1,"size":..,"digest":..,"validator":...,"boot":...}   the header
    <crc32 of the rest, 8 hex> {"w":[[start,end,crc],...]}   written
    <crc32 of the rest, 8 hex> {"s":n}   the first n lines are durable

An extent replaces an earlier one with the same start (pieces grow). A process that dies loses nothing that it has
written, but a machine that dies loses what was not synced: under another boot id only the lines that an "s" vouches for
are believed. The sync says how many lines it covers, since lines are appended while fdatasync runs.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import secrets
import sys
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hive.plain_file import NOT_PLAIN, open_plain_file
from workers.transfer.state.disk import FILE_MODE, sync_data, sync_folder
from workers.transfer.state.part_map import Extent, disjoint

#: The format's version; a journal of another is not believed.
VERSION = 1

#: Bytes. A longer journal is no journal of ours; it is not read.
MAX_READ_BYTES = 256 * 1024 * 1024

#: Extents in one line, so that no line grows without bound.
EXTENTS_PER_LINE = 1024

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Identity:
    """What the partial file is a part of."""

    size: int
    #: "sha256:<hex>" or "git-sha1:<hex>"; "" when nobody gave one.
    digest: str
    #: The server's strong validator; matters only without a digest.
    validator: str


class Mark(NamedTuple):
    """A place in one journal."""

    generation: int
    lines: int


def boot_id() -> str:
    """Another string after every boot; "" where the system does not tell (then only synced lines are believed)."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


class Recovered(NamedTuple):
    """What a journal tells: what the file is, what of it is on disk, and what a power cut would leave of that."""

    identity: Identity
    extents: list[Extent]
    durable: list[Extent]
    #: Whether it has told more than is believed now: whoever read it meanwhile may have bytes that come anew.
    told_more: bool


def recover(path: Path, data_bytes: int, boot: str) -> Recovered | None:
    """What a journal says is on disk in a data file of `data_bytes`, or None when it says nothing believable.

    Raises OSError, but not when there is no journal.
    """
    try:
        with os.fdopen(open_plain_file(path, os.O_RDONLY), "rb") as file:
            text = file.read(MAX_READ_BYTES + 1)
    except OSError as error:
        if error.errno == errno.ENOENT or error.errno in NOT_PLAIN:
            return None
        raise
    told = [] if len(text) > MAX_READ_BYTES else [_record(line) for line in text.split(b"\n")[:-1]]
    # Up to the first line that is torn or altered: what follows one may be of another time.
    records = [record for record in itertools.takewhile(lambda record: record is not None, told) if record is not None]
    if not records or records[0].get("v") != VERSION:
        return None
    try:
        header = records[0]
        identity = Identity(int(header["size"]), str(header["digest"]), str(header["validator"]))
        vouched = records[: max((int(record["s"]) for record in records if "s" in record), default=0)]
        end = min(data_bytes, identity.size)
        durable = _latest(vouched, end)
        extents = _latest(records, end) if boot and header["boot"] == boot else durable
        told_more = _latest(filter(None, told), sys.maxsize) != extents
    except (KeyError, TypeError, ValueError):
        return None
    return Recovered(identity, extents, durable, told_more)


class Journal:
    """The journal of a running fetch. `append` and `synced` are safe from any thread and raise OSError."""

    def __init__(self, path: Path, identity: Identity, boot: str, extents: list[Extent], durable: list[Extent]) -> None:
        """Begin a new journal in place of any old one, with `extents` on disk, and `durable` (some of them) synced."""
        self._path = path
        self._identity = identity
        self._boot = boot
        self._lock = threading.Lock()
        self._fd = -1
        self._generation = 0
        self._begin(extents, durable)

    @property
    def n_bytes(self) -> int:
        """How long it is."""
        return self._bytes

    def append(self, extents: list[Extent]) -> None:
        """Record extents that are written."""
        if extents:
            with self._lock:
                self._write(self._fd, _written(extents))

    def mark(self) -> Mark:
        """Where the journal ends now: take it before fdatasync and give it to `synced` after."""
        with self._lock:
            return Mark(self._generation, self._lines)

    def synced(self, mark: Mark) -> None:
        """All that was recorded before `mark` is durable. Says nothing when the journal was begun anew since."""
        with self._lock:
            if mark.generation == self._generation:
                self._write(self._fd, [{"s": mark.lines}])
                sync_data(self._fd)

    def compact(self, extents: list[Extent], durable: list[Extent]) -> None:
        """Begin again with what is true now."""
        with self._lock:
            self._begin(extents, durable)

    def close(self) -> None:
        """Close the file; it stays."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def _begin(self, extents: list[Extent], durable: list[Extent]) -> None:
        # A name that no other process has: two hives on one store may begin the same file at once.
        fresh = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(fresh, flags, FILE_MODE)
        try:
            self._lines = self._bytes = 0
            who = self._identity
            header = {
                "v": VERSION,
                "size": who.size,
                "digest": who.digest,
                "validator": who.validator,
                "boot": self._boot,
            }
            self._write(fd, [header, *_written(durable)])
            vouched = set(durable)
            self._write(fd, [{"s": self._lines}, *_written([extent for extent in extents if extent not in vouched])])
            sync_data(fd)
            os.replace(fresh, self._path)
            sync_folder(self._path.parent)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._generation += 1

    def _write(self, fd: int, records: list[dict[str, Any]]) -> None:
        lines = b"".join(_line(record) for record in records)
        written = os.write(fd, lines)
        if written < len(lines):
            # A full disk took a part of a line. Readers stop at it, and whoever goes on begins a new journal.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._lines += len(records)
        self._bytes += written


def _written(extents: list[Extent]) -> list[dict[str, Any]]:
    return [{"w": extents[at : at + EXTENTS_PER_LINE]} for at in range(0, len(extents), EXTENTS_PER_LINE)]


def _latest(records: Iterable[dict[str, Any]], end: int) -> list[Extent]:
    latest = {start: Extent(start, stop, crc) for record in records for start, stop, crc in record.get("w", ())}
    return disjoint(extent for extent in latest.values() if extent.start >= 0 and extent.end <= end)


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        if int(line[:8], 16) != zlib.crc32(line[9:]):
            return None
        record = json.loads(line[9:])
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
