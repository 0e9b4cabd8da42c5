"""Tables in Markdown, as they go into the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.machine import describe


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with a title above it and the machine's load below."""
    print(f"\n### {title}\n")
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(f"\n{describe()}.", flush=True)


def ratio(figures: Sequence[float], peers: Sequence[float]) -> str:
    """The median of the ratios of figures and peers that were measured in turns."""
    pairs = [(a, b) for a, b in zip(figures, peers, strict=True) if b]
    return f"{statistics.median(a / b for a, b in pairs):.2f}" if pairs else ""


def middle(figures: Iterable[float], digits: int = 1) -> str:
    """The median."""
    return f"{statistics.median(figures):.{digits}f}"
