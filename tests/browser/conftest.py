"""A browser without a screen and without a past."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, sync_playwright

from tests.support.programs import program

#: Milliseconds after which a step in the browser has failed.
STEP_MS = 30_000


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[BrowserContext]:
    """Debian's Chromium with an empty profile."""
    chromium = program("chromium")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=chromium,
            headless=True,
            chromium_sandbox=False,
            args=["--disable-gpu", "--disable-background-networking"],
        )
        context.set_default_timeout(STEP_MS)
        try:
            yield context
        finally:
            context.close()
