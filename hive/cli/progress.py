"""How progress is shown: bars on a terminal, plain lines elsewhere, one JSON event a line for programs, or nothing.

Everything goes to standard error, except JSON, so that standard output holds the result and nothing else.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from hive.cli import bars
from hive.cli.bars import PLAIN, Glyphs, facts
from hive.cli.format import duration, plain, shown, size, speed
from hive.cli.output import echo, echo_json
from hive.settings import Settings
from hive.wire.events import Complete, Downloading, Event, encode

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

#: Percent, and seconds, between two plain lines of one status: a log wants to know that it goes on, and no more.
LINE_STEP_PERCENT: Final = 5
LINE_INTERVAL_S: Final = 10.0
#: Terminals that cannot draw over what they have drawn.
DUMB: Final = frozenset({None, "dumb", "unknown"})
#: What makes a terminal show its cursor again.
_SHOW_CURSOR: Final = b"\x1b[?25h"
#: How often bars are drawn again, each second at most.
REFRESHES_PER_SECOND: Final = 8


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
    return Bars(name) if sys.stderr.isatty() and Settings.from_env().term not in DUMB else LinePrinter(name)


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
        echo_json(encode(event))


class LinePrinter(Quiet):
    """Plain lines: at once when the status changes, else after some percent or seconds."""

    def __init__(self, name: str) -> None:
        self._name = shown(name)
        self._status = ""
        self._step = -1
        self._next_s = 0.0

    def show(self, event: Event) -> None:
        """A line, where it is time for one."""
        if isinstance(event, Complete):
            echo(f"{self._name}: {summary(event)}", err=True)
        if not isinstance(event, Downloading):
            return
        status, now_s = event.status or "downloading", time.monotonic()
        share = event.bytes_downloaded * 100 // event.bytes_total if event.bytes_total else 0
        step = share // LINE_STEP_PERCENT
        if status != self._status or step > self._step or now_s >= self._next_s:
            self._status, self._step, self._next_s = status, step, now_s + LINE_INTERVAL_S
            echo(f"{self._name}: {line(event)}", err=True)

    def waiting(self, delay_s: float) -> None:
        """A line, the first time."""
        if self._status != "reconnecting":
            self._status = "reconnecting"
            echo(f"{self._name}: the connection is lost, connecting again", err=True)


class Bars(Quiet):
    """A bar for each file under way and one for the whole, drawn again in place; a summary line remains."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._event = Downloading(bytes_downloaded=0, bytes_total=0, speed_mbps=0.0, status="queued")
        self._glyphs = Glyphs() if _can_write("".join(Glyphs())) else PLAIN
        self._console: Console | None = None
        self._live: Live | None = None

    def show(self, event: Event) -> None:
        """Draw this event with the next refresh."""
        if isinstance(event, Downloading):
            self._event = event
            self._begin()
            return
        self._end()
        if isinstance(event, Complete):
            echo(f"{shown(self._name)}: {summary(event)}", err=True)

    def waiting(self, delay_s: float) -> None:
        """Say so in the place of the status."""
        import msgspec

        self._event = msgspec.structs.replace(self._event, status="retrying", message="connecting again")

    def __rich__(self) -> Text:
        from rich.text import Text

        assert self._console is not None
        # Not the last columns: a typed `^C` must not begin a new line, which would be left standing.
        drawn = bars.lines(self._name, self._event, self._console.width - len("^C") - 1, self._glyphs)
        text = Text("\n".join(drawn), no_wrap=True, overflow="crop")
        text.highlight_regex(f"{self._glyphs.done}+", "green")
        return text

    def _begin(self) -> None:
        """Only with the first event of a download that is one: what is on disk needs no bar."""
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
            self._live = Live(
                get_renderable=self.__rich__,
                console=self._console,
                transient=True,
                refresh_per_second=REFRESHES_PER_SECOND,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Self:
        if signal.getsignal(signal.SIGQUIT) == signal.SIG_DFL:
            signal.signal(signal.SIGQUIT, _quit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if signal.getsignal(signal.SIGQUIT) == _quit:
            signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def _quit(number: int, frame: FrameType | None) -> None:
    """Ctrl-\\: the end at once, as ever, but with the cursor that the bars hide."""
    os.write(sys.stderr.fileno(), _SHOW_CURSOR)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _can_write(text: str) -> bool:
    """Whether standard error has these characters."""
    try:
        text.encode(sys.stderr.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def line(event: Downloading) -> str:
    """An event under way as plain text."""
    parts = [event.status or "downloading", facts(event), plain(event.message or "")]
    return "  ".join(part for part in parts if part)


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
