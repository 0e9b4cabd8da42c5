"""What a Xet store's files say: of which chunks a file consists, and where in a block they lie.

hf_xet writes both into the folder of a `local://` store. A shard lists files, each a sequence of segments: chunks of
blocks. A block is chunks one after the other, each with a head of 8 bytes, and a footer that nobody asks for here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

#: Bytes of a shard's head, and of every record after it.
SHARD_HEAD_BYTES = RECORD_BYTES = 48
#: Bytes of a chunk's head: version, packed length (3), how it is packed, length (3).
CHUNK_HEAD_BYTES = 8

#: A record that ends the list of files.
_END = b"\xff" * 32
#: Flags of a file's record: as many verifications as segments follow them, and one record of extensions.
_VERIFIED, _EXTENDED = 1 << 31, 1 << 30


@dataclass(frozen=True)
class Segment:
    """Chunks [first, last) of a block, which are `n_bytes` of a file."""

    block: str
    first: int
    last: int
    n_bytes: int


@dataclass(frozen=True)
class Block:
    """A block's file, and the offsets of its chunks: in the file, and of the bytes they hold; one more than chunks."""

    hash: str
    path: Path
    offsets: tuple[int, ...]
    contents: tuple[int, ...]

    def place(self, first: int, last: int) -> tuple[int, int]:
        """The first and the last byte of chunks [first, last) in the file."""
        return self.offsets[first], self.offsets[last] - 1


def read_files(folder: Path) -> tuple[dict[str, list[Segment]], dict[str, Block]]:
    """The files of a store, as segments, and its blocks, both by hash."""
    store = folder / "xet" / "xorbs"
    files: dict[str, list[Segment]] = {}
    for shard in (store / "shards").glob("*.mdb"):
        files |= _files_of(shard.read_bytes())
    counts: dict[str, int] = {}
    for segments in files.values():
        for segment in segments:
            counts[segment.block] = max(segment.last, counts.get(segment.block, 0))
    return files, {block: _block(store / "xorbs" / f"default.{block}", block, n) for block, n in counts.items()}


def _files_of(shard: bytes) -> dict[str, list[Segment]]:
    files: dict[str, list[Segment]] = {}
    at = SHARD_HEAD_BYTES
    while shard[at : at + 32] != _END:
        name = _hex(shard[at : at + 32])
        flags, n_segments = struct.unpack_from("<II", shard, at + 32)
        at += RECORD_BYTES
        files[name] = [_segment(shard, at + i * RECORD_BYTES) for i in range(n_segments)]
        at += RECORD_BYTES * (n_segments * (2 if flags & _VERIFIED else 1) + bool(flags & _EXTENDED))
    return files


def _segment(shard: bytes, at: int) -> Segment:
    _, n_bytes, first, last = struct.unpack_from("<IIII", shard, at + 32)
    return Segment(_hex(shard[at : at + 32]), first, last, n_bytes)


def _block(path: Path, name: str, n_chunks: int) -> Block:
    """The places of the first `n_chunks` chunks, from their heads."""
    offsets, contents = [0], [0]
    with path.open("rb") as file:
        for _ in range(n_chunks):
            file.seek(offsets[-1])
            head = file.read(CHUNK_HEAD_BYTES)
            offsets.append(offsets[-1] + CHUNK_HEAD_BYTES + int.from_bytes(head[1:4], "little"))
            contents.append(contents[-1] + int.from_bytes(head[5:8], "little"))
    return Block(name, path, tuple(offsets), tuple(contents))


def _hex(digest: bytes) -> str:
    """As Xet writes a hash: four numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<QQQQ", digest))
