"""The release before and this one at work together, on one Redis and one store, and each in the place of the other.

Downloads are asked for and watched through nginx while replicas and pools change from one release to the other and
back, one by one. The long form is `scripts/chaos --balanced --only rolling-upgrade --only change-version`.
"""

from __future__ import annotations

import pytest

from tests.chaos.soak import Plan, soak
from tests.support.content import MIB
from tests.support.release import RELEASES

#: A single process changes, and then all of them, one after the other.
KINDS = ("change-version", "rolling-upgrade")


@pytest.mark.slow
def test_an_upgrade_and_the_way_back_lose_no_download_no_end_and_no_request(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    plan = Plan(
        seconds=20, seed=2, every_s=4, kinds=KINDS, largest_bytes=40 * MIB, balanced=True, version=RELEASES[-1],
        min_faults=3,
    )  # fmt: skip
    report = soak(plan, lines.append)
    with capsys.disabled():
        print(f"\n{report}")
    assert report.violations == [], "\n".join(lines)
    assert report.rows["rolling-upgrade"].count >= 1
    assert report.downloads["complete"] >= 3
    assert report.asked >= 50
