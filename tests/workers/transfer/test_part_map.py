"""The map of a file, alone and under any order of events."""

from __future__ import annotations

import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.transfer.state.part_map import Extent, PartMap, Piece, disjoint

SIZE = 1000

#: What may happen next: take a piece, write some of one, give one back.
EVENTS = st.lists(
    st.tuples(st.sampled_from(["take", "write", "give"]), st.integers(0, 15), st.integers(1, 120)), max_size=120
)


def write(parts: PartMap, piece: Piece, n_bytes: int, file: bytearray, content: bytes) -> None:
    granted = parts.claim(piece, n_bytes)
    data = content[piece.at : piece.at + granted]
    file[piece.at : piece.at + granted] = data
    parts.advance(piece, granted, zlib.crc32(data, piece.crc))


@settings(max_examples=300, deadline=None)
@given(EVENTS, st.integers(1, 300), st.integers(1, 60))
def test_no_byte_is_lost_or_told_twice_in_any_order_of_events(
    events: list[tuple[str, int, int]], part_bytes: int, steal_bytes: int
) -> None:
    content = bytes(number * 7 % 251 for number in range(SIZE))
    file = bytearray(SIZE)
    parts = PartMap(SIZE)
    journal: dict[int, Extent] = {}
    taken: list[Piece] = []

    def check() -> None:
        for extent in parts.changes():
            journal[extent.start] = extent
        told = disjoint(journal.values())
        assert len(told) == len(journal)
        assert sum(extent.end - extent.start for extent in told) == parts.written
        assert told == parts.extents()
        for extent in told:
            assert zlib.crc32(file[extent.start : extent.end]) == extent.crc
        covered = bytearray(SIZE)
        for extent in told:
            covered[extent.start : extent.end] = b"\1" * (extent.end - extent.start)
        assert parts.frontier == (covered.index(0) if 0 in covered else SIZE)

    for event, which, n_bytes in events:
        if event == "take" and len(taken) < 16:
            piece = parts.take(part_bytes, steal_bytes)
            if piece is not None:
                taken.append(piece)
        elif event == "write" and taken:
            write(parts, taken[which % len(taken)], n_bytes, file, content)
        elif event == "give" and taken:
            parts.give_back(taken.pop(which % len(taken)))
        check()
    for piece in taken:
        parts.give_back(piece)
    while (rest := parts.take(part_bytes, steal_bytes)) is not None:
        write(parts, rest, SIZE, file, content)
        parts.give_back(rest)
    check()
    assert parts.complete
    assert bytes(file) == content


@given(st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE), st.integers(0, 9)), max_size=30))
def test_extents_from_anywhere_never_overlap_in_the_map(raw: list[tuple[int, int, int]]) -> None:
    kept = disjoint(Extent(*extent) for extent in raw)
    parts = PartMap(SIZE, kept)
    missing = 0
    while (piece := parts.take(SIZE, SIZE)) is not None:
        missing += piece.end - piece.start
        assert all(piece.end <= extent.start or extent.end <= piece.start for extent in kept)
    assert missing + parts.written == SIZE


def test_the_lowest_gap_is_taken_first() -> None:
    parts = PartMap(100, [Extent(0, 10, 0), Extent(30, 40, 0)])
    pieces = [parts.take(15, 50) for _ in range(4)]
    assert [(p.start, p.end) for p in pieces if p] == [(10, 25), (25, 30), (40, 55), (55, 70)]


def test_a_thief_takes_the_upper_half_of_what_is_not_claimed() -> None:
    parts = PartMap(100)
    victim = parts.take(100, 10)
    assert victim is not None
    assert parts.claim(victim, 20) == 20
    thief = parts.take(100, 10)
    assert thief is not None
    assert (thief.start, thief.end, victim.end) == (60, 100, 60)
    # The claim stands: what the victim is about to write lies before the thief's bytes.
    parts.advance(victim, 20, 0)
    assert parts.claim(victim, 100) == 40


def test_nothing_is_stolen_below_the_smallest_worthwhile_half() -> None:
    parts = PartMap(19)
    assert parts.take(100, 10) is not None
    assert parts.take(100, 10) is None
    assert not parts.has_work(10)


def test_a_size_that_contradicts_the_disk_is_refused() -> None:
    parts = PartMap(None, [Extent(0, 50, 0)])
    with pytest.raises(ValueError, match="beyond"):
        parts.set_size(49)
    parts.set_size(50)
    assert parts.complete


def test_one_stream_cannot_take_a_file_that_is_under_way() -> None:
    parts = PartMap(None)
    first, second = parts.take(10, 1), parts.take(10, 1)
    assert first is not None
    with pytest.raises(ValueError, match="under way"):
        parts.take_all(first)
    assert second is not None
    parts.give_back(second)
    parts.take_all(first)
    parts.set_size(500)
    assert (first.start, first.end, parts.take(10, 1000)) == (0, 500, None)


def test_a_forgotten_extent_is_missing_and_no_longer_told() -> None:
    parts = PartMap(20)
    piece = parts.take(20, 20)
    assert piece is not None
    parts.claim(piece, 20)
    parts.advance(piece, 20, 1)
    parts.give_back(piece)
    parts.forget([Extent(0, 20, 1)])
    assert parts.changes() == []
    assert (parts.written, parts.frontier, parts.complete) == (0, 0, False)


def test_whoever_waits_for_the_frontier_is_woken() -> None:
    parts = PartMap(20)
    piece = parts.take(20, 20)
    assert piece is not None
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.append(parts.wait_frontier(0, 10.0)))
    waiter.start()
    parts.claim(piece, 5)
    parts.advance(piece, 5, 0)
    waiter.join(5.0)
    assert got == [5]
