"""The dispatcher in the test's own loop: what a server over the loopback cannot be made to meet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.events import cancelled_event
from hive.errors import RedisUnavailable
from hive.net.urls import parse_url
from hive.redis.client import CommandThread, RedisClient
from hive.secrets import ensure_key
from hive.settings import Settings
from hive.webhooks import dispatcher as dispatcher_module
from hive.webhooks.dispatcher import SPARE_TRIES, WebhookDispatcher
from hive.webhooks.outbox import WebhookOutbox
from hive.webhooks.signature import sign
from hive.wire import keys
from tests.support.downloads import create, download_context
from tests.support.waiting import wait_for_async
from tests.support.webhook_receiver import Receiver, Reply, nothing_due

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def sending(settings: Settings) -> AsyncIterator[WebhookOutbox]:
    """A dispatcher at work, and what it looks at."""
    assert settings.redis_url is not None
    commands = CommandThread(settings.redis_url)
    webhooks = WebhookOutbox(commands.client, settings)
    downloads = download_context(commands.client, ended_ttl_s=60, max_queued=10, lease_s=6)
    task = asyncio.create_task(WebhookDispatcher(settings, commands, downloads.tracker, webhooks).run())
    try:
        yield webhooks
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        commands.close()


def end(downloads: DownloadContext, download_id: str) -> None:
    record = downloads.tracker.read(download_id)
    assert record is not None
    assert downloads.claims.finish_unclaimed(record, "cancelled", cancelled_event(record))


async def test_a_name_that_turns_out_to_be_private_is_given_up_at_once(
    webhook_settings: Settings,
    downloads: DownloadContext,
    store: RedisClient,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was a public name when it was asked for: nobody had resolved it."""

    def resolve(host: str, port: int, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    download_id = create(downloads)
    settings = msgspec.structs.replace(webhook_settings, webhook_urls="", allow_hosts=f"unused.example:{receiver.port}")
    webhooks = WebhookOutbox(store, settings)
    webhooks.add(download_id, parse_url("http://inside.example:8080/canary"))
    end(downloads, download_id)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with sending(settings):
        await wait_for_async(lambda: nothing_due(store))
    assert receiver.hits == []
    (line,) = [record for record in caplog.records if record.name == "hive.webhooks"]
    assert "given up: inside.example is not an address of the public Internet" in line.getMessage()
    assert "canary" not in line.getMessage() + repr(vars(line)["fields"])


async def test_a_webhook_sealed_with_another_key_is_tried_again_and_then_given_up(
    webhook_settings: Settings,
    downloads: DownloadContext,
    store: RedisClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other_key = tmp_path / "other.key"
    ensure_key(other_key)
    download_id = create(downloads)
    quiet = msgspec.structs.replace(webhook_settings, webhook_urls="")
    WebhookOutbox(store, quiet).add(download_id, parse_url("https://example.org/canary"))
    end(downloads, download_id)
    async with sending(msgspec.structs.replace(quiet, secret_key_file=str(other_key), webhook_retry_s="0.05,0.05")):
        await wait_for_async(lambda: nothing_due(store))
    said = [record.getMessage() for record in caplog.records if record.name == "hive.webhooks"]
    assert len(said) == 3
    assert "HIVE_SECRET_KEY_FILE" in said[2]


async def test_a_message_whose_tries_nobody_lives_to_report_ends_all_the_same(
    webhook_settings: Settings, downloads: DownloadContext, store: RedisClient, receiver: Receiver
) -> None:
    async with sending(webhook_settings):
        await wait_for_async(lambda: store.zcard(keys.WEBHOOKS_STANDING))
        ((name, _),) = store.zrange(keys.WEBHOOKS_STANDING, 0, -1, withscores=True)
        download_id = create(downloads)
        most = len(webhook_settings.webhook_waits_s) + SPARE_TRIES
        store.hset(keys.webhooks(download_id), f"n:{name.decode()}", most)
        end(downloads, download_id)
        await wait_for_async(lambda: nothing_due(store))
    assert receiver.hits == []


async def test_a_download_that_was_forgotten_meanwhile_is_given_up(
    webhook_settings: Settings, downloads: DownloadContext, store: RedisClient, receiver: Receiver
) -> None:
    webhooks = WebhookOutbox(store, webhook_settings)
    webhooks.take(0)
    download_id = create(downloads)
    end(downloads, download_id)
    store.delete(keys.record(download_id))
    async with sending(webhook_settings):
        await wait_for_async(lambda: nothing_due(store))
    assert receiver.hits == []


async def test_what_could_not_be_noted_is_noted_when_redis_is_back(
    webhook_settings: Settings,
    downloads: DownloadContext,
    store: RedisClient,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = [RedisUnavailable(), RedisUnavailable()]
    monkeypatch.setattr(dispatcher_module, "LOOK_INTERVAL_S", 0.05)
    async with sending(webhook_settings) as webhooks:
        done = webhooks.done

        def away_at_first(message: Any) -> None:
            if failures:
                raise failures.pop()
            done(message)

        monkeypatch.setattr(webhooks, "done", away_at_first)
        await wait_for_async(lambda: store.zcard(keys.WEBHOOKS_STANDING))
        end(downloads, create(downloads))
        await wait_for_async(lambda: nothing_due(store))
    assert failures == []
    assert len(receiver.hits) == 1


@pytest.fixture
def commands(redis_url: str) -> Iterator[CommandThread]:
    made = CommandThread(redis_url)
    yield made
    made.close()


async def test_a_stop_at_the_very_moment_of_news_is_a_stop(
    webhook_settings: Settings, commands: CommandThread, downloads: DownloadContext
) -> None:
    """asyncio.wait_for of Python 3.11 drops a cancellation when what it waits for is there already: a server that is
    stopped as a webhook ends would not end.
    """
    dispatcher = WebhookDispatcher(
        webhook_settings, commands, downloads.tracker, WebhookOutbox(commands.client, webhook_settings)
    )
    task = asyncio.create_task(dispatcher.run())
    await wait_for_async(lambda: dispatcher._wake._waiters)
    dispatcher._wake.set()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=60)
    assert done


async def test_a_cancellation_at_the_very_moment_of_an_answer_is_one(
    commands: CommandThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, for whoever waits for Redis."""
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "wrap_future", lambda _: answer)
        task = asyncio.create_task(commands.run(int))
        await asyncio.sleep(0)
    answer.set_result(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_mistake_in_a_try_is_logged_and_the_others_go_on(
    webhook_settings: Settings,
    downloads: DownloadContext,
    store: RedisClient,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver.default = Reply(200)
    mistakes = [ZeroDivisionError("a mistake")]

    def faulty_sign(*arguments: Any) -> dict[str, str]:
        if mistakes:
            raise mistakes.pop()
        return sign(*arguments)

    monkeypatch.setattr(dispatcher_module, "sign", faulty_sign)
    settings = msgspec.structs.replace(webhook_settings, webhook_timeout_s=2.0)
    with caplog.at_level(logging.INFO):
        async with sending(settings):
            await wait_for_async(lambda: store.zcard(keys.WEBHOOKS_STANDING))
            end(downloads, create(downloads))
            await wait_for_async(lambda: nothing_due(store))
    assert len(receiver.hits) == 1, "it came back by itself"
    assert any("failed" in record.getMessage() for record in caplog.records)
