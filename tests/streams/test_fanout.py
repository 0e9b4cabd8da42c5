"""Fan-out over a real Redis: what a subscriber sees, whenever it comes and whatever happens to the connection."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import threading
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from starlette.types import Message as AsgiMessage

from hive.auth.principal import ANONYMOUS, PRINCIPAL
from hive.downloads.context import DownloadContext
from hive.downloads.record import TopicState
from hive.errors import RedisUnavailable
from hive.redis.client import CommandThread, RedisClient, connect
from hive.streams import fanout as fanout_module
from hive.streams import heartbeat
from hive.streams import many as many_module
from hive.streams.fanout import Fanout
from hive.streams.many import ManyEndpoint, ManyStream
from hive.streams.right_of_way import RightOfWay
from hive.streams.sse import StreamRequest
from hive.streams.topic import Topic
from hive.wire import keys
from hive.wire.events import Message, Version, encode
from tests.support.downloads import claim, complete, create, download_context, downloading
from tests.support.waiting import DEADLINE_S, wait_for_async

pytestmark = pytest.mark.anyio


class Watcher:
    """A subscriber that notes the versions it is told of."""

    def __init__(self) -> None:
        self.seen: list[Version] = []
        self.ended = False
        self.kept_alive = 0

    def notify(self, topic: Topic) -> None:
        if not self.seen or topic.version > self.seen[-1]:
            self.seen.append(topic.version)
            self.ended = topic.terminal

    admit = withdraw = notify

    def keep_alive(self) -> None:
        self.kept_alive += 1

    def abort(self) -> None:
        raise AssertionError("hive failed to tell it something")


@contextlib.asynccontextmanager
async def running(url: str, keepalive_s: float = 10.0, way: RightOfWay | None = None) -> AsyncIterator[Fanout]:
    commands = CommandThread(url)
    downloads = download_context(commands.client, ended_ttl_s=60, max_queued=100, lease_s=6)
    fanout = Fanout(url, commands, downloads.tracker, keepalive_s=keepalive_s, way=way)
    task = asyncio.create_task(fanout.run())
    try:
        await wait_for_async(lambda: fanout.connected)
        yield fanout
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        commands.close()


async def join(fanout: Fanout, download_id: str) -> Watcher:
    watcher = Watcher()
    topic = await fanout.join(download_id, watcher)
    assert topic is not None
    watcher.notify(topic)
    return watcher


async def test_a_subscriber_sees_the_present_state_then_each_change_then_the_end(
    redis_url: str, downloads: DownloadContext
) -> None:
    download_id = create(downloads)
    async with running(redis_url) as fanout:
        watcher = await join(fanout, download_id)
        assert len(watcher.seen) == 1
        held = claim(downloads, download_id)
        await wait_for_async(lambda: watcher.seen[-1] == (held.fence, 1))
        downloads.claims.publish(held, 2, downloading(10))
        await wait_for_async(lambda: watcher.seen[-1] == (held.fence, 2))
        downloads.claims.finish(held, 3, "complete", complete(), "/x")
        await wait_for_async(lambda: watcher.ended)
    assert watcher.seen == sorted(set(watcher.seen))


async def test_the_way_is_taken_while_subscribers_are_told_and_free_behind_it(
    redis_url: str, downloads: DownloadContext
) -> None:
    download_id, seen = create(downloads), list[bool]()

    class Way(RightOfWay):
        @contextlib.contextmanager
        def taken(self) -> Iterator[None]:
            self.is_taken = True
            yield
            self.is_taken = False

    class Told(Watcher):
        def notify(self, topic: Topic) -> None:
            super().notify(topic)
            seen.append(getattr(way, "is_taken", False))

    way = Way()
    async with running(redis_url, way=way) as fanout:
        topic = await fanout.join(download_id, Told())
        assert topic is not None
        held = claim(downloads, download_id)
        downloads.claims.publish(held, 2, downloading(10))
        await wait_for_async(lambda: bool(seen))
        await wait_for_async(lambda: not way.is_taken)
    assert set(seen) == {True}


async def test_a_late_subscriber_sees_the_end_at_once(redis_url: str, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    async with running(redis_url) as fanout:
        watcher = await join(fanout, download_id)
        assert watcher.ended


async def test_an_unknown_id_is_no_topic_and_leaves_none(redis_url: str) -> None:
    async with running(redis_url) as fanout:
        assert await fanout.join(str(uuid.uuid4()), Watcher()) is None
        assert fanout.subscribers == set()


async def test_a_topic_goes_with_its_last_subscriber(redis_url: str, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    async with running(redis_url) as fanout:
        one, two = Watcher(), Watcher()
        topic = await fanout.join(download_id, one)
        assert topic is await fanout.join(download_id, two)
        assert topic is not None
        fanout.leave(topic, one)
        assert fanout.subscribers == {two}
        fanout.leave(topic, two)
        assert await fanout.join(download_id, one) is not topic


async def test_a_thousand_joins_at_once_cost_one_read(
    redis_url: str, downloads: DownloadContext, store: RedisClient
) -> None:
    download_id = create(downloads)
    async with running(redis_url) as fanout:
        before = store.info("commandstats")["cmdstat_hmget"]["calls"]
        watchers = await asyncio.gather(*(join(fanout, download_id) for _ in range(1000)))
        assert all(len(watcher.seen) == 1 for watcher in watchers)
        assert store.info("commandstats")["cmdstat_hmget"]["calls"] - before <= 2


async def test_what_was_said_while_the_connection_was_away_is_read_again(
    redis_url: str, downloads: DownloadContext, store: RedisClient
) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    async with running(redis_url) as fanout:
        watcher = await join(fanout, download_id)
        for seq in range(2, 12):
            store.client_kill_filter(_type="pubsub")
            downloads.claims.publish(held, seq, downloading(seq))
        store.client_kill_filter(_type="pubsub")
        downloads.claims.finish(held, 12, "complete", complete(), "/x")
        await wait_for_async(lambda: watcher.ended)
    assert watcher.seen[-1] == (held.fence, 12)


async def test_an_end_during_the_subscribe_is_not_lost(redis_url: str, downloads: DownloadContext) -> None:
    async with running(redis_url) as fanout:
        for n in range(50):
            download_id = create(downloads, f"model-{n}")
            held = claim(downloads, download_id)
            joining = asyncio.create_task(join(fanout, download_id))
            await asyncio.sleep(0)
            downloads.claims.finish(held, 2, "complete", complete(), "/x")
            watcher = await joining
            await wait_for_async(lambda watcher=watcher: watcher.ended)  # type: ignore[misc]


async def test_silence_makes_it_look_again(
    redis_url: str, downloads: DownloadContext, store: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message can be lost although every connection lives: the record is written, and nobody is told."""
    monkeypatch.setattr(fanout_module, "SILENCE_S", 0.2)
    monkeypatch.setattr(fanout_module, "TICK_S", 0.05)
    download_id = create(downloads)
    async with running(redis_url) as fanout:
        watcher = await join(fanout, download_id)
        store.hset(
            keys.record(download_id),
            mapping={"fence": 2**50, "seq": 7, "terminal": 1, "event": b'{"stage":"complete"}'},
        )
        await wait_for_async(lambda: watcher.ended)
        assert watcher.seen[-1] == (2**50, 7)


async def test_the_silent_are_kept_alive(
    redis_url: str, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout_module, "TICK_S", 0.05)
    download_id = create(downloads)
    async with running(redis_url, keepalive_s=0.2) as fanout:
        watcher = await join(fanout, download_id)
        await wait_for_async(lambda: watcher.kept_alive >= 3)


async def test_a_record_that_redis_lost_ends_its_streams_after_a_while(
    redis_url: str, downloads: DownloadContext, store: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SILENCE_S", 0.1), ("TICK_S", 0.05), ("MISSING_S", 0.5)):
        monkeypatch.setattr(fanout_module, name, value)
    download_id = create(downloads)
    async with running(redis_url) as fanout:
        watcher = Watcher()
        topic = await fanout.join(download_id, watcher)
        store.delete(keys.record(download_id))
        await wait_for_async(lambda: watcher.ended)
        assert topic is not None
        assert b"DOWNLOAD_NOT_FOUND" in topic.encode(0)


class Answers:
    """Reads that are answered one by one with what stands here: Redis is away, has nothing, or has a record."""

    def __init__(self, *answers: TopicState | Exception | None) -> None:
        self.left = list(answers)
        self.asked = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def read_states(self, ids: Iterable[str]) -> list[TopicState | None]:
        self.asked.set()
        assert self.go.wait(DEADLINE_S)
        answer = self.left.pop(0) if self.left else None
        if isinstance(answer, Exception):
            raise answer
        return [answer for _ in ids]


QUEUED = TopicState(Message(Version(3, 1), False, encode(downloading(0))), ())


@contextlib.asynccontextmanager
async def answering(url: str, answers: Answers) -> AsyncIterator[Fanout]:
    commands = CommandThread(url)
    fanout = Fanout(url, commands, answers, keepalive_s=10.0)
    task = asyncio.create_task(fanout.run())
    try:
        await wait_for_async(lambda: fanout.connected)
        yield fanout
    finally:
        answers.go.set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        commands.close()


async def test_who_comes_after_the_end_of_an_unknown_id_finds_the_record_that_is_back(redis_url: str) -> None:
    """Also while somebody slow still has that end before him."""
    answers = Answers(RedisUnavailable(), None, QUEUED)
    async with answering(redis_url, answers) as fanout:
        slow, next_one = Watcher(), Watcher()
        topic = await fanout.join("an-id", slow)
        assert topic is not None
        await wait_for_async(lambda: slow.ended)
        later = await fanout.join("an-id", next_one)
        assert later is not None
        assert later is not topic
        assert (later.version, later.terminal) == (QUEUED.message.version, False)


async def test_a_read_that_is_older_than_who_comes_does_not_tell_him_that_the_id_is_unknown(redis_url: str) -> None:
    answers = Answers(RedisUnavailable(), None, QUEUED)
    async with answering(redis_url, answers) as fanout:
        first, second = Watcher(), Watcher()
        topic = await fanout.join("an-id", first)
        assert topic is not None
        answers.asked.clear()
        answers.go.clear()
        await wait_for_async(answers.asked.is_set)  # it looks again by itself, and this look will find nothing
        coming = asyncio.create_task(fanout.join("an-id", second))
        await wait_for_async(lambda: second in fanout.subscribers)
        answers.go.set()
        assert await coming is topic
        assert (topic.version, topic.terminal) == (QUEUED.message.version, False)
        assert not first.ended


def many(fanout: Fanout) -> ManyEndpoint:
    return ManyEndpoint(fanout, fanout._commands, download_context(fanout._commands.client).tracker, 10.0)


async def ask(streams: ManyEndpoint, *ids: str) -> list[AsgiMessage]:
    """What a client is sent that has gone before it is answered."""
    sent: list[AsgiMessage] = []

    async def receive() -> AsgiMessage:
        return {"type": "http.disconnect"}

    async def send(message: AsgiMessage) -> None:
        sent.append(message)

    scope = {"type": "http", "client": ("127.0.0.1", 1), PRINCIPAL: ANONYMOUS}
    await streams(ids, None, StreamRequest(), scope, receive, send)
    return sent


async def test_a_stream_of_several_that_goes_while_redis_is_away_leaves_nothing_behind(redis_url: str) -> None:
    """It is on a topic of which it was told nothing."""
    async with answering(redis_url, Answers(*[RedisUnavailable()] * 1000)) as fanout:
        streams = many(fanout)
        head, *_ = await ask(streams, "an-id")
        assert head["status"] == 200
        assert (streams.open_streams, fanout.subscribers) == (0, set())


@pytest.mark.parametrize("why", ["full", "draining"])
async def test_who_asks_for_several_of_a_server_that_is_full_or_stops_is_to_come_back(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async with running(redis_url) as fanout:
        streams = many(fanout)
        if why == "full":
            monkeypatch.setattr(many_module, "MAX_MANY_STREAMS", 0)
        else:
            streams.drain()
        head, body = await ask(streams)
        assert (head["status"], body) == (
            200,
            {"type": "http.response.body", "body": b"retry: 5000\n\n", "more_body": False},
        )
        assert streams.open_streams == 0


async def test_a_stream_for_all_that_goes_before_it_is_told_leaves_nothing_behind(
    redis_url: str, downloads: DownloadContext
) -> None:
    async with running(redis_url) as fanout:
        stream = ManyStream(many(fanout), None, ANONYMOUS, 10.0, with_ids=True)
        fanout.watch_all(stream, ANONYMOUS)
        fanout._on_message(keys.events("an-id", fanout._database).encode(), b"3-1 0 {}")
        assert fanout.subscribers == {stream}
        stream.on_gone()
        assert fanout.subscribers == set()
        topic = await fanout.join(create(downloads), stream)
        assert topic is not None
        stream.notify(topic)  # it was put on this one by what was under way when it went
        assert fanout.subscribers == set()


async def test_a_dead_subscription_is_found_by_the_heartbeat(
    redis_url: str, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing says that the connection is dead: Redis forgets the subscription, the socket stays open."""
    for name, value in (("INTERVAL_AFTER_OUTAGE_S", 0.1), ("INTERVAL_S", 0.1), ("TIMEOUT_S", 0.3)):
        monkeypatch.setattr(heartbeat, name, value)
    download_id = create(downloads)
    held = claim(downloads, download_id)
    async with running(redis_url) as fanout:
        watcher = await join(fanout, download_id)
        subscription = fanout._subscription
        dead = subscription._protocol
        assert dead is not None
        monkeypatch.setattr(dead, "data_received", lambda data: None)
        assert dead.transport is not None
        dead.transport.pause_reading()
        downloads.claims.publish(held, 2, downloading(10))
        await wait_for_async(lambda: watcher.seen[-1] == (held.fence, 2))
        assert subscription._protocol is not dead


async def test_one_command_that_failed_does_not_cost_a_subscription_that_works(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beat before lies as far back as in calm, which is longer than a beat may take after an outage."""
    for name, value in (("INTERVAL_AFTER_OUTAGE_S", 0.1), ("INTERVAL_S", 600.0)):
        monkeypatch.setattr(heartbeat, name, value)

    def fails() -> None:
        raise RedisConnectionError

    async with running(redis_url) as fanout:
        fanout._heartbeat._heard_s -= 4.0
        before = fanout.messages_received
        with pytest.raises(RedisUnavailable):
            await fanout._commands.run(fails)
        await wait_for_async(lambda: fanout.messages_received > before, "the beat that follows is heard")
        assert fanout.connected
        assert fanout.reconnects == 0


@pytest.mark.parametrize("mine", [0, 1])
async def test_two_hives_in_two_databases_of_one_redis_do_not_hear_each_other(redis_url: str, mine: int) -> None:
    """Redis has channels for all databases together, and the pattern of either must not take the other's."""
    urls = [f"{redis_url}?db={number}" for number in (0, 1)]
    async with running(urls[mine]) as listens, running(urls[1 - mine]) as must_not:
        with connect(urls[mine]) as client:
            downloads = download_context(client)
            download_id = create(downloads)
            watcher = await join(listens, download_id)
            heard, heard_elsewhere = listens.messages_received, must_not.messages_received
            held = claim(downloads, download_id)
            for seq in range(2, 12):
                downloads.claims.publish(held, seq, downloading(seq))
            downloads.claims.finish(held, 12, "complete", complete(), "/x")
            await wait_for_async(lambda: watcher.ended)
            assert listens.messages_received >= heard + 12
            assert must_not.messages_received <= heard_elsewhere + 2, "probes of its own, and nothing else"


async def test_channels_of_database_0_have_the_names_of_the_first_release() -> None:
    assert (keys.events("x", 0), keys.DOWNLOAD_CHANNELS.pattern(0)) == ("hive:events:{x}", "hive:events:*")
    assert not fnmatch.fnmatch(keys.events("x", 7), keys.DOWNLOAD_CHANNELS.pattern(0))
    assert keys.DOWNLOAD_CHANNELS.id_of(keys.events("x", 7).encode(), 7) == "x"
    assert keys.DOWNLOAD_CHANNELS.id_of(keys.events("x", 7).encode(), 0) is None
    assert keys.DOWNLOAD_CHANNELS.id_of(keys.events("x", 0).encode(), 7) is None


async def test_what_was_published_before_has_been_heard_by_who_has_caught_up(
    redis_url: str, downloads: DownloadContext
) -> None:
    held = claim(downloads, create(downloads))
    async with running(redis_url) as fanout:
        heard, published = fanout.messages_received, 500
        # The loop is kept from hearing anything meanwhile.
        for seq in range(2, 2 + published):
            downloads.claims.publish(held, seq, downloading(seq))
        await fanout.catch_up()
        assert fanout.messages_received >= heard + published


async def test_nobody_waits_to_catch_up_with_a_lost_subscription(redis_url: str, store: RedisClient) -> None:
    async with running(redis_url) as fanout:
        waiting = asyncio.create_task(fanout.catch_up())
        store.client_kill_filter(_type="pubsub")
        async with asyncio.timeout(DEADLINE_S):
            await waiting
            await wait_for_async(lambda: not fanout.connected or fanout.reconnects > 0)
            await fanout.catch_up()
