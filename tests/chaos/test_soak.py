"""F15 in short: the soak, with a fault every few seconds. `scripts/chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.faults import DEFAULT_KINDS
from tests.chaos.report import quantile
from tests.chaos.soak import Plan, soak
from tests.support.content import MIB

#: One of each family; the whole table takes minutes.
KINDS = ("worker-kill", "horse-kill", "redis-kick", "replica-kill", "origin-cut", "worker-reset")


@pytest.mark.slow
def test_forty_seconds_of_chaos_break_no_promise(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    plan = Plan(seconds=30, seed=7, every_s=5, kinds=KINDS, largest_bytes=40 * MIB, lease_s=2, min_faults=4)
    report = soak(plan, lines.append)
    with capsys.disabled():
        print(f"\n{report}")
    assert report.violations == [], "\n".join(lines)
    assert sum(row.count for row in report.rows.values()) >= 4
    assert report.downloads["complete"] >= 3


def test_a_seed_gives_the_same_faults_in_the_same_order() -> None:
    from itertools import islice
    from pathlib import Path

    from tests.chaos.soak import _Soak

    def drawn(seed: int) -> list[tuple[str, float]]:
        made = _Soak(Plan(seconds=1, seed=seed), Path("/nonexistent"), lambda line: None)
        return [(kind, rng.random()) for _, kind, rng in islice(made._strikes, 50)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert {kind for kind, _ in drawn(1)} == set(DEFAULT_KINDS)


def test_a_quantile_is_one_of_those_measured() -> None:
    assert [quantile([1, 2, 3, 4], share) for share in (0.5, 0.95, 1.0)] == [2, 4, 4]
