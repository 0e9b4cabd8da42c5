"""Tables: fitted to the terminal and coloured there, complete and aligned with spaces where they go into a pipe or
a file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

from hive.cli.format import plain
from hive.cli.output import echo

#: Spaces between two columns.
GAP = "  "
#: Characters that are left of a column in the narrowest terminal.
MIN_SHRUNK = 12


class Column(NamedTuple):
    """A column: its heading, whether it holds figures (right-aligned), and whether it may be shortened in a narrow
    terminal.
    """

    heading: str
    figures: bool = False
    shrinks: bool = False


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to standard output. Without rows there are only the headings, as scripts expect it."""
    rows = [[plain(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_fitted(columns, rows)
    else:
        for line in aligned(columns, rows):
            echo(line)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Write `name  value` lines to standard output, without those that have no value."""
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        if value:
            echo(f"{name:{width}}{GAP}{plain(value)}")


def aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a plain table, each column as wide as its widest entry; nothing is shortened."""
    lines = [[column.heading for column in columns], *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return [
        GAP.join(
            text.rjust(width) if column.figures else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    ]


def _print_fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    lines = [[column.heading for column in columns], *rows]
    widths = [max(cell_len(line[at]) for line in lines) for at in range(len(columns))]
    spare = console.width - sum(widths) - len(GAP) * len(columns)
    table = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        fitted = max(MIN_SHRUNK, width + min(spare, 0)) if column.shrinks else width
        justify: Literal["left", "right"] = "right" if column.figures else "left"
        table.add_column(column.heading, justify=justify, no_wrap=True, overflow="ellipsis", width=fitted)
    for row in rows:
        # Text, not str: what stands in square brackets in a name is no markup.
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
