"""Streams through a proxy and two replicas: one replica is killed, the proxy is reloaded, Redis goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import requests

from hive.downloads.context import DownloadContext
from hive.processes.embedded_redis import EmbeddedRedis
from hive.wire.api import PROGRESS_PATH
from tests.proxies.programs import SETTINGS, Proxy
from tests.support.child import Child
from tests.support.cli import COMMAND_TIMEOUT_S, command
from tests.support.downloads import claim, complete, create, downloading
from tests.support.processes import Server, environment, stopping
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

#: Streams that are opened one after another; half of them is each replica's share.
STREAMS = 6
#: What stands in requests and belongs into no log. These replicas want no keys, so they are not looked at.
TICKET, TOKEN = "v1.canary-of-a-ticket", "hf_canary_of_a_token"


class Watcher:
    """A client that comes back until it has seen the end."""

    def __init__(self, proxy: Proxy, download_id: str) -> None:
        self._proxy = proxy
        self._url = f"{proxy.url}{PROGRESS_PATH}?id={download_id}&ticket={TICKET}"
        self.streams = [self._open()]

    def _open(self) -> SseClient:
        last = next((stream.ids[-1] for stream in reversed(getattr(self, "streams", [])) if stream.ids), "")
        headers = {"Last-Event-ID": last, "X-HF-Token": TOKEN}
        return SseClient(self._url, headers, tls=self._proxy.tls)

    def is_at(self, seq: int) -> bool:
        """Whether it has seen this much, on whatever connection."""
        if self.streams[-1].closed.is_set() and not self.streams[-1].done:
            self.streams.append(self._open())
        return any(event.get("bytes_downloaded", -1) >= seq for event in self.events) or bool(self.ends)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for stream in self.streams for event in stream.events]

    @property
    def ends(self) -> int:
        return sum(stream.done for stream in self.streams)


def hive_watch(proxy: Proxy, download_id: str, folder: Path) -> Child[str]:
    """The command line's own client."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HIVE_HOME": str(folder / "client"),
        "HIVE_HOST": proxy.url,
        "SSL_CERT_FILE": proxy.ca,
    }
    return Child(
        command("watch", "--json", download_id), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def streams_of(replica: Server) -> int:
    """How many streams this replica has open, as it counts itself."""
    text = requests.get(f"{replica.url}/metrics", timeout=60).text
    counted = [line for line in text.splitlines() if line.startswith("hive_replica_streams{")]
    return sum(int(float(line.split()[-1])) for line in counted if f".{replica.pid}." in line)


def test_streams_outlast_a_replica_that_is_killed_and_a_reload_of_the_proxy(
    proxy: Proxy, replicas: list[Server], own_downloads: DownloadContext, tmp_path: Path
) -> None:
    download_id = create(own_downloads)
    watchers = []
    for _ in range(STREAMS):
        watchers.append(Watcher(proxy, download_id))
        wait_for(lambda: watchers[-1].events, "the stream has begun")
    # New streams go where there are few. The figure is that of a moment ago.
    wait_for(lambda: [streams_of(replica) for replica in replicas] == [STREAMS // 2] * 2, "both have their share")
    own = hive_watch(proxy, download_id, tmp_path)
    held = claim(own_downloads, download_id)

    def publish(seq: int) -> None:
        """One event, which everybody sees before the next one: nothing on the way holds it back."""
        own_downloads.claims.publish(held, seq, downloading(seq))
        wait_for(lambda: all(watcher.is_at(seq) for watcher in watchers), f"all see event {seq}")

    for seq in range(2, 8):
        publish(seq)
    os.kill(replicas[0].pid, signal.SIGKILL)
    replicas[0].wait()
    answers = [requests.get(f"{proxy.url}/v1/downloads/{download_id}", verify=proxy.ca, timeout=60) for _ in range(10)]
    assert {answer.status_code for answer in answers} == {200}, "who asks while a replica is gone gets the other one"
    publish(8)
    proxy.reload()
    for seq in range(9, 14):
        publish(seq)
    own_downloads.claims.finish(held, 14, "complete", complete(), "/store/model.gguf")
    wait_for(lambda: all(watcher.is_at(100) for watcher in watchers), "all see the end")
    assert [watcher.ends for watcher in watchers] == [1] * STREAMS
    assert any(len(watcher.streams) > 1 for watcher in watchers), "nobody was at the replica that was killed"
    out, err = own.communicate(timeout=COMMAND_TIMEOUT_S)
    assert own.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line.get("stage") for line in lines].count("complete") == 1
    for secret in (TICKET, TOKEN):
        assert secret not in proxy.log, "cut streams are logged without what is secret"


class Asking:
    """Somebody who asks and orders again and again over connections that stay, and notes what comes back."""

    def __init__(self, proxy: Proxy) -> None:
        self.answers: list[str] = []
        self._proxy = proxy
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def for_more(self, n_answers: int) -> Callable[[], bool]:
        """Whether so many more have come than have by now."""
        until = len(self.answers) + n_answers
        return lambda: len(self.answers) >= until

    def _run(self) -> None:
        with requests.Session() as session:
            session.verify, session.trust_env = self._proxy.ca, False
            while not self._over.is_set():
                for method, path, body in (
                    ("GET", "/v1/downloads?limit=1", None),
                    ("POST", "/v1/models/download", {"model_ref": "hf:org/name"}),
                ):
                    try:
                        answer = session.request(method, self._proxy.url + path, json=body, timeout=60)
                        self.answers.append(f"{method} {answer.status_code}")
                    except requests.RequestException as error:
                        self.answers.append(f"{method} {type(error).__name__}")


def test_replicas_that_are_restarted_one_after_the_other_cost_at_most_the_orders_on_their_way(
    proxy: Proxy, replicas: list[Server], own_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    """As at an upgrade: the second is stopped the moment that the first one is ready again."""
    with Asking(proxy) as asking:
        wait_for(lambda: len(asking.answers) >= 20, "both replicas have been asked")
        assert replicas[0].stop() == 0
        wait_for(asking.for_more(40), "the other one answers")
        new = Server(environment(own_redis.url, tmp_path, **SETTINGS), port=replicas[0].port)
        with stopping(new):
            new.wait_until_ready()
            assert replicas[1].stop() == 0
            wait_for(asking.for_more(40), "the new one answers")
            answers = list(asking.answers)
    failed = [answer for answer in answers if not answer.endswith((" 200", " 202"))]
    # An order that was handed over in the very moment is not sent twice by any of them; who ordered does it again.
    assert failed in ([], ["POST 502"], ["POST 502"] * 2)


def test_where_redis_is_away_hive_itself_says_so_and_a_new_stream_waits(
    proxy: Proxy, own_redis: EmbeddedRedis, own_downloads: DownloadContext
) -> None:
    """A 503 of the proxy's own would be without a code, and would end an EventSource for good."""
    download_id = create(own_downloads)
    old = Watcher(proxy, download_id)
    wait_for(lambda: old.events, "the stream has begun")
    assert own_redis.pid is not None
    os.kill(own_redis.pid, signal.SIGSTOP)
    try:
        url = f"{proxy.url}/v1/downloads"

        def answer() -> requests.Response:
            return requests.get(url, verify=proxy.ca, timeout=60)

        wait_for(lambda: answer().status_code == 503, "the server has noticed")
        # By now every check of health has failed too.
        seen = [answer() for _ in range(4)]
        assert {each.json()["error"]["code"] for each in seen} == {"STORE_UNAVAILABLE"}
        new = Watcher(proxy, download_id)
        wait_for(lambda: new.streams[0].status, "the new stream is answered")
        assert new.streams[0].status == 200
        assert not old.streams[0].closed.is_set()
    finally:
        os.kill(own_redis.pid, signal.SIGCONT)
    held = claim(own_downloads, download_id)
    own_downloads.claims.finish(held, 2, "complete", complete(), "/store/model.gguf")
    wait_for(lambda: old.is_at(100) and new.is_at(100), "both see the end")
    assert (old.ends, new.ends) == (1, 1)
