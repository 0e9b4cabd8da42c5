"""A fleet that is scaled in and out while downloads run: half of its pools are taken away at once, stopped, stopped and
killed, or killed, and come back. `scripts/chaos --fleet --only scale-in --minutes 3` is the long form.
"""

from __future__ import annotations

import dataclasses

import pytest

from tests.chaos.soak import FLEET, Plan, soak
from tests.support.content import MIB

#: Half of the fleet goes in each of these ways.
KINDS = ("scale-in", "scale-in-hasty", "scale-in-kill")
#: Four pods and models of some seconds: what fits into half a minute of two cores.
SMALL_FLEET = {**FLEET, "every_s": 6.0, "pools": 4, "at_once": 4, "smallest_bytes": 24 * MIB, "largest_bytes": 40 * MIB}


@pytest.mark.slow
def test_downloads_outlive_half_of_a_fleet_that_is_taken_away_again_and_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines: list[str] = []
    plan = dataclasses.replace(Plan(seconds=19, seed=3, kinds=KINDS, lease_s=2, min_faults=len(KINDS)), **SMALL_FLEET)
    report = soak(plan, lines.append)
    with capsys.disabled():
        print(f"\n{report}")
    assert report.violations == [], "\n".join(lines)
    assert {kind for kind, row in report.rows.items() if row.count} == set(KINDS)
    assert sum(row.hit for row in report.rows.values()) >= 2, "\n".join(lines)
    assert set(report.downloads) == {"complete"}
