"""What an HTTP process counts of itself, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.tracker import DownloadTracker
from hive.metrics import replica as replica_module
from hive.metrics.replica import Replica, ReplicaFigures, replica_registry, resident_bytes
from hive.redis.client import CommandThread, RedisClient
from hive.streams import writer
from hive.streams.fanout import Fanout
from hive.streams.many import ManyEndpoint
from hive.streams.stream import StreamEndpoint
from hive.wire import keys
from hive.wire.events import MAX_MESSAGE_CHARS
from tests.support.asgi_server import SMALL_BUFFER, Serving, read_to_end, read_until, running
from tests.support.downloads import claim, complete, create, download_context, downloading
from tests.support.waiting import DEADLINE_S, wait_for_async

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that hive runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def serving(redis_url: str) -> AsyncIterator[Serving]:
    async with running(redis_url, hands_over=True) as found:
        yield found


def counted(serving: Serving) -> Replica:
    """The replica that this server would be."""
    fanout, commands = serving.fanout, serving.fanout._commands
    tracker = fanout._tracker
    assert isinstance(tracker, DownloadTracker)
    return Replica(commands, fanout, serving.endpoint, ManyEndpoint(fanout, commands, tracker, 10))


async def test_streams_and_frames_are_counted(serving: Serving, downloads: DownloadContext) -> None:
    replica = counted(serving)
    download_id = create(downloads)
    clients = [serving.connect(download_id) for _ in range(3)]
    await serving.watched(3)
    assert replica.figures().streams == 3
    before = replica.figures()
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete("/x"), "/x")
    for client in clients:
        assert (await read_to_end(client)).endswith(b"0\r\n\r\n")
    await wait_for_async(lambda: replica.figures().streams_ended == 3)
    after = replica.figures()
    assert (after.streams, after.stalled_clients) == (0, 0)
    assert 3 <= after.frames_sent - before.frames_sent <= 6, "the claim may be overtaken by the end"
    assert after.pubsub_messages >= before.pubsub_messages + 2
    assert after.redis_round_trips >= before.redis_round_trips > 0


async def test_an_unknown_id_is_no_stream_that_has_ended(serving: Serving) -> None:
    client = serving.connect("0157ae14-8f03-41b1-bfc0-e465369dcd4d", headers="Connection: close\r\n")
    assert (await read_to_end(client)).startswith(b"HTTP/1.1 404")
    assert counted(serving).figures().streams_ended == 0


async def test_a_client_that_takes_nothing_is_counted_when_it_is_given_up(
    serving: Serving, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "STALL_TIMEOUT_S", 0.1)
    download_id = create(downloads)
    held = claim(downloads, download_id)
    serving.connect(download_id, receive_buffer=SMALL_BUFFER)
    await serving.watched()
    replica, seq = counted(serving), 2
    async with asyncio.timeout(DEADLINE_S):
        while not replica.figures().stalled_clients:
            downloads.claims.publish(held, seq, downloading(seq, message="m" * MAX_MESSAGE_CHARS))
            seq += 1
            await asyncio.sleep(0)
    await wait_for_async(lambda: replica.figures().streams == 0)
    assert (replica.figures().stalled_clients, replica.figures().streams_ended) == (1, 1)


async def test_a_client_that_goes_is_no_slow_one(serving: Serving, downloads: DownloadContext) -> None:
    client = serving.connect(create(downloads))
    await serving.watched()
    client.close()
    replica = counted(serving)
    await wait_for_async(lambda: replica.figures().streams_ended == 1)
    assert replica.figures().stalled_clients == 0


async def test_a_subscription_that_was_cut_is_counted_and_no_message_is_forgotten(
    serving: Serving, downloads: DownloadContext
) -> None:
    replica = counted(serving)
    client = serving.connect(create(downloads))
    await read_until(client, b'"status":"queued"')
    before = replica.figures()
    assert before.pubsub_reconnects == 0
    serving.fanout._subscription.abort()
    await wait_for_async(lambda: replica.figures().pubsub_reconnects == 1)
    assert replica.figures().pubsub_messages >= before.pubsub_messages
    create(downloads, "another")
    await wait_for_async(lambda: replica.figures().pubsub_messages > before.pubsub_messages)


async def test_a_replica_notes_its_figures_and_says_when_it_ends(
    serving: Serving, store: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "BEAT_INTERVAL_S", 0.05)
    replica = counted(serving)
    key = keys.replica(replica.figures().name)

    def noted() -> ReplicaFigures | None:
        return replica_registry(store).read(store.hgetall(key))

    def noted_after(moment_cpu_s: float) -> ReplicaFigures | None:
        return found if (found := noted()) and found.cpu_s > moment_cpu_s else None

    task = asyncio.create_task(replica.run())
    first = await wait_for_async(lambda: noted_after(0.0))
    assert first is not None
    later = await wait_for_async(lambda: noted_after(first.cpu_s))
    assert later is not None
    assert later.redis_round_trips > first.redis_round_trips
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await replica.leave()
    assert noted() is None
    assert store.smembers(keys.REPLICAS) == set()


async def test_without_redis_the_replica_goes_on_and_does_not_stumble(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "BEAT_INTERVAL_S", 0.01)
    url = "unix:///nonexistent/redis.sock"
    commands = CommandThread(url)
    downloads = download_context(commands.client, ended_ttl_s=60, max_queued=1, lease_s=6)
    fanout = Fanout(url, commands, downloads.tracker, keepalive_s=10)
    replica = Replica(
        commands, fanout, StreamEndpoint(fanout, 1), ManyEndpoint(fanout, commands, downloads.tracker, 10)
    )
    task = asyncio.create_task(replica.run())
    tried: list[object] = []
    write = replica.registry.beat

    def write_and_note(figures: ReplicaFigures) -> None:
        tried.append(figures)
        write(figures)

    monkeypatch.setattr(replica.registry, "beat", write_and_note)
    await wait_for_async(lambda: len(tried) > 2)
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await replica.leave()
    commands.close()
    assert "failed" not in caplog.text


async def test_a_late_event_loop_is_seen(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "LAG_INTERVAL_S", 0.01)
    replica = counted(serving)
    task = asyncio.create_task(replica.run())
    await wait_for_async(lambda: len(replica._lags_s) > 3)
    time.sleep(0.3)  # what the loop must never do
    await wait_for_async(lambda: max(replica._lags_s) >= 0.2)
    assert replica.figures().loop_lag_s >= 0.2
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_the_memory_is_that_of_this_process() -> None:
    assert 10_000_000 < resident_bytes() < 10_000_000_000
