"""Readiness: nobody needs a key to ask, and no rate holds them, so it must cost little however many ask."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from hive.api.background import announce_store_for_ever
from hive.api.metrics import look
from hive.api.services import Services, make_services
from hive.errors import RedisUnavailable
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from hive.settings import Settings
from tests.support.waiting import wait_for_async

ASKING = 200

pytestmark = pytest.mark.anyio


@pytest.fixture
async def services(own_redis: EmbeddedRedis, settings: Settings) -> AsyncIterator[Services]:
    made = make_services(settings, own_redis.url)
    task = asyncio.create_task(made.fanout.run())
    await wait_for_async(lambda: made.fanout.connected, "it is subscribed")
    made.store_health.compared = True
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    made.downloads.close()
    made.commands.close()


async def test_however_many_ask_at_once_redis_is_asked_once(services: Services) -> None:
    before = services.commands.round_trips
    assert await asyncio.gather(*(services.readiness.refusal() for _ in range(ASKING))) == [None] * ASKING
    assert services.commands.round_trips - before == 1
    assert await services.readiness.refusal() is None
    assert services.commands.round_trips - before == 2, "an answer is good for those who wait for it alone"


async def test_why_the_process_may_not_subscribe_is_told(services: Services, own_redis: EmbeddedRedis) -> None:
    with connect(own_redis.url) as redis:
        redis.execute_command("ACL", "SETUSER", "default", "resetchannels")
        redis.client_kill_filter(_type="pubsub")
        await wait_for_async(lambda: services.fanout.refused, "it is refused")
        refusal = await services.readiness.refusal()
        assert isinstance(refusal, RedisUnavailable)
        assert "NOPERM" in refusal.message
        redis.execute_command("ACL", "SETUSER", "default", "allchannels")
    await wait_for_async(lambda: services.fanout.connected, "it is subscribed again")
    assert services.fanout.refused == ""


async def test_before_the_store_was_compared_with_that_of_the_others_it_is_not_ready(services: Services) -> None:
    """A server that starts where a mount is missing would be asked, and answer of an empty folder."""
    services.store_health.compared = False
    refusal = await services.readiness.refusal()
    assert isinstance(refusal, RedisUnavailable)
    telling = asyncio.create_task(announce_store_for_ever(services))
    await wait_for_async(lambda: services.store_health.compared, "it is compared")
    assert await services.readiness.refusal() is None
    telling.cancel()


async def test_while_redis_is_silent_those_who_ask_take_no_place_from_others(
    services: Services, own_redis: EmbeddedRedis
) -> None:
    assert own_redis.pid is not None
    os.kill(own_redis.pid, signal.SIGSTOP)
    try:
        asked = [asyncio.create_task(services.readiness.refusal()) for _ in range(ASKING)]
        await wait_for_async(lambda: services.commands._waiting, "Redis is asked")
        assert services.commands._waiting == 1
        asked[0].cancel()  # a client that goes takes nobody's answer away
        refusals = (await asyncio.gather(*asked, return_exceptions=True))[1:]
    finally:
        os.kill(own_redis.pid, signal.SIGCONT)
    assert all(isinstance(refusal, RedisUnavailable) for refusal in refusals)
    async with asyncio.timeout(30):
        while await services.readiness.refusal() is not None:
            pass


async def test_a_full_redis_answers_so_the_server_is_ready_and_its_figures_say_how_full(
    services: Services, own_redis: EmbeddedRedis
) -> None:
    own = services.replica.figures()
    with connect(own_redis.url) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(RedisUnavailable, match="OOM"):
                await services.commands.run(services.replica.registry.beat, own)
            assert await services.readiness.refusal() is None
            assert await read_shown(services, "hive_store_up") == 0
            assert await read_shown(services, "hive_redis_memory_bytes") > 1
            assert await read_shown(services, "hive_redis_memory_limit_bytes") == 1
        finally:
            client.config_set("maxmemory", 0)


async def read_shown(services: Services, name: str) -> float:
    """A figure of a scrape."""
    text, _ = (await look(services)).encode("text/plain")
    (line,) = [line for line in text.decode().splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])
