"""What the page is made of: small modules, no script or style in its HTML, and no way from a text to markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import hive.page
from hive.page.assets import MAX_BYTES, MEDIA_TYPES, Assets
from hive.page.listing import render
from hive.wire.api import Download, Model
from hive.wire.events import Complete, Downloading, Error, Event
from tests.support.page import HOSTILE

STATIC = Path(hive.page.__file__).parent / "static"
#: Lines of a module.
MAX_LINES = 150
#: Bytes of a whole first visit, compressed.
MAX_WEIGHT_BYTES = 80 * 1024
#: What makes code or markup of a text.
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|\beval\b|new Function|javascript:|DOMParser"
)
MODULES = sorted(path.name for path in STATIC.glob("*.js"))


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text within scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.inline += data.strip()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_short_and_makes_no_markup_of_texts(name: str) -> None:
    text = (STATIC / name).read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert not SINKS.search(text)
    assert "http://" not in text


def test_the_html_has_no_script_or_style_in_it_and_fetches_every_module_at_once() -> None:
    page = Tags((STATIC / "index.html").read_text())
    assert page.inline == ""
    assert not [tag for tag, attributes in page.tags if {"style", "onclick", "onload", "onerror"} & set(attributes)]
    named = {str(a.get("src") or a.get("href")) for tag, a in page.tags if tag in ("script", "link")}
    assert {f"/page/{name}" for name in MODULES} <= named
    assert all(name.startswith("/page/") for name in named)


def test_the_whole_page_is_light() -> None:
    assets = Assets()
    assert not assets.are_read
    found = [asset for path in STATIC.iterdir() if (asset := assets.find(path.name)) is not None]
    assert len(found) == sum(path.name.rpartition(".")[2] in MEDIA_TYPES for path in STATIC.iterdir())
    assert sum(len(asset.compressed) for asset in found) < MAX_WEIGHT_BYTES
    assert sum(len(asset.body) for asset in found) < MAX_BYTES
    assert assets.find("types.d.ts") is None
    assert assets.find("../assets.py") is None


def test_the_list_without_scripts_shows_hostile_names_as_text() -> None:
    event = Downloading(bytes_downloaded=1, bytes_total=3, speed_mbps=0.0)
    ends = (Complete(local_path="/a/<b>"), Error(message="<i>no</i>"))
    downloads: list[tuple[Download, Event]] = [
        (Download(id="1", model_ref=name, status="downloading"), event) for name in HOSTILE
    ]
    downloads += [(Download(id="2", model_ref="x", status="failed"), end) for end in ends]
    text = render(downloads, [Model(id=name, size=5 * 10**9, path=name) for name in HOSTILE]).decode()
    tags = {tag for tag, _ in Tags(text).tags}
    assert tags == {
        *("html", "meta", "title", "link", "body", "main", "h1", "h2"),
        *("table", "thead", "tbody", "tr"),
    } | {*("th", "td", "bdi")}
    assert "33 % of 3 B" in text
    assert "5.0 GB" in text
    assert "No downloads." in render([], []).decode()
