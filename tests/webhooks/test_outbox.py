"""What lies in Redis of webhooks that wait: taken by one process at a time, kept secret, and not kept for ever."""

from __future__ import annotations

import concurrent.futures
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.events import cancelled_event
from hive.errors import BadRequest, RedisUnavailable, TooManyWebhooks, UnsafeUrl
from hive.net.urls import parse_url
from hive.redis.client import RedisClient
from hive.secrets import SecretKeyError
from hive.settings import Settings
from hive.webhooks import outbox as webhooks_module
from hive.webhooks.outbox import MAX_PER_DOWNLOAD, STANDING_S, WITHDRAWN_AFTER_S, WebhookOutbox
from hive.wire import keys
from tests.support.downloads import claim, complete, create, new
from tests.support.waiting import wait_for
from tests.support.webhook_receiver import SECRET

OWN = parse_url("https://receiver.example/canary?token=canary")


@pytest.fixture
def store(redis_client: RedisClient) -> RedisClient:
    """Both kinds, for the records are the same on either."""
    return redis_client


@pytest.fixture
def quiet_settings(settings: Settings) -> Settings:
    """A secret, and no webhook in the settings."""
    return msgspec.structs.replace(settings, webhook_secret=SECRET)


@pytest.fixture
def webhooks(store: RedisClient, quiet_settings: Settings) -> WebhookOutbox:
    return WebhookOutbox(store, quiet_settings)


@pytest.fixture
def standing(store: RedisClient, quiet_settings: Settings) -> WebhookOutbox:
    """Of settings with one webhook, which Redis knows of."""
    made = WebhookOutbox(store, msgspec.structs.replace(quiet_settings, webhook_urls="http://10.0.0.1:9/canary"))
    made.take(0)
    return made


def is_later(at_ms: int) -> bool:
    return time.time() * 1000 > at_ms + 2


def end(downloads: DownloadContext, download_id: str) -> None:
    record = downloads.tracker.read(download_id)
    assert record is not None
    assert downloads.claims.finish_unclaimed(record, "cancelled", cancelled_event(record))


def test_an_end_makes_due_what_its_requests_asked_for_and_what_the_settings_name(
    webhooks: WebhookOutbox, standing: WebhookOutbox, downloads: DownloadContext
) -> None:
    first, second = create(downloads, "a"), create(downloads, "b")
    webhooks.add(first, OWN)
    webhooks.add(first, OWN)  # once
    assert standing.take(10) == []
    end(downloads, first)
    downloads.claims.finish(claim(downloads, second), 2, "complete", complete(), "/x")
    messages = standing.take(10)
    assert sorted(m.download_id for m in messages) == sorted([first, first, second])
    assert {m.id for m in messages} == {first, second}
    targets = [standing.target(m) for m in messages]
    assert sorted(str(t.url) for t in targets if t) == sorted([str(OWN), *["http://10.0.0.1:9/canary"] * 2])
    assert [t.check is None for t in targets if t and t.url != OWN] == [True, True], "the settings' may be private"
    assert [t.check is None for t in targets if t and t.url == OWN] == [False]


def test_an_end_of_which_nobody_is_to_hear_leaves_nothing(downloads: DownloadContext, store: RedisClient) -> None:
    end(downloads, create(downloads))
    assert [key for key in store.keys("*") if b"webhook" in key] == []


def test_no_url_lies_in_redis_in_clear(
    webhooks: WebhookOutbox, standing: WebhookOutbox, downloads: DownloadContext, store: RedisClient
) -> None:
    download_id = create(downloads)
    webhooks.add(download_id, OWN)
    end(downloads, download_id)
    standing.take(10)
    stored = [store.zrange(keys.WEBHOOKS_DUE, 0, -1), store.zrange(keys.WEBHOOKS_STANDING, 0, -1)]
    stored.append(store.hgetall(keys.webhooks(download_id)))
    assert all(stored)
    assert "canary" not in repr(stored)
    assert "receiver.example" not in repr(stored)
    assert all(b"canary" not in store.dump(key) for key in store.keys("*"))


def test_a_message_is_taken_by_one_of_many(webhooks: WebhookOutbox, downloads: DownloadContext) -> None:
    ids = [create(downloads, f"m{n}") for n in range(40)]
    for number, download_id in enumerate(ids):
        webhooks.add(download_id, parse_url(f"https://receiver{number}.example/"))
        end(downloads, download_id)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        taken = [m for found in pool.map(lambda _: webhooks.take(7), range(12)) for m in found]
    assert sorted(m.download_id for m in taken) == sorted(ids)


def test_what_is_not_settled_comes_back_and_an_old_ticket_changes_nothing(
    store: RedisClient, quiet_settings: Settings, downloads: DownloadContext
) -> None:
    webhooks = WebhookOutbox(store, msgspec.structs.replace(quiet_settings, webhook_timeout_s=0.1))
    download_id = create(downloads)
    webhooks.add(download_id, OWN)
    end(downloads, download_id)
    began_s = time.monotonic()
    (first,) = webhooks.take(10)
    (second,) = wait_for(lambda: webhooks.take(10), "it came back")
    assert time.monotonic() - began_s > 0.25, "hidden for three times the time-out"
    assert (first.number, second.number) == (1, 2)
    assert first.id == second.id
    assert not webhooks.postpone(first, 0)
    assert webhooks.postpone(second, 0, b"the body")
    (third,) = webhooks.take(10)
    assert third.body == b"the body"
    webhooks.done(third)
    assert [key for key in store.keys("*") if b"webhooks" in key] == [], "nothing is left"


def test_what_was_done_is_not_put_back_by_a_late_postponement(
    webhooks: WebhookOutbox, downloads: DownloadContext, store: RedisClient
) -> None:
    download_id = create(downloads)
    webhooks.add(download_id, OWN)
    end(downloads, download_id)
    (message,) = webhooks.take(10)
    webhooks.done(message)
    assert not webhooks.postpone(message, 0)
    assert store.zcard(keys.WEBHOOKS_DUE) == 0


def test_a_download_has_so_many_webhooks_and_no_more(webhooks: WebhookOutbox, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    for n in range(MAX_PER_DOWNLOAD):
        webhooks.add(download_id, parse_url(f"https://receiver.example/{n}"))
    webhooks.add(download_id, parse_url("https://receiver.example/0"))
    with pytest.raises(TooManyWebhooks):
        webhooks.add(download_id, OWN)


def test_who_asks_after_the_end_hears_of_it_under_a_name_of_its_own(
    webhooks: WebhookOutbox, standing: WebhookOutbox, downloads: DownloadContext, store: RedisClient
) -> None:
    """A receiver drops what it has seen: a second request is not to be taken for a repeat of the first."""
    on_disk = new(event=complete(), local_path="/x")
    download_id, _ = downloads.tracker.create(on_disk)
    assert standing.take(10) == [], "no download has ended"
    ids = []
    for _ in range(2):
        assert downloads.tracker.create(on_disk)[0] == download_id
        webhooks.add(download_id, OWN)
        (message,) = standing.take(10)
        target = standing.target(message)
        assert target is not None
        assert target.url == OWN
        ids.append(message.id)
        standing.done(message)
        at_ms = int(message.name.rpartition("-")[2])
        wait_for(partial(is_later, at_ms), "the next millisecond")
    assert len(set(ids)) == 2
    assert all(i.startswith(f"{download_id}-") for i in ids)
    assert not store.exists(keys.webhooks(download_id))


def test_a_download_that_is_gone_is_an_outage(webhooks: WebhookOutbox) -> None:
    with pytest.raises(RedisUnavailable):
        webhooks.add("0b0e5b0e-5d9f-4a26-9f0a-1d1f4d1d5f0e", OWN)


def test_a_webhook_that_no_server_names_any_more_is_withdrawn_by_those_that_run(
    webhooks: WebhookOutbox, standing: WebhookOutbox, downloads: DownloadContext, store: RedisClient
) -> None:
    """Not while all servers are stopped: what ends then is told when one is back."""
    ((name, score),) = store.zrange(keys.WEBHOOKS_STANDING, 0, -1, withscores=True)
    assert score > time.time() * 1000 + (STANDING_S - 60) * 1000
    store.zadd(keys.WEBHOOKS_STANDING, {name: score - (WITHDRAWN_AFTER_S - 60) * 1000})
    webhooks.take(0)
    download_id = create(downloads)
    end(downloads, download_id)
    assert store.zcard(keys.WEBHOOKS_DUE) == 1, "not yet"
    store.zadd(keys.WEBHOOKS_STANDING, {name: score - (WITHDRAWN_AFTER_S + 60) * 1000})
    (message,) = webhooks.take(10)
    assert webhooks.target(message) is None
    assert not webhooks.is_known(message)
    standing.take(0)
    assert webhooks.is_known(message), "a server has it again"


def test_a_name_is_written_again_before_it_is_withdrawn(standing: WebhookOutbox, store: RedisClient) -> None:
    ((name, score),) = store.zrange(keys.WEBHOOKS_STANDING, 0, -1, withscores=True)
    store.zadd(keys.WEBHOOKS_STANDING, {name: score - 61_000})
    standing.take(0)
    assert store.zscore(keys.WEBHOOKS_STANDING, name) >= score


def test_what_nobody_takes_is_dropped_in_the_end(
    webhooks: WebhookOutbox, downloads: DownloadContext, store: RedisClient
) -> None:
    download_id = create(downloads)
    webhooks.add(download_id, OWN)
    end(downloads, download_id)
    (member,) = store.zrange(keys.WEBHOOKS_DUE, 0, -1)
    store.zadd(keys.WEBHOOKS_DUE, {member: (time.time() - webhooks_module.DROPPED_AFTER_S - 60) * 1000})
    assert webhooks.take(10) == []
    assert store.zcard(keys.WEBHOOKS_DUE) == 0


def test_what_waits_is_kept_longer_than_any_wait(
    webhooks: WebhookOutbox, downloads: DownloadContext, store: RedisClient
) -> None:
    download_id = create(downloads)
    webhooks.add(download_id, OWN)
    assert store.ttl(keys.webhooks(download_id)) == -1, "a download may take weeks"
    end(downloads, download_id)
    webhooks.take(10)
    assert store.ttl(keys.webhooks(download_id)) > 2 * 86_400


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://127.1:8080/x",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://localhost/",
        "http://LOCALHOST.:8080/",
        "http://a.localhost/",
        "http://0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://[fd00:ec2::254]/",
        "https://example.org:22/",
        "https://example.org:6379/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "https://user:canary@example.org/",
        "http://good\\@127.0.0.1/",
        "https://example.org/\n",
        "gopher://127.0.0.1:6379/_FLUSHALL",
    ],
)
def test_a_url_that_leads_inside_is_refused_when_it_is_asked_for(webhooks: WebhookOutbox, url: str) -> None:
    with pytest.raises(UnsafeUrl) as caught:
        webhooks.read(url)
    assert "canary" not in str(caught.value)


def test_hosts_that_are_allowed_and_public_ones_are_taken(store: RedisClient, quiet_settings: Settings) -> None:
    allowing = WebhookOutbox(store, msgspec.structs.replace(quiet_settings, allow_hosts="10.0.0.1:9000,hooks.lan"))
    for url in ("http://10.0.0.1:9000/x", "http://hooks.lan/x", "https://example.org/x", "http://8.8.8.8:8080/"):
        assert str(allowing.read(url)) == url
    with pytest.raises(UnsafeUrl):
        allowing.read("http://10.0.0.1/x")


def test_without_a_secret_no_webhook_is_taken(store: RedisClient, settings: Settings) -> None:
    with pytest.raises(BadRequest, match="HIVE_WEBHOOK_SECRET"):
        WebhookOutbox(store, settings).read("https://example.org/")


def test_another_key_is_told(
    webhooks: WebhookOutbox, store: RedisClient, quiet_settings: Settings, downloads: DownloadContext, tmp_path: Path
) -> None:
    download_id = create(downloads)
    webhooks.add(download_id, OWN)
    end(downloads, download_id)
    (message,) = webhooks.take(10)
    other = msgspec.structs.replace(quiet_settings, home=str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    WebhookOutbox(store, other).add(create(downloads, "z"), OWN)
    with pytest.raises(SecretKeyError, match="HIVE_SECRET_KEY_FILE"):
        WebhookOutbox(store, other).target(message)
