"""Tables: fitted to the terminal and coloured there, complete and aligned with spaces where they go into a pipe or
a file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

from hive.cli.bars import cut
from hive.cli.format import plain
from hive.cli.output import echo

#: Spaces between two columns.
GAP = "  "
#: Characters that are left of a column in the narrowest terminal, and of a name while others can be shortened more.
MIN_SHRUNK = 8
MIN_NAME = 16


class Column(NamedTuple):
    """A column: its heading, whether it holds figures (right-aligned), where it may be shortened in a narrow terminal,
    and whether it may be left away there: the one with the greatest `drops` first, one with 0 never.
    """

    heading: str
    figures: bool = False
    shrinks: Literal["", "middle", "end"] = ""
    drops: int = 0


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
    widths = fitted(columns, [max(cell_len(line[at]) for line in lines) for at in range(len(columns))], console.width)
    table = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="bold")
    for at, width in widths.items():
        justify: Literal["left", "right"] = "right" if columns[at].figures else "left"
        table.add_column(columns[at].heading, justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        # Text, not str: what stands in square brackets in a name is no markup.
        cells = [cut(row[at], width) if columns[at].shrinks == "middle" else row[at] for at, width in widths.items()]
        table.add_row(*map(Text, cells))
    console.print(table)


def fitted(columns: Sequence[Column], widths: Sequence[int], room: int) -> dict[int, int]:
    """The columns that a terminal of `room` characters has room for, by their number, and how wide each is.

    Those that can be missed go first, then others are shortened, in their order.
    """
    found = dict(enumerate(widths))
    least = {at: min(width, MIN_SHRUNK) if columns[at].shrinks else width for at, width in found.items()}
    for at in sorted((at for at in found if columns[at].drops), key=lambda at: -columns[at].drops):
        if _line_width([least[n] for n in found]) > room:
            del found[at]
    for kind, chars in (("middle", MIN_NAME), ("end", MIN_SHRUNK), ("middle", MIN_SHRUNK)):
        for at in [at for at in found if columns[at].shrinks == kind]:
            excess = max(0, _line_width(list(found.values())) - room)
            found[at] = max(min(found[at], chars), found[at] - excess)
    return found


def _line_width(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)
