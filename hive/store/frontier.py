"""The good prefix of a file under way, read from the journal beside it while a worker writes both.

A journal (workers/transfer/state/journal.py) has a line for what was written, after it was: a CRC of the rest in eight
hex digits, a blank, and JSON in which `w` lists extents as [start, end, crc]. An extent replaces an earlier one with
the same start. Here only what is new is read with each look; a journal that was begun anew is another file and is read
from its start. What a torn line says comes with the next look.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from typing import Any, Final

import msgspec

from hive.plain_file import open_plain_file
from hive.store.dirfd import open_folder
from hive.store.layout import PARTIAL

#: Bytes of a journal that one look reads; a longer rest comes with the next.
MAX_LOOK_BYTES: Final = 4 << 20


class JournalTail:
    """How far the file `name` below `hive/partial` is there without a gap. Blocking."""

    def __init__(self, hive: Path, name: str) -> None:
        self._hive = hive
        self._name = name
        self._inode = -1
        self._at = 0
        self._ends: dict[int, int] = {}

    def frontier(self) -> int:
        """Bytes that are there from the first one on; 0 where nothing is known. Raises OSError."""
        data = self._read()
        lines = data.split(b"\n")
        self._at -= len(lines[-1])
        for line in lines[:-1]:
            for extent in _extents(line):
                self._ends[extent[0]] = extent[1]
        reached = 0
        for start in sorted(self._ends):
            if start > reached:
                break
            reached = max(reached, self._ends[start])
        return reached

    def _read(self) -> bytes:
        with contextlib.suppress(FileNotFoundError), open_folder(self._hive, PARTIAL) as folder:
            file = open_plain_file(f"{self._name}.journal", os.O_RDONLY, folder=folder)
            try:
                if (inode := os.fstat(file).st_ino) != self._inode:
                    self._inode, self._at, self._ends = inode, 0, {}
                data = os.pread(file, MAX_LOOK_BYTES, self._at)
                self._at += len(data)
                return data
            finally:
                os.close(file)
        return b""


def open_partial(hive: Path, name: str) -> int | None:
    """A descriptor of the bytes of a file under way, for the caller to close; None where there are none. Raises
    OSError.
    """
    with contextlib.suppress(FileNotFoundError), open_folder(hive, PARTIAL) as folder:
        return open_plain_file(f"{name}.part", os.O_RDONLY, folder=folder)
    return None


def _extents(line: bytes) -> list[list[int]]:
    try:
        if int(line[:8], 16) != zlib.crc32(line[9:]):
            return []
        record: Any = msgspec.json.decode(line[9:])
        found = record.get("w", ())
        return [extent for extent in found if len(extent) == 3 and 0 <= extent[0] < extent[1]]
    except (ValueError, TypeError, AttributeError, msgspec.DecodeError, RecursionError):
        return []
