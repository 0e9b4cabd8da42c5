"""A browser without a screen and without a past."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import BrowserContext, sync_playwright

from tests.support.programs import program

#: Milliseconds after which a step in the browser has failed.
STEP_MS = 30_000


@contextlib.contextmanager
def chromium(folder: Path, *, any_certificate: bool = False) -> Iterator[BrowserContext]:
    """Debian's Chromium with an empty profile in this folder. `any_certificate`: it takes that of a test, too."""
    path = program("chromium")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(folder / "profile"),
            executable_path=path,
            headless=True,
            chromium_sandbox=False,
            ignore_https_errors=any_certificate,
            args=["--disable-gpu", "--disable-background-networking"],
        )
        context.set_default_timeout(STEP_MS)
        try:
            yield context
        finally:
            context.close()
