"""A page of a server with keys: a session's cookie, and tickets, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from hive.auth.keys import KeyFile
from hive.wire.api import MANY_PATH, PROGRESS_PATH
from tests.support.keys import ask, download, make, wait_until_taken
from tests.support.processes import Server, environment, stopping
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

#: Opens a stream, and notes what becomes of it.
OPEN = """(address) => {
  window.seen = 0; window.over = false;
  window.source = new EventSource(address);
  const noted = () => { seen += 1; };
  source.onmessage = noted;
  source.addEventListener("progress", noted);
  source.onerror = () => { over = source.readyState === EventSource.CLOSED; };
}"""
#: A request of the page; gives its status.
ASK = """async ([method, path, headers]) => (await fetch(path, { method, headers })).status"""


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "home" / "keys.json")


@pytest.fixture
def server(redis_url: str, tmp_path: Path, file: KeyFile) -> Iterator[Server]:
    make(file, "admin")
    env = environment(redis_url, tmp_path, HIVE_DRAIN_S="0.2", HIVE_KEEPALIVE_S="1", HF_ENDPOINT="http://127.0.0.1:1")
    with stopping(Server(env)) as one:
        assert isinstance(one, Server)
        one.wait_until_ready()
        yield one


@pytest.fixture
def key(file: KeyFile, server: Server) -> str:
    made = make(file, "read", "pull")
    wait_until_taken(server, made)
    return made


@pytest.fixture
def page(browser: BrowserContext, server: Server) -> Page:
    """A page of the server's own."""
    found = browser.new_page()
    found.goto(f"{server.url}/v1/health")
    return found


def asked(page: Page, method: str, path: str, **headers: str) -> Any:
    return page.evaluate(ASK, [method, path, {name.replace("_", "-"): value for name, value in headers.items()}])


def sees(page: Page) -> bool:
    return bool(page.evaluate("() => seen > 0"))


def is_over(page: Page) -> bool:
    return bool(page.evaluate("() => over"))


def test_a_page_with_a_session_reads_watches_and_steers_and_another_page_does_not(
    page: Page, browser: BrowserContext, server: Server, key: str
) -> None:
    download_id = download(server, key)
    assert asked(page, "GET", "/v1/models") == 401
    assert asked(page, "POST", "/v1/session", Authorization=f"Bearer {key}") == 200
    assert page.evaluate("() => document.cookie") == ""
    assert asked(page, "GET", "/v1/models") == 200
    assert asked(page, "POST", f"/v1/downloads/{download_id}/pause") == 202
    assert asked(page, "GET", "/v1/workers") == 403
    page.evaluate(OPEN, f"{MANY_PATH}?status=active")
    wait_for(lambda: sees(page), "the stream shows nothing")

    # A page of another origin on this machine, to which the browser may send the cookie.
    other = browser.new_page()
    other.goto(f"http://localhost:{server.port}/v1/health")
    here = f"http://127.0.0.1:{server.port}"
    sent = (
        "(address) => fetch(address, {method: 'POST', mode: 'no-cors', credentials: 'include'}).then(() => 1, () => 0)"
    )
    other.evaluate(sent, f"{here}/v1/downloads/{download_id}/resume")
    assert ask(server, "GET", f"/v1/downloads/{download_id}", key).json["status"] == "paused"

    assert asked(page, "DELETE", "/v1/session") == 204
    assert asked(page, "GET", "/v1/models") == 401
    wait_for(lambda: is_over(page), "the stream goes on")


def test_an_eventsource_with_a_ticket_connects_again_until_its_key_is_revoked(
    page: Page, server: Server, file: KeyFile, key: str
) -> None:
    download_id = download(server, key)
    ticket = ask(server, "POST", "/v1/tickets", key, body={"ids": [download_id]}).json["ticket"]
    address = f"{PROGRESS_PATH}?id={download_id}&ticket={ticket}"
    for _ in range(2):
        page.evaluate(OPEN, address)
        wait_for(lambda: sees(page), "the stream shows nothing")
    file.revoke(key[5:13])
    wait_for(lambda: is_over(page), "the stream goes on")
    page.evaluate(OPEN, address)
    wait_for(lambda: is_over(page), "a dead ticket opens it")
    assert not sees(page)
