"""A client that comes back, to a replica that knows less than the client does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hive.downloads.context import DownloadContext
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from hive.streams.pubsub import Subscription
from hive.streams.topic import Topic
from hive.wire import keys
from tests.support.downloads import claim, complete, create, downloading
from tests.support.replicas import LocalReplica
from tests.support.waiting import DEADLINE_S, wait_for_async
from tests.support.witness import Witness, watch

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def replica(redis: EmbeddedRedis, folder: Path) -> AsyncIterator[LocalReplica]:
    made = LocalReplica(redis.url, folder)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica whose messages are still on their way: it hears nothing, and does not know it."""

    async def hear_nothing(self: Subscription) -> None:
        self.connected = True
        await asyncio.Event().wait()

    monkeypatch.setattr(Subscription, "run", hear_nothing)


class Stays:
    """Somebody who holds a topic and does nothing."""

    def notify(self, topic: Topic) -> None:
        """Ignored."""

    admit = withdraw = notify

    def keep_alive(self) -> None:
        """Ignored."""

    def abort(self) -> None:
        raise AssertionError("hive failed to tell it something")


async def seen(witness: Witness) -> None:
    await wait_for_async(lambda: witness.seen, "an event")


@pytest.mark.usefixtures("deaf")
async def test_what_a_client_has_seen_elsewhere_does_not_go_back_here(
    own_redis: EmbeddedRedis, own_downloads: DownloadContext, tmp_path: Path
) -> None:
    download_id = create(own_downloads)
    held = claim(own_downloads, download_id)
    async with replica(own_redis, tmp_path) as here:
        stays, returns = Witness(), Witness()
        connection = await watch(here.url, download_id, stays)
        await seen(stays)
        own_downloads.claims.publish(held, 2, downloading(70))
        own_downloads.claims.publish(held, 3, downloading(80))
        again = await watch(here.url, download_id, returns, last_event_id=f"{held.fence}-2")
        await seen(returns)
        assert returns.seen == [(held.fence, 3)], "it was shown the past"
        connection.leave()
        again.leave()


@pytest.mark.usefixtures("deaf")
async def test_a_client_that_has_seen_the_end_elsewhere_gets_204_here(
    own_redis: EmbeddedRedis, own_downloads: DownloadContext, tmp_path: Path
) -> None:
    download_id = create(own_downloads)
    held = claim(own_downloads, download_id)
    async with replica(own_redis, tmp_path) as here:
        stays, returns = Witness(), Witness()
        connection = await watch(here.url, download_id, stays)
        await seen(stays)
        own_downloads.claims.finish(held, 2, "complete", complete(), "/x")
        again = await watch(here.url, download_id, returns, last_event_id=f"{held.fence}-2")
        assert again.answered.result() == 204
        assert not returns.seen
        connection.leave()
        again.leave()


async def test_a_last_event_id_from_nowhere_changes_nothing(
    own_redis: EmbeddedRedis, own_downloads: DownloadContext, tmp_path: Path
) -> None:
    """It may be a stranger's, or of a record that Redis has lost: the present state comes all the same."""
    download_id = create(own_downloads)
    async with replica(own_redis, tmp_path) as here:
        for last_event_id in ("99999999999999-1", "-1-1", "0", "x" * 5000):
            witness = Witness()
            connection = await watch(here.url, download_id, witness)
            await seen(witness)
            connection.leave()
            witness = Witness()
            connection = await watch(here.url, download_id, witness, last_event_id=last_event_id)
            await seen(witness)
            connection.leave()


async def test_the_end_of_an_id_that_redis_lost_has_an_id_that_can_be_read(
    own_redis: EmbeddedRedis, own_downloads: DownloadContext, tmp_path: Path
) -> None:
    """Held while Redis is away, and unknown when it is back: the id of that end is a version like all others."""
    download_id = create(own_downloads)
    async with replica(own_redis, tmp_path) as here:
        own_redis.kill()
        witness = Witness()
        connection = await watch(here.url, download_id, witness)
        assert connection.answered.result() == 200
        for entry in own_redis.data_dir.glob("appendonlydir/*"):
            entry.unlink()
        own_redis.launch()
        await asyncio.wait_for(connection.over, DEADLINE_S)
        assert witness.done == 1
        assert witness.wrong == []


@pytest.mark.usefixtures("deaf")
async def test_nor_does_it_go_back_where_redis_cannot_be_asked(
    own_redis: EmbeddedRedis, own_downloads: DownloadContext, tmp_path: Path
) -> None:
    """The replica has a slot, which is old, and no way to know: it gives the stream and keeps the slot to itself."""
    download_id = create(own_downloads)
    held = claim(own_downloads, download_id)
    async with replica(own_redis, tmp_path) as here:
        stays, returns = Witness(), Witness()
        connection = await watch(here.url, download_id, stays)
        await seen(stays)
        own_downloads.claims.publish(held, 2, downloading(70))
        own_redis.kill()
        again = await watch(here.url, download_id, returns, last_event_id=f"{held.fence}-2")
        assert again.answered.result() == 200
        await wait_for_async(lambda: returns.comments or returns.seen, "a frame")
        assert not returns.seen, "it was shown the past"
        connection.leave()
        again.leave()


@pytest.mark.usefixtures("deaf")
async def test_nor_where_redis_has_lost_the_record(
    own_redis: EmbeddedRedis, own_downloads: DownloadContext, tmp_path: Path
) -> None:
    """The replica's slot is old, and there is nothing to compare it with until somebody brings the record back."""
    download_id = create(own_downloads)
    held = claim(own_downloads, download_id)
    async with replica(own_redis, tmp_path) as here:
        stays, returns = Witness(), Witness()
        connection = await watch(here.url, download_id, stays)
        await seen(stays)
        with connect(own_redis.url) as client:
            client.delete(keys.record(download_id))
        again = await watch(here.url, download_id, returns, last_event_id=f"{held.fence}-2")
        assert again.answered.result() == 200
        await wait_for_async(lambda: returns.comments or returns.seen, "a frame")
        assert not returns.seen, "it was shown the past"
        connection.leave()
        again.leave()


async def test_a_client_that_is_ahead_of_an_end_is_not_left_waiting(
    own_redis: EmbeddedRedis, own_downloads: DownloadContext, tmp_path: Path
) -> None:
    """Redis had lost the record, it was made again, and this replica still holds the end of its first life. Nothing
    newer can come to that topic: the client gets an end, or is sent to connect again.
    """
    download_id = create(own_downloads)
    held = claim(own_downloads, download_id)
    async with replica(own_redis, tmp_path) as here:
        topic = await here.services.fanout.join(download_id, Stays())
        assert topic is not None
        own_downloads.claims.finish(held, 2, "complete", complete(), "/x")
        await wait_for_async(lambda: topic.terminal, "the end")
        own_redis.kill()
        connection = await watch(here.url, download_id, Witness(), last_event_id=f"{held.fence + 1}-1")
        try:
            assert await asyncio.wait_for(connection.over, DEADLINE_S), "the stream was cut"
        finally:
            connection.leave()
