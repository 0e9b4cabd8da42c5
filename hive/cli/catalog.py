"""`hive catalog verify`: whether what is on disk is what was published, and fetching again what is not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from hive.cli.errors import CliError
from hive.cli.format import duration, percent, plain, size
from hive.cli.output import clear_line, echo, echo_json
from hive.cli.server import Server, find_server
from hive.settings import Settings
from hive.wire.maintenance import Note, Problem, Progress, Refetch, VerificationLine, Verified
from hive.wire.words import counted

if TYPE_CHECKING:
    from hive.client import Client

#: Hex digits of a commit that are shown.
SHORT_COMMIT_CHARS = 12
#: Paths that one line names.
MAX_SHOWN_PATHS = 5


@click.group(short_help="Check the models on disk.")
def catalog() -> None:
    """Check the models on disk."""


@catalog.command(short_help="Read the models on disk and say what is wrong.")
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--fetch", is_flag=True, help="Set wrong files aside, fetch them again, and wait for that.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, one object a line.")
def verify(models: tuple[str, ...], fetch: bool, as_json: bool) -> None:
    """Read every file of MODEL (all models, where none is named) and compare it with its digest.

    Prints a line for each file that is missing, unreadable, or not what was published. The exit code is 0 when
    everything is right, with --fetch also when it is right again, and 1 otherwise. Ctrl-C stops it.

    Works without a server, from the disk itself; with --fetch, this command then downloads by itself.
    """
    settings = Settings.from_env()
    printer = _Printer(as_json=as_json)
    server = find_server(settings)
    if server is not None:
        _verify_over(server, printer, models, fetch=fetch)
    else:
        _verify_here(settings, printer, models, fetch=fetch)


def _verify_over(server: Server, printer: _Printer, models: tuple[str, ...], *, fetch: bool) -> None:
    with server.client() as client:
        with contextlib.closing(client.verify(models, fetch=fetch)) as lines:
            for line in lines:
                printer.show(line)
        printer.finish(lambda: _wait_for(client, printer))


def _verify_here(settings: Settings, printer: _Printer, models: tuple[str, ...], *, fetch: bool) -> None:
    import threading

    from hive.cli.local_pull import LocalRepairs
    from hive.store.inventory import all_targets, target
    from hive.store.repair import Repairer
    from hive.store.verify import Verification

    targets = [target(settings, model) for model in dict.fromkeys(models)] if models else all_targets(settings)
    with LocalRepairs(settings) as repairs:
        repair = Repairer(settings, repairs.is_used, repairs.request).repair if fetch else None
        stop = threading.Event()
        Verification(settings, targets, printer.show, stop, named=bool(models), repair=repair).run()
        printer.finish(lambda: repairs.run(printer.as_json))


def _wait_for(client: Client, printer: _Printer) -> bool:
    """Wait for what is fetched again; whether all of it came."""
    from hive.cli.pull import Output, follow
    from hive.wire.events import Complete

    ends = [
        follow(client, refetch.download_id, plain(refetch.model), Output(as_json=printer.as_json))
        for refetch in printer.refetches
        if refetch.download_id is not None
    ]
    return all(isinstance(end, Complete) for end in ends)


class _Printer:
    """What people see of a verification: problems on standard output, all else on standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.refetches: list[Refetch] = []
        self._end: Verified | None = None
        self._shows_progress = sys.stderr.isatty() and not as_json

    def show(self, line: VerificationLine) -> None:
        """Show one line as it comes."""
        if isinstance(line, Refetch):
            self.refetches.append(line)
        if isinstance(line, Verified):
            self._end = line
        if self.as_json:
            echo_json(line)
            return
        self._clear()
        for text, err in _texts(line):
            echo(plain(text), err=err)
        if isinstance(line, Progress) and self._shows_progress:
            done = percent(line.bytes_done, line.bytes_total)
            echo(f"{done} of {size(line.bytes_total)}  {plain(_short(line.model))}"[:78], err=True, nl=False)

    def finish(self, wait: Callable[[], bool] | None = None) -> None:
        """Sum up; waits for what is fetched again.

        Raises:
            CliError: something is wrong.
        """
        end = self._end
        assert end is not None
        said = f"{counted(end.files, 'file')}, {size(end.bytes)} in {duration(end.seconds)}"
        problems = counted(end.problems, "problem")
        if not end.problems:
            if not self.as_json:
                echo(f"{said}: all right", err=True)
            return
        refused = [refetch for refetch in self.refetches if refetch.download_id is None]
        if self.refetches and wait is not None and wait() and not refused:
            if not self.as_json:
                echo(f"{said}: {problems}, mended", err=True)
            return
        hint = "some could not be fetched again" if self.refetches else "`--fetch` fetches what is wrong again"
        raise CliError(f"{said}: {problems}.", hint)

    def _clear(self) -> None:
        if self._shows_progress:
            clear_line()


def _texts(line: VerificationLine) -> Iterator[tuple[str, bool]]:
    """What to print for a line, and whether it goes to standard error."""
    match line:
        case Problem():
            yield f"{line.kind:13}  {_short(line.model)}  {line.path}  {line.message}", False
        case Note():
            yield f"note: {_short(line.model)}: {line.message} {_listed(line.paths)}", True
        case Refetch(download_id=None):
            yield f"not fetched again: {_short(line.model)}: {_listed(line.paths)}: {line.message}", True
        case Refetch():
            yield f"fetching again: {_short(line.model)}: {_listed(line.paths)}, download {line.download_id}", True


def _short(model: str) -> str:
    """A model with the beginning of its commit."""
    repo, at, commit = model.partition("@")
    return f"{repo}{at}{commit[:SHORT_COMMIT_CHARS]}"


def _listed(paths: tuple[str, ...]) -> str:
    more = f" and {len(paths) - MAX_SHOWN_PATHS} more" if len(paths) > MAX_SHOWN_PATHS else ""
    return ", ".join(paths[:MAX_SHOWN_PATHS]) + more
