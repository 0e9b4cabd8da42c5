"""Which bytes of a file are missing, being fetched, or on disk. Pure bookkeeping: no file, no network.

Problem: up to sixteen connections share a file, die at any byte, and the digest wants the bytes from the front. The
easy way, one range per connection cut once at the start, crawls at 99 % behind the slowest and keeps the hash waiting.
So missing bytes are *gaps*, a connection takes a *piece* off the lowest gap, and when no gap is left an idle connection
takes the upper half of the largest remainder (tail stealing).

Every piece carries the CRC of what was written. The journal records it, and a wrong digest later finds the bad part by
it.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable
from typing import NamedTuple

#: Bytes. The end of a file whose size is not known yet; larger than any file.
UNKNOWN_END = 2**62


class Extent(NamedTuple):
    """Bytes [start, end) are on disk and had this CRC-32 when they arrived."""

    start: int
    end: int
    crc: int


class Piece:
    """Bytes [start, end) that one connection fetches; [start, at) are written. Changed by the map only."""

    __slots__ = ("at", "claimed", "crc", "end", "journaled", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = self.at = self.claimed = self.journaled = start
        self.end = end
        self.crc = 0

    def extent(self) -> Extent:
        """What of it is on disk."""
        return Extent(self.start, self.at, self.crc)

    @property
    def done(self) -> bool:
        """Whether all of it is on disk."""
        return self.at >= self.end


class PartMap:
    """The map of one file of `size` bytes (None: not known yet). Every method is safe from any thread."""

    def __init__(self, size: int | None, extents: Iterable[Extent] = ()) -> None:
        """Start with `extents` on disk; they must not overlap (see `disjoint`)."""
        self._moved = threading.Condition()
        self._size = size
        self._done = {extent.start: extent for extent in extents}
        self._written = sum(extent.end - extent.start for extent in self._done.values())
        self._gaps = _complement(sorted(self._done.values()), UNKNOWN_END if size is None else size)
        self._taken: set[Piece] = set()
        self._fresh: list[Extent] = []

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, or None."""
        return self._size

    @property
    def written(self) -> int:
        """Bytes on disk."""
        return self._written

    @property
    def complete(self) -> bool:
        """Whether no byte is missing."""
        return self._written == self._size

    @property
    def frontier(self) -> int:
        """Bytes on disk without a gap from the file's first byte."""
        with self._moved:
            return self._frontier()

    def take(self, part_bytes: int, steal_min_bytes: int) -> Piece | None:
        """A piece of at most `part_bytes` from the lowest gap, else half of the largest remainder, else None."""
        with self._moved:
            if self._gaps:
                start, end = self._gaps.pop(0)
                piece = Piece(start, min(end, start + part_bytes))
                if piece.end < end:
                    self._gaps.insert(0, (piece.end, end))
            else:
                victim = max(self._taken, key=lambda taken: taken.end - taken.claimed, default=None)
                if victim is None or victim.end - victim.claimed < 2 * steal_min_bytes:
                    return None
                middle = victim.claimed + (victim.end - victim.claimed) // 2
                piece, victim.end = Piece(middle, victim.end), middle
            self._taken.add(piece)
            return piece

    def claim(self, piece: Piece, n_bytes: int) -> int:
        """How many of the next `n_bytes` the piece's owner may write; a thief takes only what lies behind them."""
        with self._moved:
            granted = min(n_bytes, piece.end - piece.at)
            piece.claimed = piece.at + granted
            return granted

    def advance(self, piece: Piece, n_bytes: int, crc: int) -> None:
        """The next `n_bytes` of the piece are on disk, and `crc` is the CRC of all of it so far."""
        with self._moved:
            at_frontier = piece.at == self._frontier()
            piece.at += n_bytes
            piece.crc = crc
            self._written += n_bytes
            if at_frontier:
                self._moved.notify_all()

    def give_back(self, piece: Piece) -> None:
        """The owner is through with the piece; what it did not write is missing again."""
        with self._moved:
            self._taken.discard(piece)
            if piece.at > piece.start:
                self._done[piece.start] = piece.extent()
            if piece.journaled < piece.at:
                self._fresh.append(piece.extent())
            if not piece.done:
                self._insert_gap(piece.at, piece.end)
            self._moved.notify_all()

    def has_work(self, steal_min_bytes: int) -> bool:
        """Whether another connection would get a piece."""
        with self._moved:
            remainders = (taken.end - taken.claimed for taken in self._taken)
            return bool(self._gaps) or max(remainders, default=0) >= 2 * steal_min_bytes

    def set_size(self, size: int) -> None:
        """The size is known now.

        Pieces and gaps beyond it are cut; raises ValueError when bytes beyond it are on disk.
        """
        with self._moved:
            on_disk = [extent.end for extent in self._done.values()] + [piece.at for piece in self._taken]
            if max(on_disk, default=0) > size:
                raise ValueError("bytes beyond the end are on disk")
            self._size = size
            for piece in self._taken:
                piece.end = min(piece.end, size)
            self._gaps = [(start, min(end, size)) for start, end in self._gaps if start < size]
            self._moved.notify_all()

    def take_all(self, piece: Piece) -> None:
        """Make a piece that starts at 0 the only one: a server without ranges sends everything in one stream.

        Raises ValueError when another piece is taken or anything is on disk already.
        """
        with self._moved:
            if piece.start or piece.at or self._done or self._taken != {piece}:
                raise ValueError("the file is under way in pieces")
            self._gaps = []
            piece.end = UNKNOWN_END if self._size is None else self._size

    def forget(self, extents: Iterable[Extent]) -> None:
        """These extents are wrong on disk; they are missing again."""
        with self._moved:
            for extent in extents:
                self._fresh = [fresh for fresh in self._fresh if fresh.start != extent.start]
                del self._done[extent.start]
                self._written -= extent.end - extent.start
                self._insert_gap(extent.start, extent.end)

    def extents(self) -> list[Extent]:
        """Everything on disk, by offset."""
        with self._moved:
            running = [piece.extent() for piece in self._taken if piece.at > piece.start]
            return sorted([*self._done.values(), *running])

    def changes(self) -> list[Extent]:
        """What came to disk since the last call; an extent with the start of an earlier one replaces it."""
        with self._moved:
            changed, self._fresh = self._fresh, []
            for piece in self._taken:
                if piece.at > piece.journaled:
                    changed.append(piece.extent())
                    piece.journaled = piece.at
            return changed

    def wait_frontier(self, beyond: int, timeout_s: float) -> int:
        """The frontier, as soon as it lies beyond `beyond`, at the latest after `timeout_s`."""
        with self._moved:
            self._moved.wait_for(lambda: self._frontier() > beyond, timeout_s)
            return self._frontier()

    def _frontier(self) -> int:
        ends = [piece.at for piece in self._taken if not piece.done]
        if self._gaps:
            ends.append(self._gaps[0][0])
        return min(ends) if ends else self._size or 0

    def _insert_gap(self, start: int, end: int) -> None:
        at = bisect.bisect(self._gaps, (start, end))
        if at < len(self._gaps) and self._gaps[at][0] == end:
            end = self._gaps.pop(at)[1]
        if at and self._gaps[at - 1][1] == start:
            at -= 1
            start = self._gaps.pop(at)[0]
        self._gaps.insert(at, (start, end))


def disjoint(extents: Iterable[Extent]) -> list[Extent]:
    """The extents by offset, without those that overlap an earlier one or are empty."""
    kept: list[Extent] = []
    for extent in sorted(extents):
        if extent.start < extent.end and extent.start >= (kept[-1].end if kept else 0):
            kept.append(extent)
    return kept


def _complement(extents: list[Extent], size: int) -> list[tuple[int, int]]:
    gaps, at = [], 0
    for extent in extents:
        if extent.start > at:
            gaps.append((at, extent.start))
        at = extent.end
    if at < size:
        gaps.append((at, size))
    return gaps
