"""The page under load: fifty downloads that each move five times a second, in a real Chromium, for a minute.

A task of more than 50 ms is one that a person feels (the browser's own word for it is "long task"). Memory is that of
the page's heap after a collection, before and after, and the number of its nodes: neither may grow with time.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page

from benchmarks.table import print_table
from tests.support.browser import chromium
from tests.support.page import GB, Drawn, staged

#: Notes long tasks, and how many pictures were drawn.
_WATCH = """() => {
  window.long = []; window.pictures = 0;
  new PerformanceObserver((list) => { for (const one of list.getEntries()) long.push(one.duration); })
    .observe({ type: "longtask" });
  const count = () => { pictures += 1; requestAnimationFrame(count); };
  requestAnimationFrame(count);
}"""
#: Seconds after the first picture in which the page settles, before anything is counted.
_SETTLE_S = 5.0


def measure(rows: int, rate_per_s: float, seconds: float) -> None:
    """Print what the page did in that time, as a table."""
    with staged() as stage, tempfile.TemporaryDirectory() as folder, chromium(Path(folder)) as browser:
        ids = [stage.drawn.running(f"org/model-{n}", 0.0, 500 * GB) for n in range(rows)]
        page = browser.new_page()
        page.goto(stage.server.url)
        page.wait_for_function("n => document.querySelectorAll('tr.download').length === n", arg=rows)
        cdp = browser.new_cdp_session(page)
        cdp.send("Performance.enable")
        _publish(stage.drawn, ids, rate_per_s, _SETTLE_S, 0)
        page.evaluate(_WATCH)
        before = _figures(cdp)
        sent = _publish(stage.drawn, ids, rate_per_s, seconds, 1)
        after = _figures(cdp)
        print_table(*_table(page, before, after, sent, seconds))


def _publish(drawn: Drawn, ids: list[str], rate_per_s: float, seconds: float, turn: int) -> int:
    """Move every download so often; gives how many events that were."""
    began_s, sent = time.monotonic(), 0
    steps = int(seconds * rate_per_s)
    for step in range(steps):
        for number, download_id in enumerate(ids):
            drawn.progress(download_id, (turn * 10_000 + step) * 10**7 + number, 500 * GB, 50_000_000 + step)
            sent += 1
        time.sleep(max(0.0, began_s + (step + 1) / rate_per_s - time.monotonic()))
    return sent


def _figures(cdp: CDPSession) -> dict[str, float]:
    cdp.send("HeapProfiler.collectGarbage")
    found: list[dict[str, Any]] = cdp.send("Performance.getMetrics")["metrics"]
    return {one["name"]: one["value"] for one in found}


def _table(
    page: Page, before: dict[str, float], after: dict[str, float], sent: int, seconds: float
) -> tuple[str, list[str], list[list[str]]]:
    long: list[float] = page.evaluate("long")
    busy_s = after["TaskDuration"] - before["TaskDuration"]
    heap = [figures["JSHeapUsedSize"] / 1e6 for figures in (before, after)]
    rows = [
        ["events", f"{sent:,} in {seconds:g} s"],
        ["pictures", f"{page.evaluate('pictures') / seconds:.0f} a second"],
        ["tasks over 50 ms", f"{len(long)}" + (f", the longest {max(long):.0f} ms" if long else "")],
        ["time in tasks", f"{busy_s / seconds:.1%}, {busy_s / sent * 1e6:.0f} us an event"],
        ["heap after a collection", f"{heap[0]:.2f} MB before, {heap[1]:.2f} MB after"],
        ["nodes", f"{before['Nodes']:.0f} before, {after['Nodes']:.0f} after"],
    ]
    return "The page, with downloads that move", ["", "measured"], rows
