"""Whose webhooks wait for whose: receivers that do not answer keep neither the operator's nor others' waiting; and what
each receiver checks signatures with.
"""

from __future__ import annotations

import threading
import time

import msgspec
import pytest
import requests

from hive.downloads.context import DownloadContext
from hive.downloads.events import cancelled_event
from hive.net.urls import parse_url
from hive.redis.client import RedisClient
from hive.settings import Settings, read_webhook_key
from hive.webhooks.outbox import MAX_PER_HOST, MAX_PER_OWNER, WebhookMessage, WebhookOutbox
from hive.webhooks.signature import as_secret, derived_key
from hive.wire import keys
from tests.support.downloads import new
from tests.support.processes import Serve
from tests.support.waiting import wait_for
from tests.support.webhook_receiver import SECRET, Receiver, Reply, cancel, documented_verify, hits, receiving


@pytest.fixture
def outbox(store: RedisClient, settings: Settings) -> WebhookOutbox:
    """Of settings with one webhook, which Redis knows of."""
    own = msgspec.structs.replace(settings, webhook_secret=SECRET, webhook_urls="http://10.0.0.1:9/own")
    made = WebhookOutbox(store, own)
    made.take(0)
    return made


def end(downloads: DownloadContext, download_id: str) -> None:
    record = downloads.tracker.read(download_id)
    assert record is not None

    assert downloads.claims.finish_unclaimed(record, "cancelled", cancelled_event(record))


def due(outbox: WebhookOutbox, downloads: DownloadContext, name: str, url: str, owner: str = "") -> str:
    """A download that has ended, and whose webhook is due."""
    download_id = downloads.tracker.create(new(name, owner=owner))[0]
    outbox.add(download_id, parse_url(url), owner)
    end(downloads, download_id)
    return download_id


def of_requests(messages: list[WebhookMessage]) -> list[WebhookMessage]:
    return [message for message in messages if not message.of_settings]


def test_sixty_messages_to_one_host_keep_neither_the_operators_nor_another_hosts_waiting(
    outbox: WebhookOutbox, downloads: DownloadContext, store: RedisClient
) -> None:
    for number in range(60):
        due(outbox, downloads, f"tar{number}", f"https://tarpit.example:{443 if number % 2 else 8443}/{number}")
    other = due(outbox, downloads, "other", "https://ci.example/")
    taken = outbox.take(8, 100)
    assert sum(message.of_settings for message in taken) == 61, "the operator hears of every end at once"
    assert len(of_requests(taken)) == MAX_PER_HOST + 1
    assert other in {message.download_id for message in of_requests(taken)}
    wait_for(lambda: store.zcount(keys.WEBHOOKS_DUE, "-inf", time.time() * 1000) >= 58)
    assert of_requests(outbox.take(8, 0, taken)) == [], "the host has as many under way as it may"
    wait_for(lambda: store.zcount(keys.WEBHOOKS_DUE, "-inf", time.time() * 1000) >= 58)
    first = of_requests(taken)[0]
    outbox.done(first)
    assert store.hget(keys.webhooks(first.download_id), f"h:{first.name}") is None
    assert len(outbox.take(8, 0, [one for one in taken if one != first])) == 1


def test_what_steps_aside_is_bounded_as_what_is_sent_is(
    store: RedisClient, settings: Settings, downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive.webhooks.outbox.MAX_SCANNED", 1)  # one page of a hundred
    outbox = WebhookOutbox(store, msgspec.structs.replace(settings, webhook_secret=SECRET))
    for number in range(120):
        due(outbox, downloads, f"tar{number}", "https://tarpit.example/")
    before = store.zrange(keys.WEBHOOKS_DUE, 0, -1, withscores=True)
    assert len(outbox.take(8, 0)) == MAX_PER_HOST
    after = dict(store.zrange(keys.WEBHOOKS_DUE, 0, -1, withscores=True))
    assert all(after[member] > score for member, score in before[:100])
    assert all(after[member] == score for member, score in before[100:]), "nobody has looked at these"


def test_one_owner_with_many_hosts_leaves_room_for_others(outbox: WebhookOutbox, downloads: DownloadContext) -> None:
    for number in range(20):
        due(outbox, downloads, f"a{number}", f"https://tarpit{number}.example/", "alice")
    bobs = due(outbox, downloads, "b", "https://ci.example/", "bob")
    taken = of_requests(outbox.take(8, 0))
    assert len(taken) == MAX_PER_OWNER + 1
    assert bobs in {message.download_id for message in taken}


def test_what_an_older_version_put_there_is_sent(
    outbox: WebhookOutbox, downloads: DownloadContext, store: RedisClient
) -> None:
    for number in range(5):
        download_id = due(outbox, downloads, f"m{number}", "https://ci.example/")
        fields = [field for field in store.hkeys(keys.webhooks(download_id)) if field.startswith(b"h:")]
        store.hdel(keys.webhooks(download_id), *fields)
    assert len(of_requests(outbox.take(8, 0))) == 5


def test_tarpits_of_a_request_do_not_delay_the_operators_webhook(serve: Serve, receiver: Receiver) -> None:
    gate = threading.Event()
    with receiving() as tarpit:
        tarpit.default = Reply(gate=gate)
        server = serve(HIVE_WEBHOOK_URLS=receiver.url, HIVE_ALLOW_HOSTS=tarpit.host, HIVE_WEBHOOK_TIMEOUT_S="30")
        ids = []
        for number in range(20):
            body = {"model_ref": f"hf:org/m{number}", "webhook_url": f"{tarpit.url}/{number}"}
            ids.append(requests.post(f"{server.url}/v1/models/download", json=body, timeout=60).json()["download_id"])
        for download_id in ids:
            cancel(server, download_id)
        try:
            hits(receiver, 20)
            hits(tarpit, MAX_PER_HOST)
            assert len(tarpit.hits) == MAX_PER_HOST
        finally:
            gate.set()
            tarpit.default = Reply()


def test_the_receiver_of_a_request_has_a_secret_of_its_own(serve: Serve, receiver: Receiver) -> None:
    verify = documented_verify()
    with receiving() as own:
        server = serve(HIVE_WEBHOOK_URLS=receiver.url, HIVE_ALLOW_HOSTS=own.host)

        def ask(url: str | None) -> requests.Response:
            body = {"model_ref": "hf:org/name"} | ({"webhook_url": url} if url else {})
            return requests.post(f"{server.url}/v1/models/download", json=body, timeout=60)

        answer = ask(own.url).json()
        secret = answer["webhook_secret"]
        assert secret == ask(own.url).json()["webhook_secret"], "it can be asked for again"
        assert "webhook_secret" not in ask(None).json()
        cancel(server, answer["download_id"])
        hits(own)
        hits(receiver)
        assert verify(secret, own.hits[0].headers, own.hits[0].body)
        assert not verify(SECRET, own.hits[0].headers, own.hits[0].body), "the operator's key signs for nobody else"
        assert verify(SECRET, receiver.hits[0].headers, receiver.hits[0].body)
        assert SECRET.removeprefix("whsec_") not in secret


def test_keys_differ_by_owner_and_by_url() -> None:
    key, url = read_webhook_key(SECRET), "https://ci.example/a"
    made = {
        derived_key(key, keys.owner_mark(owner), address)
        for owner in ("", "alice", "bob")
        for address in (url, url + "b")
    }
    assert len(made) == 6
    assert key not in made
    assert all(read_webhook_key(as_secret(each)) == each for each in made)


def test_nobody_is_told_the_operators_secret(outbox: WebhookOutbox) -> None:
    own = parse_url("http://10.0.0.1:9/own")
    assert outbox.secret(own) is None
    assert outbox.secret(own, "alice") not in (None, SECRET)
