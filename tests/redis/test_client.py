"""The one thread in which the HTTP process talks to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hive import logs
from hive.redis.client import CommandThread

pytestmark = pytest.mark.anyio


@pytest.fixture
async def commands(redis_url: str) -> AsyncIterator[CommandThread]:
    made = CommandThread(redis_url)
    yield made
    made.close()


async def test_what_a_call_logs_carries_the_ids_of_its_request(commands: CommandThread) -> None:
    with logs.bound(request_id="r-1"):
        assert await commands.run(logs.bound_field, "request_id") == "r-1"
    assert await commands.run(logs.bound_field, "request_id") == ""


async def test_every_thing_sent_is_a_round_trip_and_a_pipeline_is_one(commands: CommandThread) -> None:
    def pipeline() -> None:
        with commands.client.pipeline(transaction=False) as pipe:
            for _ in range(10):
                pipe.ping()
            pipe.execute()

    await commands.run(commands.client.ping)
    connected = commands.round_trips
    await commands.run(commands.client.ping)
    assert commands.round_trips == connected + 1
    await commands.run(pipeline)
    assert commands.round_trips == connected + 2


async def test_a_cancellation_that_comes_with_the_answer_is_not_lost(commands: CommandThread) -> None:
    """A loop that went on all the same would keep its process from ending."""
    for attempt in range(400):
        task = asyncio.create_task(commands.run(int, "1"))
        for _ in range(attempt % 40):
            await asyncio.sleep(0)
        if task.cancel():
            await asyncio.wait([task])
            assert task.cancelled(), f"after {attempt % 40} turns of the loop"
