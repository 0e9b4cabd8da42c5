"""What a file of a stand-in repository consists of.

A test needs three kinds of content: a few bytes written in the test, a file on disk, and a file of gigabytes that costs
neither disk nor memory. A fourth exists by name and size only: selection rules are tested on repositories of hundreds
of gigabytes that nobody ever fetches.
"""

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

#: Bytes handed out at once: large enough that the interpreter's cost per block disappears, small enough for the cache.
BLOCK_BYTES = 1 << 20

#: Number of distinct places (bytes) in the pool at which a block may begin: 4 TiB of content before a block recurs.
POOL_STARTS = 4 << 20

#: Odd, so that multiplying by it modulo POOL_STARTS visits every start once.
POOL_STRIDE = 2_654_435_761


class ContentUnavailable(Exception):
    """The content has a name and a size, and no bytes."""


class Content(Protocol):
    """A file's bytes: its size, its digest, and any stretch of it on demand."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    @property
    def path(self) -> Path | None:
        """The file on disk that holds exactly these bytes, for sendfile(2); None when there is no such file."""

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """Bytes [start, end) in order, at most `BLOCK_BYTES` a piece. Raises ContentUnavailable."""

    def sha256(self) -> str:
        """Hex digest of the whole content."""


class Bytes:
    """Content that the test wrote down."""

    path: Path | None = None

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """See Content.blocks."""
        for at in range(start, end, BLOCK_BYTES):
            yield self._data[at : min(at + BLOCK_BYTES, end)]

    def sha256(self) -> str:
        """See Content.sha256."""
        return hashlib.sha256(self._data).hexdigest()


class PathFile:
    """Content of a file on disk, which must not change while it is served."""

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path
        self.size = path.stat().st_size
        self._path = path

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """See Content.blocks."""
        with self._path.open("rb") as file:
            for at in range(start, end, BLOCK_BYTES):
                yield memoryview(os.pread(file.fileno(), min(BLOCK_BYTES, end - at), at))

    @cached_property
    def _sha256(self) -> str:
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def sha256(self) -> str:
        """See Content.sha256."""
        return self._sha256


class SyntheticFile:
    """Pseudo-random content of any size, made by offset and never stored.

    The problem: a 2 GiB repository must be served at the speed of the loopback, from no memory. The easy way, one
    random block repeated, cannot show a downloader that writes a part at the wrong place. So every block is a window
    into one shared random pool, and the windows begin at places that do not recur: no two blocks of a file are alike,
    and each is a slice that nobody copies.
    """

    path: Path | None = None

    def __init__(self, size: int, seed: int = 0, *, head: bytes = b"") -> None:
        """Content of `size` bytes; `head` replaces its first bytes (a file magic); another seed is another content."""
        self.size = size
        self.seed = seed
        self.head = head[:size]

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """See Content.blocks."""
        if start < min(len(self.head), end):
            yield memoryview(self.head)[start:end]
            start = len(self.head)
        pool = _pool()
        while start < end:
            index, inside = divmod(start, BLOCK_BYTES)
            length = min(BLOCK_BYTES - inside, end - start)
            begin = (self.seed * 1_000_003 + index * POOL_STRIDE) % POOL_STARTS + inside
            yield pool[begin : begin + length]
            start += length

    def sha256(self) -> str:
        """See Content.sha256; computed once a process for each distinct file."""
        return _synthetic_sha256(self.size, self.seed, self.head)


class ListedFile:
    """A file that is listed with a size and a made-up digest, and never served."""

    path: Path | None = None

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self._seed = seed

    def blocks(self, start: int, end: int) -> Iterator[memoryview]:
        """Raises ContentUnavailable."""
        raise ContentUnavailable(f"a listed file of {self.size} bytes has no bytes to serve")

    def sha256(self) -> str:
        """A digest that depends on size and seed alone."""
        return hashlib.sha256(b"listed %d %d" % (self.size, self._seed)).hexdigest()


#: What a test may write where a file's content is wanted.
AnyContent = bytes | Path | Content


def as_content(value: AnyContent) -> Content:
    """The Content of bytes or of a path; a Content is returned as it is."""
    if isinstance(value, bytes):
        return Bytes(value)
    if isinstance(value, Path):
        return PathFile(value)
    return value


def read_all(content: Content) -> bytes:
    """All bytes of a (small) content."""
    return b"".join(content.blocks(0, content.size))


@lru_cache(maxsize=1)
def _pool() -> memoryview:
    return memoryview(hashlib.shake_128(b"hub stand-in").digest(POOL_STARTS + BLOCK_BYTES))


@lru_cache(maxsize=1024)
def _synthetic_sha256(size: int, seed: int, head: bytes) -> str:
    digest = hashlib.sha256()
    for block in SyntheticFile(size, seed, head=head).blocks(0, size):
        digest.update(block)
    return digest.hexdigest()
