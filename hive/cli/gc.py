"""`hive gc`: removes from disk what nothing refers to."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import click

from hive.cli.errors import USAGE, CliError
from hive.cli.format import counted, plain, size
from hive.cli.output import echo, echo_json
from hive.cli.server import find_server
from hive.settings import Settings
from hive.wire.maintenance import Collected, CollectionLine, Kept, Removed

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
    older_than_s = None if older_than is None else seconds(older_than)
    refused: list[Kept] = []

    def show(line: CollectionLine) -> None:
        if isinstance(line, Kept) and not line.in_use:
            refused[:] = [line]
        _show(line, as_json=as_json)

    _collect(Settings.from_env(), show, older_than_s, dry_run=dry_run)
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
        case Collected():
            word = "Would remove" if line.dry_run else "Removed"
            echo(f"{word} {counted(line.removed, 'thing')}, {size(line.bytes)}", err=True)
