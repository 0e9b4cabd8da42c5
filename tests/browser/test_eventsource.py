"""A browser's EventSource watches a download through nginx and two replicas, one of which is killed under it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import BrowserContext, Page, Response

from hive.downloads.context import DownloadContext
from hive.wire.api import PROGRESS_PATH
from tests.support.balancer import CLOCK_PATH, PAGE_PATH, Balancer
from tests.support.downloads import claim, complete, create, downloading
from tests.support.processes import Server, environment, stopping
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

#: What a page does that knows nothing of hive but its address; it never closes the EventSource.
WATCH = """(address) => {
  window.seen = []; window.done = 0; window.opened = 0;
  window.source = new EventSource(address);
  source.onopen = () => { opened += 1; };
  source.onmessage = (message) => {
    if (message.data === "[DONE]") { done += 1; return; }
    seen.push({ id: message.lastEventId, ...JSON.parse(message.data) });
  };
}"""
#: Counts how often an EventSource has connected again, on a stream that always ends at once.
CLOCK = """(address) => {
  window.ticks = 0;
  window.clock = new EventSource(address);
  clock.onopen = () => { ticks += 1; };
}"""
#: Connections of the clock in which a source that has not stopped would have connected again, too.
TICKS = 3


@pytest.fixture
def replicas(redis_url: str, tmp_path: Path) -> Iterator[list[Server]]:
    env = environment(redis_url, tmp_path, HIVE_DRAIN_S="0.2", HIVE_KEEPALIVE_S="1")
    with stopping(Server(env)) as one, stopping(Server(env)) as two:
        assert isinstance(one, Server)
        assert isinstance(two, Server)
        for server in (one, two):
            wait_for(lambda server=server: requests.get(f"{server.url}/readyz", timeout=60).ok)  # type: ignore[misc]
        yield [one, two]


@pytest.fixture
def balancer(replicas: list[Server], tmp_path: Path) -> Iterator[Balancer]:
    with Balancer(tmp_path / "nginx", [server.port for server in replicas]) as made:
        yield made


@pytest.fixture
def page(browser: BrowserContext, balancer: Balancer) -> Page:
    opened = browser.new_page()
    opened.goto(f"{balancer.url}{PAGE_PATH}")
    return opened


class Watched:
    """A page that watches one download, and which replicas have answered it."""

    def __init__(self, page: Page, download_id: str) -> None:
        self._page = page
        self.path = f"{PROGRESS_PATH}?id={download_id}"
        self.answers: list[Response] = []
        page.on("response", lambda answer: self.answers.append(answer) if self.path in answer.url else None)
        page.evaluate(WATCH, self.path)

    def wait_for(self, condition: str, argument: Any = None) -> None:
        self._page.wait_for_function(condition, arg=argument)

    @property
    def seen(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._page.evaluate("seen")
        return found

    def replica(self, servers: list[Server]) -> Server:
        """The one it is connected to."""
        port = int(self.answers[-1].headers["x-replica"].rpartition(":")[2])
        return next(server for server in servers if server.port == port)


def check_order(seen: list[dict[str, Any]]) -> None:
    """Versions never go back; the same one comes again only as the first of a new connection."""
    versions = [tuple(map(int, event["id"].split("-"))) for event in seen]
    assert versions == sorted(versions)


def test_an_event_source_sees_it_all_though_its_replica_is_killed(
    page: Page, replicas: list[Server], balancer: Balancer, downloads: DownloadContext
) -> None:
    download_id = create(downloads)
    watched = Watched(page, download_id)
    watched.wait_for("seen.length === 1 && seen[0].status === 'queued'")
    held = claim(downloads, download_id)
    for seq in range(2, 12):
        downloads.claims.publish(held, seq, downloading(seq))
        watched.wait_for("done => seen.at(-1).bytes_downloaded === done", seq)  # each at once: nginx holds none back
    killed = watched.replica(replicas)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    watched.wait_for("opened === 2")
    assert watched.replica(replicas) is not killed

    downloads.claims.publish(held, 12, downloading(90))
    watched.wait_for("seen.at(-1).bytes_downloaded === 90")
    downloads.claims.finish(held, 13, "complete", complete("/store/m.gguf"), "/store/m.gguf")
    watched.wait_for("done === 1")
    watched.wait_for("source.readyState === EventSource.CLOSED")

    page.evaluate(CLOCK, CLOCK_PATH)
    watched.wait_for("ticks => window.ticks >= ticks", TICKS)
    hits = balancer.hits(watched.path)
    assert [hit.status for hit in hits] == [200, 200, 204], "cut, ended, and told to stop; not one more"
    assert [hit.last_event_id for hit in hits] == ["", f"{held.fence}-11", f"{held.fence}-13"]
    assert page.evaluate("done") == 1
    seen = watched.seen
    check_order(seen)
    assert [event["stage"] for event in seen].count("complete") == 1
    assert seen[-1]["local_path"] == "/store/m.gguf"


def test_an_event_source_moves_when_its_replica_drains(
    page: Page, replicas: list[Server], balancer: Balancer, downloads: DownloadContext
) -> None:
    download_id = create(downloads)
    watched = Watched(page, download_id)
    watched.wait_for("seen.length === 1")
    leaving = watched.replica(replicas)
    assert leaving.stop() == 0
    watched.wait_for("opened === 2")
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    watched.wait_for("source.readyState === EventSource.CLOSED")
    assert page.evaluate("done") == 1
    assert [hit.status for hit in balancer.hits(watched.path)] == [200, 200, 204]
    check_order(watched.seen)


def test_an_id_that_is_unknown_stops_an_event_source(page: Page, balancer: Balancer) -> None:
    watched = Watched(page, "00000000-0000-4000-8000-000000000000")
    watched.wait_for("source.readyState === EventSource.CLOSED")
    page.evaluate(CLOCK, CLOCK_PATH)
    watched.wait_for("ticks => window.ticks >= ticks", 2)
    assert [hit.status for hit in balancer.hits(watched.path)] == [404]
