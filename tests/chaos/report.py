"""What the soak found: a line for each fault, and the table at its end."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.content import MIB


@dataclass
class Row:
    """All faults of a kind: how often, the seconds of each recovery, and the bytes that were fetched again."""

    count: int = 0
    recoveries_s: list[float] = field(default_factory=list)
    #: How often it hit downloads that no other kind hit, the bytes that they fetched again, and the most for each time
    #: that one was hit.
    hit: int = 0
    bytes_again: int = 0
    most_again: int = 0

    def note_again(self, times: int, bytes_again: int) -> None:
        """A download that was hit so often, by this kind alone, has ended."""
        self.hit += times
        self.bytes_again += bytes_again
        self.most_again = max(self.most_again, bytes_again // times)


@dataclass
class Report:
    """The result of a soak."""

    seed: int
    rows: dict[str, Row] = field(default_factory=lambda: defaultdict(Row))
    downloads: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    bytes_brought: int = 0
    bytes_again: int = 0
    seconds: float = 0.0
    #: Requests of the prober, and how many of them were not answered as they should be.
    asked: int = 0
    unanswered: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        head = (
            f"{'fault':15} {'count':>5} {'hit':>5} {'median s':>9} {'p95 s':>7} {'max s':>7} {'again MiB/hit':>14} "
            f"{'most':>7}"
        )
        lines = [head, *(_line(kind, row) for kind, row in sorted(self.rows.items()))]
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.downloads.items()))
        faults = sum(row.count for row in self.rows.values())
        lines.append(
            f"{sum(self.downloads.values())} downloads ({ends}), {self.bytes_brought / MIB:,.0f} MiB, "
            f"{self.bytes_again / MIB:,.1f} MiB fetched again; {faults} faults in "
            f"{self.seconds:.0f} s, seed {self.seed}; {self.asked} requests beside them, {self.unanswered} "
            f"not answered; {len(self.violations)} violations"
        )
        return "\n".join([*lines, *(f"VIOLATION {violation}" for violation in self.violations)])


def _line(kind: str, row: Row) -> str:
    times = sorted(row.recoveries_s)
    figures = [f"{quantile(times, q):.2f}" if times else "-" for q in (0.5, 0.95, 1.0)]
    again = f"{row.bytes_again / row.hit / MIB:.2f}" if row.hit else "-"
    most = f"{row.most_again / MIB:.2f}" if row.hit else "-"
    return (
        f"{kind:15} {row.count:5} {len(times):5} {figures[0]:>9} {figures[1]:>7} {figures[2]:>7} {again:>14} {most:>7}"
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of these that so large a share does not exceed. Raises IndexError where there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
