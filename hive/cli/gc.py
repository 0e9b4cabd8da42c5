"""`hive gc`: removes from disk what nothing refers to."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import msgspec

from hive.cli.disk import open_source
from hive.cli.errors import USAGE, CliError, say_hints
from hive.cli.format import plain, shown, size
from hive.cli.models import arrived, partial_models
from hive.cli.output import echo, echo_json
from hive.cli.server import find_server
from hive.settings import Settings
from hive.wire.maintenance import Collected, CollectionLine, Kept, Removed
from hive.wire.words import counted

if TYPE_CHECKING:
    from hive.wire.api import Download

#: Downloads that are named one by one.
MAX_NAMED = 8
#: Where their parts lie, below the store.
KEPT_IN = "hive/partial"
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(s|m|h|d|w)?")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@click.command(short_help="Remove from disk what nothing refers to.")
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would be removed.")
@click.option("--older-than", metavar="DURATION", help="Only what nobody has written to for so long: 7d, 12h, 30m.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, one object a line.")
def gc(dry_run: bool, older_than: str | None, as_json: bool) -> None:
    """Remove from disk what nothing refers to: partial files of downloads that have ended, contents without a link,
    snapshots of which nothing is left, temporary files, files that were set aside because their bytes were wrong.

    Nothing that a download needs is touched, nothing younger than HIVE_PARTIAL_TTL_S (7 days) or --older-than, and
    never anything younger than ten minutes. Works without a server, from the disk itself.
    """
    settings = Settings.from_env()
    older_than_s = None if older_than is None else seconds(older_than)
    refused: list[Kept] = []

    def show(line: CollectionLine) -> None:
        if isinstance(line, Kept) and not line.in_use:
            refused[:] = [line]
        if isinstance(line, Collected):
            _show_end(line, _partials(settings), as_json=as_json)
        else:
            _show(line, as_json=as_json)

    _collect(settings, show, older_than_s, dry_run=dry_run)
    if refused:
        raise CliError("Not everything could be removed.", "may this user write to the store?")


def seconds(text: str) -> float:
    """The seconds that a person means with 7d, 12h, 30m or 90s.

    Raises:
        CliError: it is no duration.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise CliError(f"'{text[:40]}' is no duration.", "write 7d, 12h, 30m or 90s", exit_code=USAGE)
    return float(found[1]) * _SECONDS[found[2] or "s"]


def _collect(
    settings: Settings, show: Callable[[CollectionLine], None], older_than_s: float | None, *, dry_run: bool
) -> None:
    """Let the server collect, or do it here where none answers."""
    server = find_server(settings)
    if server is not None:
        with (
            server.client() as client,
            contextlib.closing(client.collect_garbage(dry_run=dry_run, older_than_s=older_than_s)) as lines,
        ):
            for line in lines:
                show(line)
        return
    import threading

    from hive.downloads.live import in_use
    from hive.store.gc import GarbageCollector

    stop = threading.Event()
    GarbageCollector(
        settings, show, stop, lambda: in_use(settings, ()), older_than_s=older_than_s, dry_run=dry_run
    ).run()


def _show(line: CollectionLine, *, as_json: bool) -> None:
    if as_json:
        echo_json(line)
        return
    match line:
        case Removed():
            echo(f"{line.kind:10}  {size(line.bytes):>9}  {plain(line.path)}")
        case Kept():
            echo(f"kept: {plain(line.path)}: {line.message}", err=True)


def _partials(settings: Settings) -> list[Download]:
    """The downloads that have not ended, whose parts stay."""
    with open_source(settings) as source:
        return partial_models(source)


def _show_end(end: Collected, partials: list[Download], *, as_json: bool) -> None:
    """The sum, and what stays though nobody may remember it: the parts of stopped downloads."""
    if as_json:
        for one in partials:
            echo_json(Kept(kind="partial", path=KEPT_IN, message=_kept(one), in_use=True))
        echo_json(msgspec.structs.replace(end, kept=end.kept + len(partials)))
        return
    word = "Would remove" if end.dry_run else "Removed"
    echo(f"{word} {counted(end.removed, 'thing')}, {size(end.bytes)}", err=True)
    for one in partials[:MAX_NAMED]:
        name = shlex.quote(shown(one.model_ref))
        hints = [f"hive pull {name}", f"hive rm {name}"] if one.status == "paused" else []
        say_hints(f"Kept for downloads that have not ended: {_kept(one)}", *hints)
    if len(partials) > MAX_NAMED:
        say_hints(f"And of {len(partials) - MAX_NAMED} more.", "hive ps")


def _kept(one: Download) -> str:
    return f"{size(arrived(one))} of {shown(one.model_ref)} ({one.status})"
