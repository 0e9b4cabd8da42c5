"""A file while it is fetched: how far it is handed out, and that what is wrong is never handed out whole."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.doors.growing import HELD_BACK_BYTES, LOOK_S, GrowingFile, GrowingFiles, until_next_look
from hive.downloads.wrong_digests import WrongDigests
from hive.redis.client import CommandThread
from hive.store.frontier import JournalTail
from hive.store.given_up import note_given_up
from tests.support.waiting import DEADLINE_S, wait_for_async

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(300_000)
ETAG = hashlib.sha256(CONTENT).hexdigest()
FOLDER = "models--org--name"


class World:
    """A store in which a file is being fetched, as a worker leaves it."""

    def __init__(self, root: Path) -> None:
        self.hub, self.hive = root / "hub", root / "hive"
        self.partial = self.hive / "partial" / ETAG
        self.blob = self.hub / FOLDER / "blobs" / ETAG
        for folder in (self.partial.parent, self.blob.parent):
            folder.mkdir(parents=True)

    def write(self, content: bytes, *extents: tuple[int, int]) -> None:
        """Bytes at their places, preallocated, and a line of the journal."""
        part = self.partial.with_name(f"{ETAG}.part")
        if not part.exists():
            part.write_bytes(bytes(len(CONTENT)))
        with part.open("r+b") as file:
            for start, end in extents:
                file.seek(start)
                file.write(content[start:end])
        self.append({"w": [[start, end, 0] for start, end in extents]})

    def append(self, record: object, *, torn: bool = False) -> None:
        """A line of the journal, or half of one."""
        text = json.dumps(record).encode()
        line = b"%08x %b\n" % (zlib.crc32(text), text)
        with self.partial.with_name(f"{ETAG}.journal").open("ab") as file:
            file.write(line[: len(line) // 2] if torn else line)

    def publish(self) -> None:
        """The file is right, as the worker says."""
        self.partial.with_name(f"{ETAG}.part").rename(self.blob)
        self.partial.with_name(f"{ETAG}.journal").unlink()

    def growing(self) -> GrowingFile:
        return GrowingFile(self.hub, self.hive, FOLDER, ETAG, len(CONTENT), "id")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def marks(redis_url: str) -> Iterator[WrongDigests]:
    commands = CommandThread(redis_url)
    yield WrongDigests(commands)
    commands.close()


async def until_marked(files: GrowingFiles) -> None:
    """Until another server knows that the digest was wrong."""
    async with asyncio.timeout(DEADLINE_S):
        while not await files.was_wrong(ETAG):
            await asyncio.sleep(0.01)


async def test_a_file_that_moves_is_looked_at_again_soon_and_one_that_stands_still_seldom() -> None:
    soon = until_next_look(LOOK_S, brought=True)
    waits = [soon]
    while waits[-1] < LOOK_S:
        waits.append(until_next_look(waits[-1], brought=False))
    assert (len(waits), waits[-1], until_next_look(LOOK_S, brought=False)) == (4, LOOK_S, LOOK_S)
    assert soon <= LOOK_S / 5


async def test_it_is_handed_out_as_far_as_there_is_no_gap_and_the_end_waits_for_the_digest(world: World) -> None:
    file = world.growing()
    file.look()
    assert file.limit == 0
    world.write(CONTENT, (0, 1000), (2000, 5000))
    file.look()
    assert file.limit == 1000
    world.write(CONTENT, (1000, 2000))
    file.look()
    assert file.limit == 5000
    world.write(CONTENT, (5000, len(CONTENT) - 1))
    file.look()
    assert file.limit == len(CONTENT) - HELD_BACK_BYTES
    world.write(CONTENT, (len(CONTENT) - 1, len(CONTENT)))
    file.look()
    assert (file.limit, file.is_over, file.is_wrong) == (len(CONTENT), True, False)
    assert os.pread(file.fd, len(CONTENT), 0) == CONTENT
    file.done()


async def test_what_was_published_is_handed_out_whole_from_the_same_file(world: World) -> None:
    file = world.growing()
    world.write(CONTENT, (0, 200_000))
    file.look()
    before = os.fstat(file.fd).st_ino
    world.write(CONTENT, (200_000, len(CONTENT)))
    world.publish()
    file.look()
    assert file.limit == len(CONTENT)
    assert os.fstat(file.fd).st_ino == before
    file.done()


async def test_bytes_that_were_given_up_count_as_wrong_whoever_handed_them_out(
    world: World, marks: WrongDigests
) -> None:
    file = world.growing()
    world.write(CONTENT, (0, 200_000))
    file.look()
    note_given_up(world.hive, ETAG)
    world.write(CONTENT, (200_000, len(CONTENT)))
    file.look()
    assert (file.limit <= len(CONTENT) - HELD_BACK_BYTES, file.is_wrong) == (True, True)
    file.done()
    # Another server, to which nobody has said anything, hands it out whole; and who comes for the rest gets it so.
    another = GrowingFiles(world.hub, world.hive, marks)
    assert await another.was_wrong(ETAG)
    later = world.growing()
    later.look()
    assert later.limit == len(CONTENT)
    later.done()
    note = world.hive / "given-up" / ETAG
    os.utime(note, (0, 0))
    assert not await another.was_wrong(ETAG)
    note_given_up(world.hive, "0" * 40)
    assert not note.exists()
    another.close()


@pytest.mark.parametrize("published", [False, True])
async def test_a_wrong_byte_keeps_the_end_back_and_marks_the_digest(
    world: World, marks: WrongDigests, published: bool
) -> None:
    """Also where the worker has put another file in its place meanwhile, which is right; and for other servers."""
    wrong = bytearray(CONTENT)
    wrong[100] ^= 1
    files, ended = GrowingFiles(world.hub, world.hive, marks), False

    async def standing() -> bool | None:
        return True if ended else None

    async def never() -> None:
        raise AssertionError("it was not brought")

    world.write(bytes(wrong), (0, 200_000))
    file = files.follow(FOLDER, ETAG, len(CONTENT), "id", standing, never)
    assert files.follow(FOLDER, ETAG, len(CONTENT), "id", standing, never) is file
    await wait_for_async(lambda: file.limit == 200_000)
    assert not await files.was_wrong(ETAG)
    if published:
        world.blob.write_bytes(CONTENT)
    else:
        world.write(bytes(wrong), (200_000, len(CONTENT)))
    await wait_for_async(lambda: file.is_wrong)
    await until_marked(GrowingFiles(world.hub, world.hive, marks))
    assert await files.was_wrong(ETAG)
    assert file.limit <= len(CONTENT) - HELD_BACK_BYTES
    files.close()


async def test_what_ends_without_the_file_marks_what_was_handed_out(world: World, marks: WrongDigests) -> None:
    files, ended = GrowingFiles(world.hub, world.hive, marks), False

    async def standing() -> bool | None:
        return False if ended else None

    async def never() -> None:
        raise AssertionError("it was not brought")

    world.write(CONTENT, (0, 1000))
    file = files.follow(FOLDER, ETAG, len(CONTENT), "id", standing, never)
    await wait_for_async(lambda: file.limit == 1000)
    ended = True
    await wait_for_async(lambda: file.failed)
    await until_marked(GrowingFiles(world.hub, world.hive, marks))
    assert await files.was_wrong(ETAG)
    files.close()


async def test_a_journal_is_believed_line_by_line(world: World) -> None:
    tail = JournalTail(world.hive, ETAG)
    assert tail.frontier() == 0
    world.write(CONTENT, (0, 10))
    world.append({"w": "nonsense"})
    world.append({"w": [[10, 5, 0], [1], [-5, 50, 0]]})
    world.append({"w": [[10, 20, 0]]}, torn=True)
    assert tail.frontier() == 10
    world.partial.with_name(f"{ETAG}.journal").rename(world.partial.with_name("old"))
    world.write(CONTENT, (0, 5))
    assert tail.frontier() == 5  # begun anew: what the old one said counts no more
