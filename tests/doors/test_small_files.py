"""Small files that are asked for in the same moment are asked for together."""

from __future__ import annotations

import asyncio

import pytest

from hive.doors.small_files import MAX_FILES, BatchKey, SmallFiles
from hive.downloads.provisioner import Provisioned

pytestmark = pytest.mark.anyio

KEY: BatchKey = ("org/name", "c" * 40, b"", "")
OTHER: BatchKey = ("org/name", "c" * 40, b"token", "")


class Asked:
    """What was asked for, in its order."""

    def __init__(self) -> None:
        self.paths: list[tuple[str, ...]] = []
        self.error: Exception | None = None

    async def __call__(self, paths: tuple[str, ...]) -> Provisioned:
        self.paths.append(paths)
        if self.error is not None:
            raise self.error
        return Provisioned(f"{len(self.paths)}", None, joined=False)


async def test_those_of_one_commit_and_caller_are_one_download() -> None:
    small, asked = SmallFiles(), Asked()
    names = [f"{number}" for number in range(MAX_FILES)]
    calls = [small.request(KEY, name, asked) for name in (*names, "late", "late")]
    found = await asyncio.gather(*calls, small.request(OTHER, "a", asked))
    assert sorted(asked.paths, key=len) == [("late",), ("a",), tuple(names)]
    assert len({each.download_id for each in found}) == 3
    await small.request(KEY, "later", asked)
    assert asked.paths[-1] == ("later",)


async def test_after_a_failure_each_is_asked_for_alone_and_an_error_reaches_all() -> None:
    small, asked = SmallFiles(), Asked()
    asked.error = ValueError("no")
    found = await asyncio.gather(*(small.request(KEY, name, asked) for name in "ab"), return_exceptions=True)
    assert [str(each) for each in found] == ["no", "no"]
    asked.error = None
    small.failed(KEY)
    await asyncio.gather(*(small.request(KEY, name, asked) for name in "ab"))
    assert asked.paths == [("a", "b"), ("a",), ("b",)]
