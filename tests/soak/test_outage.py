"""Redis is gone for ten seconds: killed, or frozen with every connection open. No stream is dropped, a new client gets
one all the same, and when Redis is back everyone is current within a second.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis.exceptions import BusyLoadingError, ConnectionError, NoScriptError, TimeoutError

from hive.downloads.context import DownloadContext
from hive.downloads.record import Claim
from hive.processes.embedded_redis import EmbeddedRedis, find_server
from hive.redis.client import RedisClient, connect
from hive.redis.errors import is_redis_error
from hive.wire.api import PROGRESS_PATH
from tests.support.downloads import claim, complete, create, download_context, downloading
from tests.support.processes import Serve, Server, environment, stopping
from tests.support.sse_client import SseClient
from tests.support.waiting import AT_ONCE_S, wait_for

#: Seconds for which Redis is gone.
OUTAGE_S = 10.0
#: Seconds after its return within which every stream must show the present state.
CURRENT_S = 1.0
#: Steps from the return of Redis to a client: processes that wake each other, each as late as the machine is busy.
STEPS = 20
#: Seconds within which a new client must have its 200 while Redis is gone: the deadline of one command and a bit.
ANSWER_S = AT_ONCE_S


def watch(server: Server, download_id: str) -> SseClient:
    return SseClient(f"{server.url}{PROGRESS_PATH}?id={download_id}")


class Outage:
    """A way to take Redis away, and to bring it back."""

    def __init__(self, redis: EmbeddedRedis, kind: str) -> None:
        self._redis = redis
        self.take, self.bring = {
            "killed": (redis.kill, redis.launch),
            "frozen": (self._freeze, self._thaw),
        }[kind]

    def _freeze(self) -> None:
        assert self._redis.pid is not None
        os.kill(self._redis.pid, signal.SIGSTOP)

    def _thaw(self) -> None:
        assert self._redis.pid is not None
        os.kill(self._redis.pid, signal.SIGCONT)


@pytest.fixture(params=["killed", "frozen"])
def outage(request: pytest.FixtureRequest, own_redis: EmbeddedRedis) -> Iterator[Outage]:
    made = Outage(own_redis, request.param)
    yield made
    if own_redis.pid is not None:
        os.kill(own_redis.pid, signal.SIGCONT)


def seconds_of_a_word(downloads: DownloadContext, held: Claim, client: SseClient, seqs: range) -> float:
    """The longest time from an event in Redis to this client, of some events: how busy the machine is."""
    took_s = []
    for seq in seqs:
        said_s = time.monotonic()
        downloads.claims.publish(held, seq, downloading(seq))
        wait_for(lambda seq=seq: client.events and client.last.get("bytes_downloaded") == seq)  # type: ignore[misc]
        took_s.append(time.monotonic() - said_s)
    return max(took_s)


def current_after(back_s: float, word_s: float, condition: Callable[[], object], what: str) -> None:
    wait_for(condition, what=what)
    took_s = time.monotonic() - back_s
    assert took_s < CURRENT_S + STEPS * word_s, f"{what}: {took_s:.1f} s after the return, {word_s:.2f} s a word"


@pytest.mark.slow
def test_streams_outlive_ten_seconds_without_redis(
    outage: Outage, own_downloads: DownloadContext, serve: Serve
) -> None:
    """One download goes on when Redis is back, one waits in silence, one had ended before."""
    server = serve(HIVE_KEEPALIVE_S="1")
    moving, waiting, over = (create(own_downloads, name) for name in ("moving", "waiting", "over"))
    held: Claim = claim(own_downloads, moving)
    own_downloads.claims.finish(claim(own_downloads, over), 2, "complete", complete(), "/x")
    before = [watch(server, download_id) for download_id in (moving, waiting)]
    for client in before:
        wait_for(lambda client=client: client.events)  # type: ignore[misc]
    word_s = seconds_of_a_word(own_downloads, held, before[0], range(2, 7))

    outage.take()
    gone_s = time.monotonic()
    meanwhile = [watch(server, download_id) for download_id in (moving, waiting, over)]
    for client in meanwhile:
        wait_for(lambda client=client: client.status, deadline_s=ANSWER_S)  # type: ignore[misc]
        assert client.status == 200
    wait_for(lambda: time.monotonic() - gone_s > OUTAGE_S, what="an outage of ten seconds")
    assert not any(client.closed.is_set() for client in before + meanwhile), "a stream was dropped"
    assert all(client.comments >= OUTAGE_S / 2 for client in before), "nothing kept them alive"

    outage.bring()
    back_s = time.monotonic()
    own_downloads.claims.publish(held, 7, downloading(70))
    current_after(back_s, word_s, lambda: before[0].last.get("bytes_downloaded") == 70, "a stream from before")
    current_after(back_s, word_s, lambda: all(c.events for c in meanwhile), "the streams from meanwhile")
    current_after(back_s, word_s, lambda: meanwhile[0].last.get("bytes_downloaded") == 70, "a stream from meanwhile")
    assert meanwhile[1].last["status"] == "queued"
    assert (meanwhile[2].wait().last["stage"], meanwhile[2].done) == ("complete", 1)

    own_downloads.claims.finish(held, 8, "complete", complete(), "/x")
    for client in (before[0], meanwhile[0]):
        assert (client.wait().last["stage"], client.done, client.after_done) == ("complete", 1, 0)
    for client in (before[1], meanwhile[1]):
        assert not client.closed.is_set()
        client.close()


@pytest.mark.slow
def test_an_end_during_an_outage_is_told_within_a_second_of_the_return(
    own_redis: EmbeddedRedis, own_downloads: DownloadContext, serve: Serve
) -> None:
    """The worker says it to the Redis that has just come back, before the replica has subscribed again."""
    server = serve()
    download_id = create(own_downloads)
    held = claim(own_downloads, download_id)
    client = watch(server, download_id)
    wait_for(lambda: client.events)
    word_s = seconds_of_a_word(own_downloads, held, client, range(2, 7))
    own_redis.kill()
    server.wait_for_log("the subscription was lost; connecting again")
    own_redis.launch()
    back_s = time.monotonic()
    own_downloads.claims.finish(held, 7, "complete", complete(), "/x")
    current_after(back_s, word_s, client.closed.is_set, "the end")
    assert (client.last["stage"], client.done) == ("complete", 1)


def test_a_restart_between_the_load_of_a_script_and_its_call_is_an_outage(
    own_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py loads a script that the server does not know, and calls it: a server that has just come back empty in
    between knows it no more. That is no mistake of the caller's.
    """
    with connect(own_redis.url) as client:
        script = client.register_script("return 1")
        load = client.script_load

        def load_and_lose(text: str) -> str:
            sha: str = load(text)
            client.script_flush()
            return sha

        monkeypatch.setattr(client, "script_load", load_and_lose)
        with pytest.raises(NoScriptError) as raised:
            script()
        assert is_redis_error(raised.value)


#: Microseconds that the slow Redis takes for each key when it loads its file, and the keys it has: six seconds, in
#: which it takes subscriptions and refuses to read. It looks at its connections after so many bytes.
KEY_LOAD_DELAY_US = 600
KEYS = 10_000
LOOK_EVERY_BYTES = 1024


@pytest.fixture
def slow_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    folder = tmp_path_factory.mktemp("s")
    program = folder / "slow-redis"
    program.write_text(
        f'#!/bin/sh\nexec {find_server()} "$@" --key-load-delay {KEY_LOAD_DELAY_US} '
        f"--loading-process-events-interval-bytes {LOOK_EVERY_BYTES}\n"
    )
    program.chmod(0o700)
    # The server ends with the thread that starts it, so that thread stays until the test is over.
    with EmbeddedRedis(folder, binary=str(program)) as redis:
        yield redis


def is_loading(client: RedisClient) -> bool:
    try:
        client.ping()
    except BusyLoadingError:
        return True
    except (ConnectionError, TimeoutError):
        return False
    return False


@pytest.mark.slow
def test_a_redis_that_is_still_loading_its_file_is_asked_again(slow_redis: EmbeddedRedis, tmp_path: Path) -> None:
    """It accepts the subscription while it loads, and refuses the reads: these must be repeated, not waited for."""
    with (
        connect(slow_redis.url) as client,
        ThreadPoolExecutor(1) as keeper,
        stopping(Server(environment(slow_redis.url, tmp_path))) as server,
    ):
        assert isinstance(server, Server)
        downloads = download_context(client, ended_ttl_s=3600, max_queued=100, lease_s=3600)
        download_id = create(downloads)
        other = create(downloads, "other")  # of the one below the server is to know nothing yet
        held, early = claim(downloads, other), watch(server, other)
        word_s = seconds_of_a_word(downloads, held, early, range(2, 7))
        early.close()
        client.mset({f"filling-{n}": "x" for n in range(KEYS)})
        client.bgrewriteaof()
        wait_for(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        slow_redis.kill()
        back = keeper.submit(slow_redis.launch)
        wait_for(lambda: is_loading(client), what="a Redis that loads")
        late = watch(server, download_id)
        wait_for(lambda: late.status, deadline_s=ANSWER_S)
        assert late.status == 200
        assert not back.done(), "it was loading all the time"
        assert not late.events
        back.result()
        current_after(time.monotonic(), word_s, lambda: late.events, "a client that came while Redis was loading")
        late.close()
        slow_redis.stop()
