"""Bars of a download in lines of a given width: names first, cut in the middle, then figures; the bar takes what is
left.

Problem: a terminal has 40 columns or 200, and names of models have 60. Fixed widths for bar and figures leave no room
for names in the one and waste most of the other. So the figures are chosen by what the line can hold, the name gets
what it needs as far as there is room, and the bar is the rest. Everything here is text from figures, without a
terminal.
"""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple

from hive.cli.format import duration, percent, plain, shown, size, speed
from hive.wire.events import Downloading

#: Columns of the shortest bar that is drawn, and of the shortest name.
MIN_BAR: Final = 8
MIN_NAME: Final = 12
#: Percent of the line that a long name gets before figures are left away for it.
NAME_PERCENT: Final = 40
#: Columns between name, figures and bar.
GAP: Final = "  "


class Glyphs(NamedTuple):
    """What bars are drawn with: done, to come, and what stands for a cut."""

    done: str = "━"
    open: str = "─"
    cut: str = "…"


PLAIN: Final = Glyphs("#", "-", "~")


class Row(NamedTuple):
    """One line: a name, figures from the fullest choice to the shortest, and how much is done (None: not known)."""

    name: str
    facts: tuple[str, ...]
    share: float | None


def lines(name: str, event: Downloading, width: int, glyphs: Glyphs = Glyphs()) -> list[str]:  # noqa: B008 - a tuple
    """A line for each file under way, one for the whole, and what it does where it does not download."""
    files = event.files if (event.files_total or 2) > 1 else ()
    rows = [
        Row(f"  {plain(file.path)}", _file_facts(file.bytes_downloaded, file.bytes_total), _share(file))
        for file in files
    ]
    total = event.bytes_downloaded / event.bytes_total if event.bytes_total else None
    rows.append(Row(plain(shown(name)), _facts(event), total))
    drawn = _fitted(rows, width, glyphs)
    note = note_of(event)
    return [*drawn, cut(f"  {note}", width, glyphs.cut)] if note else drawn


def note_of(event: Downloading) -> str:
    """What the download does, where it is not simply downloading."""
    status = event.status or "downloading"
    message = plain(event.message) if event.message else ""
    if status == "downloading":
        return message
    return f"{status}: {message}" if message else status


def cut(text: str, columns: int, mark: str = "…") -> str:
    """`text` in at most so many columns, without its middle: names of files differ at their ends."""
    if columns_of(text) <= columns:
        return text
    if columns <= len(mark):
        return mark[: max(0, columns)]
    head_room = (columns - len(mark)) // 3
    head = _first(text, head_room)
    tail = _first(text[::-1], columns - len(mark) - columns_of(head))[::-1]
    return head + mark + tail


def columns_of(text: str) -> int:
    """Columns that a text takes on a terminal: letters of Chinese, Japanese and Korean take two, accents none."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _first(text: str, columns: int) -> str:
    taken = 0
    for at, char in enumerate(text):
        taken += _columns(char)
        if taken > columns:
            return text[:at]
    return text


def _fitted(rows: list[Row], width: int, glyphs: Glyphs) -> list[str]:
    """All rows with names and figures below each other."""
    names = max(columns_of(row.name) for row in rows)
    wanted = min(names, width * NAME_PERCENT // 100) + MIN_BAR + len(GAP)
    level = next((at for at in range(_levels(rows)) if width - len(GAP) - _facts_width(rows, at) >= wanted), -1)
    facts_width = _facts_width(rows, level)
    room = width - facts_width - len(GAP)
    bar = room - min(names, max(MIN_NAME, room - MIN_BAR - len(GAP))) - len(GAP)
    bar = bar if bar >= MIN_BAR else 0
    name_width = max(1, room - (bar + len(GAP) if bar else 0))
    return [_line(row, name_width, bar, level, facts_width, glyphs).rstrip() for row in rows]


def _line(row: Row, name_width: int, bar: int, level: int, facts_width: int, glyphs: Glyphs) -> str:
    name = cut(row.name, name_width, glyphs.cut)
    parts = [name + " " * (name_width - columns_of(name))]
    if bar:
        done = round(bar * min(row.share, 1.0)) if row.share is not None else 0
        parts.append(glyphs.done * done + glyphs.open * (bar - done) if row.share is not None else " " * bar)
    facts = _chosen(row, level)
    return GAP.join([*parts, facts.ljust(facts_width)])


def _chosen(row: Row, level: int) -> str:
    return row.facts[min(level, len(row.facts) - 1)]


def _levels(rows: list[Row]) -> int:
    return max(len(row.facts) for row in rows)


def _facts_width(rows: list[Row], level: int) -> int:
    return max(len(_chosen(row, level)) for row in rows)


def _facts(event: Downloading) -> tuple[str, ...]:
    """Share, sizes, files, speed and time left, as far as they are known; each choice leaves more away."""
    share = percent(event.bytes_downloaded, event.bytes_total)
    known = bool(event.bytes_total or event.bytes_downloaded)
    sizes = amounts(event.bytes_downloaded, event.bytes_total) if known else ""
    files = f"{event.files_done or 0}/{event.files_total} files" if (event.files_total or 0) > 1 else ""
    rate = speed(event.bytes_per_second if event.bytes_per_second is not None else event.speed_mbps * 1_000_000)
    left = f"{duration(event.eta_seconds)} left" if event.eta_seconds is not None else ""
    choices = (
        (share, sizes, files, rate, left),
        (share, sizes, rate, left),
        (share, rate, left),
        (share, left or rate),
        (share or rate,),
    )
    return tuple(GAP.join(filter(None, choice)) for choice in choices)


def _file_facts(done: int, total: int) -> tuple[str, ...]:
    share, sizes = percent(done, total), amounts(done, total)
    return tuple(GAP.join(filter(None, choice)) for choice in ((share, sizes), (share, sizes), (share or sizes,)))


def _share(file: object) -> float | None:
    total = getattr(file, "bytes_total", 0)
    return getattr(file, "bytes_downloaded", 0) / total if total else None


def facts(event: Downloading) -> str:
    """All that is known, on one line."""
    return _facts(event)[0]


def amounts(done: int, total: int) -> str:
    """`1.2 GB/4.1 GB`, or what arrived where the total is not known."""
    return f"{size(done)}/{size(total)}" if total else size(done)
