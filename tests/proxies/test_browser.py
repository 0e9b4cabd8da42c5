"""More event streams than a browser has connections: over TLS the files offer HTTP/2, where they share one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, expect

from hive.wire.api import PROGRESS_PATH
from tests.proxies.guarded import Guarded
from tests.proxies.programs import Proxy
from tests.support.browser import chromium
from tests.support.downloads import create

pytestmark = pytest.mark.slow

#: Milliseconds that a step may take on a machine that has other things to do.
expect.set_options(timeout=60_000)
#: Streams of one page; a browser has six connections to a name over HTTP/1.1.
SOURCES = 10
OPEN = """([address, count]) => {
  window.seen = new Set();
  window.sources = Array.from({length: count}, (_, each) => {
    const source = new EventSource(`${address}&source=${each}`);
    source.onmessage = () => seen.add(each);
    return source;
  });
}"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page of a browser that takes the test's certificate."""
    with chromium(tmp_path, any_certificate=True) as context:
        yield context.new_page()


def test_a_page_watches_more_than_six(guarded_proxy: Proxy, guarded: Guarded, page: Page) -> None:
    proxy, download_id = guarded_proxy, create(guarded.downloads)
    asked = {"ids": [download_id]}
    answer = requests.post(f"{proxy.url}/v1/tickets", headers=guarded.header, json=asked, verify=proxy.ca, timeout=60)
    ticket = answer.json()["ticket"]
    page.goto(f"{proxy.url}/v1/health")
    page.evaluate(OPEN, [f"{PROGRESS_PATH}?id={download_id}&ticket={ticket}", SOURCES])
    page.wait_for_function("count => seen.size === count", arg=SOURCES)
    protocols = page.evaluate("performance.getEntriesByType('navigation').map(entry => entry.nextHopProtocol)")
    assert protocols == ["h2"]


def test_the_page_opens_with_a_key_watches_and_steers(guarded_proxy: Proxy, guarded: Guarded, page: Page) -> None:
    """The session's cookie is Secure, and the two replicas behind the proxy both take it."""
    download_id = create(guarded.downloads, f"seen-through-{guarded_proxy.name}")
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(guarded_proxy.url)
    dialog = page.get_by_role("dialog", name="This hive wants a key")
    dialog.get_by_label("API key").fill(guarded.key)
    dialog.get_by_role("button", name="Open").click()
    row = page.locator(f'tr[data-id="{download_id}"]')
    expect(row).to_contain_text("Waits")
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("Paused")
    for _ in range(4):  # whichever replica answers
        page.reload()
        expect(row).to_contain_text("Paused")
    assert [cookie["secure"] for cookie in page.context.cookies()] == [True]
    assert guarded.key not in page.evaluate("JSON.stringify([document.cookie, {...localStorage}])")
    assert complaints == []
