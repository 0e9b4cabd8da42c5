"""axe-core, which looks for what keeps people from using a page."""

from __future__ import annotations

from typing import Any, Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

#: The rules by which it judges: WCAG 2.2 A and AA, and what its authors know to be good.
ALL: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


def violations(page: Page, *rules: str) -> list[tuple[str, list[Any]]]:
    """What it finds, by these rules or all, with the first elements of each kind."""
    page.emulate_media(reduced_motion="reduce")  # what fades in has no contrast yet
    found = Axe().run(page, options={"runOnly": list(rules or ALL)}).response["violations"]
    page.emulate_media(reduced_motion="no-preference")
    return [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found]
