"""The page at /docs in a real browser: without scripts, in light and dark, from a telephone to a wide screen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page

from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from tests.support.processes import Server, environment, stopping

pytestmark = pytest.mark.slow

#: Pixels; 320 is the narrowest that people use, also by zooming a page of 1280 to 400 %.
WIDTHS = (320, 768, 1440)


@pytest.fixture
def seen() -> list[str]:
    """What the browser complained of, and the addresses that it got an answer from."""
    return []


@pytest.fixture(scope="module")
def server(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests, which only look."""
    folder = tmp_path_factory.mktemp("docs")
    with connect(redis_server.url) as client:
        client.flushall()  # the server of the module before had another store
    with stopping(Server(environment(redis_server.url, folder, HIVE_DRAIN_S="0.1"))) as process:
        assert isinstance(process, Server)
        yield process


@pytest.fixture
def page(shared: BrowserContext, server: Server, seen: list[str]) -> Iterator[Page]:
    """A page of its own in the module's browser."""
    page = shared.new_page()
    page.on("console", lambda message: seen.append(message.text))
    page.on("requestfinished", lambda request: seen.append(request.url))
    page.goto(f"{server.url}/docs")
    yield page
    page.close()


def test_it_is_one_request_and_no_complaint_of_the_policy(page: Page, seen: list[str]) -> None:
    assert seen == [page.url]
    assert page.evaluate("document.styleSheets.length") == 1
    assert page.evaluate("document.scripts.length") == 0


def test_the_policy_lets_nothing_in_that_somebody_adds(page: Page, seen: list[str]) -> None:
    page.evaluate("""() => {
        window.ran = 0;
        const script = document.createElement("script");
        script.textContent = "window.ran = 1";
        document.body.append(script);
        const image = document.createElement("img");
        image.src = "/healthz";
        document.body.append(image);
    }""")
    page.wait_for_function("() => document.images[0].complete")
    assert page.evaluate("window.ran") == 0
    assert sum("Content Security Policy" in said for said in seen) >= 2
    assert f"{page.url.removesuffix('/docs')}/healthz" not in seen


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_at_any_width(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("for (const errors of document.querySelectorAll('details')) errors.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    rights = page.evaluate("[...document.querySelectorAll('main *')].map((e) => e.getBoundingClientRect().right)")
    assert max(rights) <= width + 1


#: The contrast of a text with what is behind it, by the formula of WCAG 2.
CONTRAST = """(element) => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (text) => {
    const [r, g, b] = rgb(text).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  while (behind && (rgb(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
  const [a, b] = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


#: What has a colour of its own.
KINDS = (".type", ".scope", ".get", ".post", ".put", ".delete", "summary", "h1 small")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_light_and_dark(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    for selector in (
        "body",
        "main a",
        "nav a",
        "code",
        ".type",
        ".scope",
        ".get",
        ".post",
        ".put",
        ".delete",
        "summary",
    ):
        assert page.eval_on_selector(selector, CONTRAST) >= 4.5, selector


def test_it_is_the_same_without_javascript(page: Page, shared: BrowserContext) -> None:
    with_it = page.evaluate("document.body.innerText")
    session = shared.new_cdp_session(page)
    session.send("Emulation.setScriptExecutionDisabled", {"value": True})
    page.reload()
    session.send("Emulation.setScriptExecutionDisabled", {"value": False})
    assert page.evaluate("document.body.innerText") == with_it
    page.locator("details summary").first.click()
    assert page.locator("details").first.get_attribute("open") is not None
