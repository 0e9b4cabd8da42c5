"""Several servers send: nothing twice, nothing lost when one of them, or Redis, dies."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter

import pytest
import requests

from hive.downloads.context import DownloadContext
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import RedisClient, connect
from hive.webhooks.dispatcher import MAX_UNDER_WAY
from hive.wire import keys
from tests.support.downloads import claim, complete, create, download_context
from tests.support.processes import Serve, Server
from tests.support.waiting import AT_ONCE_S, wait_for
from tests.support.webhook_receiver import Receiver, Reply, cancel, hits, nothing_due, receiving


def test_two_servers_tell_everything_once(
    serve: Serve, receiver: Receiver, downloads: DownloadContext, store: RedisClient
) -> None:
    servers = [serve(HIVE_WEBHOOK_URLS=receiver.url, HIVE_WEBHOOK_TIMEOUT_S="10") for _ in range(2)]
    wait_for(lambda: store.zcard(keys.WEBHOOKS_STANDING))
    gate = threading.Event()
    receiver.replies = [Reply(gate=gate)] * (2 * MAX_UNDER_WAY)
    ids = [create(downloads, f"m{n}") for n in range(60)]
    for download_id in ids:
        downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    hits(receiver, 2 * MAX_UNDER_WAY)  # each has its hands full, and of one another's they take none
    gate.set()
    hits(receiver, len(ids))
    wait_for(lambda: nothing_due(store))
    assert Counter(hit.id for hit in receiver.hits) == Counter(ids)

    def told() -> list[int]:
        return [server.output.count("webhook sent") for server in servers]

    wait_for(lambda: sum(told()) >= len(ids), what="both have said in their logs what they sent")
    sent = told()
    assert sum(sent) == len(ids)
    assert min(sent) >= MAX_UNDER_WAY, f"both had a part in it: {sent}"


def test_a_server_that_is_killed_while_it_sends_is_stood_in_for(
    serve: Serve, receiver: Receiver, downloads: DownloadContext, store: RedisClient
) -> None:
    settings = {"HIVE_WEBHOOK_URLS": receiver.url, "HIVE_WEBHOOK_TIMEOUT_S": "1"}
    dying, other = serve(**settings), serve(**settings)
    wait_for(lambda: store.zcard(keys.WEBHOOKS_STANDING))
    gate = threading.Event()
    receiver.replies = [Reply(gate=gate)]
    other.signal(signal.SIGSTOP)
    download_id = create(downloads)
    cancel(dying, download_id)
    hits(receiver)
    dying.signal(signal.SIGKILL)
    dying.wait()
    other.signal(signal.SIGCONT)
    gate.set()
    hits(receiver, 2)
    assert [hit.id for hit in receiver.hits] == [download_id] * 2
    wait_for(lambda: nothing_due(store))
    wait_for(lambda: other.output.count("webhook sent") == 1, "the other says that it sent it")


def test_neither_another_message_nor_a_server_that_is_stopped_waits_for_a_receiver(
    everywhere: Server, receiver: Receiver, downloads: DownloadContext, serve: Serve
) -> None:
    gate = threading.Event()
    receiver.replies = [Reply(gate=gate)]
    slow = serve(HIVE_WEBHOOK_URLS=receiver.url, HIVE_WEBHOOK_TIMEOUT_S="60")
    everywhere.stop()
    cancel(slow, create(downloads))
    hits(receiver)
    other = create(downloads, "other")
    cancel(slow, other)
    wait_for(lambda: any(hit.id == other for hit in receiver.hits), "the other was told meanwhile", 3 * AT_ONCE_S)
    began_s = time.monotonic()
    assert slow.stop() == 0
    assert time.monotonic() - began_s < AT_ONCE_S
    gate.set()


@pytest.mark.parametrize("when", ["while it is sent", "while it waits"])
def test_an_outage_of_redis_loses_no_message(
    own_redis: EmbeddedRedis, receiver: Receiver, serve: Serve, when: str
) -> None:
    settings = {"HIVE_WEBHOOK_RETRY_S": ",".join(["0.2"] * 24)}
    server = serve(own_redis.url, HIVE_WEBHOOK_URLS=receiver.url, **settings)
    gate = threading.Event()
    with connect(own_redis.url) as store:
        wait_for(lambda: store.zcard(keys.WEBHOOKS_STANDING))
        downloads = download_context(store, ended_ttl_s=3600, max_queued=100, lease_s=3600)
        download_id = create(downloads)
        if when == "while it is sent":
            receiver.replies = [Reply(gate=gate)]
        else:
            receiver.default = Reply(503)
        cancel(server, download_id)
        hits(receiver)
    own_redis.kill()
    gate.set()
    wait_for(lambda: requests.get(f"{server.url}/readyz", timeout=60).status_code == 503)
    receiver.default = Reply()
    own_redis.launch()
    with connect(own_redis.url) as store:
        wait_for(lambda: nothing_due(store), what="it was told, and noted")
    wait_for(lambda: server.logged("webhook sent") is not None)
    assert {hit.id for hit in receiver.hits} == {download_id}


def test_servers_with_different_settings_leave_each_other_theirs(
    serve: Serve, receiver: Receiver, downloads: DownloadContext, store: RedisClient
) -> None:
    """As while one after the other is started with a new list."""
    more = {"HIVE_WEBHOOK_RETRY_S": ",".join(["0.1"] * 24)}
    with receiving() as second:
        servers = [serve(HIVE_WEBHOOK_URLS=one.url, **more) for one in (receiver, second)]
        wait_for(lambda: store.zcard(keys.WEBHOOKS_STANDING) == 2)
        ids = [create(downloads, f"m{n}") for n in range(3)]
        for download_id in ids:
            cancel(servers[0], download_id)
        for one in (receiver, second):
            hits(one, 3)
        wait_for(lambda: nothing_due(store))
        assert Counter(hit.id for hit in second.hits) == Counter(ids) == Counter(hit.id for hit in receiver.hits)
