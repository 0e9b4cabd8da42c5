"""How progress is shown: bars on a terminal, plain lines elsewhere, one JSON event a line for programs, or nothing.

Everything goes to standard error, except JSON, so that standard output holds the result and nothing else.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

from hive.cli.format import duration, percent, plain, shortened, size, speed
from hive.wire.events import Complete, Downloading, Event, encode

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds between two plain lines of one status.
LINE_INTERVAL_S = 1.0
#: Characters of a bar, of the figures behind the longest, and of a file's name in the narrowest terminal.
BAR_CHARS = 24
FACTS_CHARS = 60
MIN_NAME_CHARS = 16


class Printer(Protocol):
    """Something that shows the events of one download."""

    def show(self, event: Event) -> None:
        """Show an event."""

    def waiting(self, delay_s: float) -> None:
        """Say that the connection is lost and comes back in so many seconds."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def choose_printer(name: str, *, as_json: bool, quiet: bool) -> Printer:
    """The printer that fits the options and standard error. `name` is what the download is called."""
    if as_json:
        return JsonLines()
    if quiet:
        return Quiet()
    return Bars(name) if sys.stderr.isatty() else Lines(name)


class Quiet:
    """Shows nothing."""

    def show(self, event: Event) -> None:
        """Nothing."""

    def waiting(self, delay_s: float) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class JsonLines(Quiet):
    """Each event as a line of JSON on standard output."""

    def show(self, event: Event) -> None:
        """One line, written at once."""
        click.echo(encode(event))


class Lines(Quiet):
    """Plain lines: at once when the status changes, else at most one a second."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._status = ""
        self._next_s = 0.0

    def show(self, event: Event) -> None:
        """A line, where it is time for one."""
        if isinstance(event, Complete):
            click.echo(f"{self._name}: {summary(event)}", err=True)
        if not isinstance(event, Downloading):
            return
        status, now = event.status or "downloading", time.monotonic()
        if status != self._status or now >= self._next_s:
            self._status, self._next_s = status, now + LINE_INTERVAL_S
            click.echo(f"{self._name}: {line(event)}", err=True)

    def waiting(self, delay_s: float) -> None:
        """A line, the first time."""
        if self._status != "reconnecting":
            self._status = "reconnecting"
            click.echo(f"{self._name}: the connection is lost, connecting again", err=True)


class Bars(Quiet):
    """A bar for each file under way and one for the whole, drawn again in place; a summary line remains."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._files: dict[str, TaskID] = {}
        self._progress = _new_progress()
        self._total = self._progress.add_task(name, total=None, facts="")

    def show(self, event: Event) -> None:
        """Set the bars to this event."""
        if isinstance(event, Complete):
            self._progress.stop()
            click.echo(f"{self._name}: {summary(event)}", err=True)
        if not isinstance(event, Downloading):
            return
        self._show_files(event)
        self._progress.update(
            self._total,
            description=self._title(event),
            completed=event.bytes_downloaded,
            total=event.bytes_total or None,
            facts=facts(event),
        )

    def waiting(self, delay_s: float) -> None:
        """Say so in the place of the status."""
        self._progress.update(self._total, description=f"{self._name}  connecting again")

    def _title(self, event: Downloading) -> str:
        status = event.status or "downloading"
        note = f": {plain(event.message)}" if event.message else ""
        return self._name if status == "downloading" and not note else f"{self._name}  {status}{note}"

    def _show_files(self, event: Downloading) -> None:
        under_way = {file.path: file for file in event.files} if (event.files_total or 2) > 1 else {}
        for path in self._files.keys() - under_way.keys():
            self._progress.remove_task(self._files.pop(path))
        for path, file in under_way.items():
            if path not in self._files:
                room = max(MIN_NAME_CHARS, self._progress.console.width - BAR_CHARS - FACTS_CHARS)
                name = shortened(plain(path), room)
                self._files[path] = self._progress.add_task(f"  {name}", total=None, facts="")
            self._progress.update(
                self._files[path],
                completed=file.bytes_downloaded,
                total=file.bytes_total or None,
                facts=amounts(file.bytes_downloaded, file.bytes_total),
            )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def _new_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    # No markup: what stands in square brackets in a file's name is no style.
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=BAR_CHARS),
        TextColumn("{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True)),
        console=Console(stderr=True, highlight=False),
        transient=True,
        expand=True,
    )


def line(event: Downloading) -> str:
    """An event under way as plain text."""
    parts = [event.status or "downloading", facts(event), plain(event.message or "")]
    return "  ".join(part for part in parts if part)


def facts(event: Downloading) -> str:
    """Share, sizes, files, speed and time left, as far as they are known."""
    files = f"{event.files_done or 0}/{event.files_total} files" if (event.files_total or 0) > 1 else ""
    left = f"{duration(event.eta_seconds)} left" if event.eta_seconds is not None else ""
    known = bool(event.bytes_total or event.bytes_downloaded)
    parts = [
        percent(event.bytes_downloaded, event.bytes_total),
        amounts(event.bytes_downloaded, event.bytes_total) if known else "",
        files,
        speed(event.bytes_per_second if event.bytes_per_second is not None else event.speed_mbps * 1_000_000),
        left,
    ]
    return "  ".join(part for part in parts if part)


def amounts(done: int, total: int) -> str:
    """`1.2 GB/4.1 GB`, or what arrived where the total is not known."""
    return f"{size(done)}/{size(total)}" if total else size(done)


def summary(event: Complete) -> str:
    """The end in one line: size, time, speed, and whether the digests were checked. Without a time it was no
    download: the model was there.
    """
    if event.seconds is None:
        return f"already on disk, {size(event.bytes_total)}" if event.bytes_total is not None else "already on disk"
    parts = [size(event.bytes_total)]
    if event.seconds and event.bytes_total:
        parts[0] += f" in {duration(event.seconds)} ({speed(event.bytes_total / event.seconds)})"
    if event.verified is not None:
        parts.append("verified" if event.verified else "not verified: the source names no digest")
    return ", ".join(parts)
