"""`hive ps`: the downloads under way."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hive.cli.disk import open_source
from hive.cli.download_ids import SHORT_ID_CHARS
from hive.cli.format import age, duration, percent, shown, size, speed
from hive.cli.output import echo, echo_json, echo_value
from hive.cli.table import Column, print_table
from hive.settings import Settings
from hive.wire.events import Complete, Downloading, Error

if TYPE_CHECKING:
    from hive.cli.disk import CommandSource
    from hive.wire.api import Download
    from hive.wire.llm import LlmWorker

#: How many downloads `hive ps --all` lists, newest first, unless told otherwise.
DEFAULT_LIMIT = 50
#: How many it lists at most.
MAX_LIMIT = 10_000

_COLUMNS = (
    Column("ID"),
    Column("MODEL", shrinks="middle"),
    Column("STATUS", shrinks="end"),
    Column("DONE", figures=True),
    Column("SIZE", figures=True, drops=3),
    Column("SPEED", figures=True, drops=2),
    Column("LEFT", figures=True, drops=1),
    Column("STARTED", drops=4),
)


_MODEL_COLUMNS = (
    Column("WORKER"),
    Column("IN MEMORY", shrinks="middle"),
    Column("STATE"),
    Column("BUSY", figures=True),
    Column("ON", drops=2),
    Column("ADDRESS", drops=1),
)


@click.command(short_help="List the downloads under way.")
@click.option("-a", "--all", "every", is_flag=True, help="Also those that have ended in the last day.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, MAX_LIMIT),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="At most so many.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def ps(every: bool, limit: int, quiet: bool, as_json: bool) -> None:
    """List the downloads under way, newest first. Without a server: those that commands run, and those that stopped.

    Below them the models in memory, where there are any.
    """
    settings = Settings.from_env()
    with open_source(settings) as source:
        found = source.downloads(None if every else "active", limit=limit)
        loaded = () if as_json or quiet else _models_in_memory(source)
    if as_json:
        echo_json(found, indented=True)
    elif quiet:
        for download in found:
            echo_value(download.id)
    else:
        print_table(_COLUMNS, [_row(download) for download in found])
        _print_models(loaded)


def _models_in_memory(source: CommandSource) -> Sequence[LlmWorker]:
    """Those of the server; none where there is no server, or an older one, or nothing that may be seen."""
    from hive.client import Client
    from hive.client.llm import ModelsInMemory
    from hive.errors import HiveError

    if not isinstance(source, Client):
        return ()
    with contextlib.suppress(HiveError):
        return ModelsInMemory(source).workers()
    return ()


def _print_models(loaded: Sequence[LlmWorker]) -> None:
    """A second table, where a model is in memory."""
    if not loaded:
        return
    echo()
    rows = [
        [
            worker.id.removeprefix("worker-")[:SHORT_ID_CHARS],
            worker.model_id or shown(worker.model_ref),
            worker.state,
            f"{worker.slots_total - worker.slots_available}/{worker.slots_total}",
            worker.backend,
            worker.url,
        ]
        for worker in loaded
    ]
    print_table(_MODEL_COLUMNS, rows)


def _row(download: Download) -> list[str]:
    event = download.progress
    share, total, rate, left = "", "-", "", ""
    if isinstance(event, Downloading):
        share, total = percent(event.bytes_downloaded, event.bytes_total), size(event.bytes_total or None)
        rate, left = speed(event.bytes_per_second), duration(event.eta_seconds)
    elif isinstance(event, Complete):
        share, total = "100%", size(event.bytes_total)
    elif isinstance(event, Error):
        share, total = percent(event.bytes_downloaded or 0, event.bytes_total or 0), size(event.bytes_total)
    short, name = download.id[:SHORT_ID_CHARS], download.name or shown(download.model_ref)
    return [short, name, status_of(download), share, total, rate, left, age(download.created_at)]


def status_of(download: Download) -> str:
    """The status; of one that waits also its place, and what it waits for."""
    waiting_for = download.waiting_for or ""
    place = f"{download.ahead} ahead" if download.ahead and "ahead" not in waiting_for else ""
    return ", ".join(filter(None, [download.status, place, waiting_for]))
