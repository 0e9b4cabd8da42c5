"""`scripts/screenshots`: a picture of every state of the page, of a real server, in light and dark, narrow and wide."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from playwright.sync_api import BrowserContext, Page

from hive.auth.keys import KeyFile
from hive.settings import Settings
from tests.browser import terminal_picture
from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.browser import chromium
from tests.support.gguf_models import write_reciting
from tests.support.keys import make
from tests.support.llm import ENGINE, PIECES
from tests.support.page import GB, HOSTILE, Stage, put_models, staged
from tests.support.processes import Workers
from tests.support.waiting import wait_for

#: Pixels: a telephone, and a page of 1280 at 400 %; a desk.
NARROW, WIDE, VERY_WIDE = 320, 1280, 2200
HEIGHT = 900
GATED = "The Hub gives access to meta-llama/Llama-4-Scout only to those whom its authors let in."
VARIANTS = {f"gemma-{name}.gguf": size for name, size in (("Q2_K", 11), ("Q4_K_M", 17), ("Q6_K", 22), ("Q8_0", 29))}
#: What the page reads beside its stream.
READ = re.compile(r"/v1/(downloads\?|models$|partials$|workers|settings)")


#: Those that the documentation shows, by what they are called there.
KEPT = {
    "working-light-1280": "page-light",
    "working-dark-1280": "page-dark",
    "narrow-dark-320": "page-narrow",
    "plan-light-1280": "plan",
}


class Camera:
    """Takes pictures of one page into a folder."""

    def __init__(self, browser: BrowserContext, folder: Path, only: str, keep: Path | None) -> None:
        self._keep = keep
        self._browser, self._folder, self._only = browser, folder, re.compile(only)

    def wants(self, state: str) -> bool:
        return self._only.search(state) is not None

    def take(self, page: Page, state: str, width: int = WIDE, scheme: str = "light", *, whole: bool = True) -> None:
        """One picture, named after what it shows."""
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.evaluate("document.querySelector('#said').textContent = ''")
        path = self._folder / f"{state}-{scheme}-{width}.png"
        page.screenshot(path=str(path), full_page=whole)
        click.echo(path)
        if self._keep is not None and path.stem in KEPT:
            shutil.copy(path, self._keep / f"{KEPT[path.stem]}.png")

    def all(self, page: Page, state: str) -> None:
        """Wide and narrow, light and dark."""
        for width, scheme in ((WIDE, "light"), (WIDE, "dark"), (NARROW, "light"), (NARROW, "dark")):
            self.take(page, state, width, scheme)

    def of_terminal(self) -> None:
        """A picture of no page."""
        path = self._folder / "terminal.png"
        terminal_picture.take(self._browser, path)
        click.echo(path)
        if self._keep is not None:
            shutil.copy(path, self._keep / path.name)

    def open(self, stage: Stage, state: str = "open") -> Page:
        page = self._browser.new_page()
        page.on("console", lambda message: click.echo(f"{state}: {message.text}", err=True))
        page.on("pageerror", lambda error: click.echo(f"{state}: {error}", err=True))
        page.goto(stage.server.url)
        page.wait_for_function("() => document.documentElement.dataset.link === 'open'")
        return page


def empty(camera: Camera) -> None:
    """Nothing there yet; then the server goes away."""
    with staged() as stage:
        page = camera.open(stage)
        page.get_by_text("No models yet.").wait_for()
        camera.all(page, "empty")
        stage.server.signal(signal.SIGKILL)
        page.locator("#lost").wait_for()
        camera.take(page, "offline")
        camera.take(page, "offline", NARROW, "dark")
        page.close()


def working(camera: Camera) -> None:
    """A few downloads in every state, and models on the disk."""
    with staged() as stage:
        put_models(Settings.from_env(stage.env))
        drawn = stage.drawn
        one = drawn.running("Qwen/Qwen3-32B-GGUF:Q4_K_M", 0.62, int(19.8 * GB), 112_000_000)
        page = camera.open(stage)
        page.locator("tr.download").wait_for()
        camera.take(page, "one")
        drawn.running("deepseek-ai/DeepSeek-V3.1", 0.17, int(688 * GB), 240_000_000)
        drawn.progress(
            drawn.running("openai/gpt-oss-20b", 0.99, int(13.8 * GB)),
            int(13.8 * GB),
            int(13.8 * GB),
            0,
            status="verifying",
        )
        drawn.queued("mistralai/Mistral-Small-3.2", int(48 * GB))
        drawn.paused("black-forest-labs/FLUX.1-dev", 0.35, int(57.9 * GB))
        drawn.failed(
            "meta-llama/Llama-4-Scout",
            "MODEL_ACCESS_DENIED",
            GATED,
            page="https://huggingface.co/meta-llama/Llama-4-Scout",
        )
        wait_for(lambda: page.locator("tr.download").count() == 6)
        camera.all(page, "working")
        camera.take(page, "narrow", NARROW, "dark", whole=False)
        camera.take(page, "working", VERY_WIDE)
        camera.take(page, "working", VERY_WIDE, "dark")
        page.locator("hive-models summary").first.click()
        page.locator("hive-history summary").click()
        page.locator("hive-history tr[data-status=failed]").wait_for()
        camera.take(page, "use")
        camera.take(page, "use", NARROW, "dark")
        drawn.complete(one)
        page.locator("tr[data-status=complete]").wait_for()
        page.mouse.move(5, 5)
        camera.take(page, "done", WIDE, "dark")
        page.close()


def failing(camera: Camera) -> None:
    """Every kind of failure, and names that somebody chose to break a page."""
    with staged() as stage:
        drawn = stage.drawn
        drawn.failed(
            "meta-llama/Llama-4-Scout",
            "MODEL_ACCESS_DENIED",
            GATED,
            page="https://huggingface.co/meta-llama/Llama-4-Scout",
        )
        table = [{"name": name[6:-5], "size": size * GB, "files": [name]} for name, size in VARIANTS.items()]
        drawn.failed("org/model:Q3_K", "VARIANT_NOT_FOUND", "The model has no Q3_K.", variants=table)
        drawn.failed("org/large", "DISK_FULL", "There is not enough room.", needed=700 * GB, available=80 * GB)
        drawn.failed("org/broken", "CHECKSUM_MISMATCH", "The source keeps sending wrong bytes.")
        for name in HOSTILE:
            drawn.running(name)
        page = camera.open(stage)
        wait_for(lambda: page.locator("tr.download").count() == 4 + len(HOSTILE))
        camera.all(page, "failed")
        page.close()


def crowded(camera: Camera) -> None:
    """Fifty at once."""
    with staged() as stage:
        for n in range(50):
            if n % 5:
                stage.drawn.running(f"org-{n % 7}/model-{n}:Q4_K_M", (n * 37 % 100) / 100, (n % 9 + 1) * GB)
            else:
                stage.drawn.queued(f"org-{n % 7}/model-{n}", n * GB)
        page = camera.open(stage)
        wait_for(lambda: page.locator("tr.download").count() == 50)
        camera.take(page, "fifty", whole=False)
        camera.take(page, "fifty", NARROW, "dark", whole=False)
        page.close()


def unread(camera: Camera) -> None:
    """Regions that could not be read: none at first, then none again."""
    busy = {"error": {"code": "TOO_MANY_REQUESTS", "message": "Too many requests came from this address."}}
    with staged() as stage:
        put_models(Settings.from_env(stage.env))
        stage.drawn.running("Qwen/Qwen3-32B-GGUF:Q4_K_M", 0.62, int(19.8 * GB), 112_000_000)
        page = camera.open(stage)
        page.locator("hive-models tbody tr").first.wait_for()
        page.route(READ, lambda route: route.fulfill(status=429, json=busy, headers={"retry-after": "30"}))
        page.evaluate("document.dispatchEvent(new CustomEvent('hive-memory'))")
        page.locator("hive-downloads .unread").wait_for()
        page.locator("hive-memory .unread").wait_for()
        camera.all(page, "old")
        page.reload()
        page.locator("hive-models .unread").wait_for()
        page.locator("hive-history summary").click()
        page.locator("hive-history .unread").wait_for()
        camera.all(page, "unread")
        page.close()


def keyed(camera: Camera) -> None:
    """A server with keys, to somebody who has shown none."""
    with tempfile.TemporaryDirectory() as home:
        make(KeyFile(Path(home) / "keys.json"), "admin")
        with staged(HIVE_API_KEYS_FILE=str(Path(home) / "keys.json")) as stage:
            page = camera._browser.new_page()
            page.goto(stage.server.url)
            page.locator("dialog[open]").wait_for()
            camera.take(page, "no-key", whole=False)
            camera.take(page, "no-key", NARROW, "dark", whole=False)
            page.close()


def planned(camera: Camera) -> None:
    """With workers: what would come, a gated model, and one in memory that answers."""
    with HubServer() as hub, tempfile.TemporaryDirectory() as folder:
        made = hub.create(
            "google/gemma-3-27b-it-GGUF", {name: SyntheticFile(size * 10**7, seed=1) for name, size in VARIANTS.items()}
        )
        made.license = "gemma"
        hub.create("meta-llama/Llama-4-Scout", {"model.safetensors": b"weights"}, gated="manual")
        hub.create("org/small-GGUF", {"m-Q4_K_M.gguf": write_reciting(Path(folder) / "m-Q4_K_M.gguf", PIECES)})
        with staged(HF_ENDPOINT=hub.endpoint, **ENGINE) as stage:
            workers = Workers(stage.env, 2)
            try:
                _planned(camera, stage)
            finally:
                workers.stop()


def _planned(camera: Camera, stage: Stage) -> None:
    page = camera.open(stage)
    page.fill("#ref", "google/gemma-3-27b-it-GGUF")
    page.keyboard.press("Enter")
    page.locator(".variants").wait_for()
    camera.all(page, "plan")
    page.fill("#ref", "meta-llama/Llama-4-Scout")
    page.keyboard.press("Enter")
    page.locator(".plan form.token").wait_for()
    camera.take(page, "gated")
    camera.take(page, "gated", NARROW, "dark")
    page.get_by_role("button", name="Close").click()
    page.fill("#ref", "org/small-GGUF")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Download").click()
    page.get_by_role("button", name="Load into memory").click()
    page.locator("li.loaded").wait_for()
    camera.take(page, "loading")
    page.get_by_label("Prompt for").fill("?")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("tokens").wait_for()
    page.mouse.move(5, 5)
    camera.take(page, "memory")
    camera.take(page, "memory", NARROW, "dark")
    page.close()


def terminal(camera: Camera) -> None:
    """`hive pull` and `hive ps` on a terminal."""
    camera.of_terminal()


STATES: dict[str, Callable[[Camera], None]] = {
    "empty": empty,
    "working": working,
    "failing": failing,
    "crowded": crowded,
    "unread": unread,
    "keyed": keyed,
    "planned": planned,
    "terminal": terminal,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--into", type=click.Path(path_type=Path), default=Path("pictures"), help="The folder.")
@click.option("--only", default="", help=f"A pattern of what is taken: {', '.join(STATES)}.")
@click.option("--keep", type=click.Path(path_type=Path), help="Where those go that the documentation shows.")
def main(into: Path, only: str, keep: Path | None) -> None:
    """Take pictures of the page in every state."""
    into.mkdir(parents=True, exist_ok=True)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hive-chromium-") as folder, chromium(Path(folder)) as browser:
        camera = Camera(browser, into, only, keep)
        for name, take in STATES.items():
            if camera.wants(name):
                take(camera)


if __name__ == "__main__":
    os.environ.setdefault("CI", "true")
    main(prog_name="scripts/screenshots")
