"""A pool for calls that block: a disk that does not answer keeps its threads, and nobody who asks."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from hive.downloads.threads import Threads
from hive.errors import ServerBusy, StoreMissing
from tests.support.waiting import AT_ONCE_S, wait_for_async

PATIENCE_S = 0.2


class Disk:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = 0

    def look(self) -> str:
        self.asked += 1
        self.answers.wait(60)
        return "found"


def test_who_asks_a_silent_disk_is_told_and_then_everybody_at_once_until_it_answers() -> None:
    async def run() -> None:
        disk, threads = Disk(), Threads("test", 2, 8, PATIENCE_S)
        told = await asyncio.gather(*(threads.run(disk.look) for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in told] == [StoreMissing] * 3
        asked = disk.asked
        began_s = time.monotonic()
        for _ in range(50):
            with pytest.raises(StoreMissing):
                await threads.run(disk.look)
        assert time.monotonic() - began_s < AT_ONCE_S
        assert disk.asked == asked == 2, "it was asked again"
        disk.answers.set()
        await wait_for_async(lambda: disk.asked == 3, "what waited for a thread is done")
        assert await threads.run(disk.look) == "found"
        threads.close()

    asyncio.run(run())


def test_what_comes_when_nobody_waits_any_more_is_let_go_of() -> None:
    async def run() -> None:
        disk, threads, left = Disk(), Threads("test", 2, 8, PATIENCE_S), list[str]()
        with pytest.raises(StoreMissing):
            await threads.run(disk.look, let_go=left.append)
        waiting = asyncio.create_task(threads.run(disk.look, let_go=left.append))
        await wait_for_async(lambda: disk.asked == 2)
        waiting.cancel()
        disk.answers.set()
        await wait_for_async(lambda: left == ["found", "found"], "both are let go of")
        assert await threads.run(disk.look, let_go=left.append) == "found"
        assert len(left) == 2, "what somebody has is theirs"
        threads.close()

    asyncio.run(run())


def test_one_slow_call_is_not_a_silent_disk() -> None:
    async def run() -> None:
        disk, threads = Disk(), Threads("test", 2, 8, PATIENCE_S)
        with pytest.raises(StoreMissing):
            await threads.run(disk.look)
        assert await threads.run(lambda: "there") == "there"
        disk.answers.set()
        threads.close()

    asyncio.run(run())


def test_a_long_call_may_take_its_time_and_counts_among_those_that_wait() -> None:
    async def run() -> None:
        disk, threads = Disk(), Threads("test", 1, 0, PATIENCE_S)
        long = asyncio.create_task(threads.run_long(disk.look))
        await wait_for_async(lambda: disk.asked == 1)
        with pytest.raises(ServerBusy):
            await threads.run(disk.look)
        done, _ = await asyncio.wait([long], timeout=2 * PATIENCE_S)
        assert not done
        disk.answers.set()
        assert await long == "found"
        threads.close()

    asyncio.run(run())


def test_what_a_call_raises_is_raised() -> None:
    async def run() -> None:
        threads = Threads("test", 1, 0)
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        threads.close()

    asyncio.run(run())
