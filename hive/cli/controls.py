"""What people do to a download from the command line: cancel, pause, resume, retry, priority."""

from __future__ import annotations

import click

from hive.cli.download_ids import SHORT_ID_CHARS, find_download
from hive.cli.format import plain
from hive.cli.server import need_server
from hive.settings import Settings
from hive.wire.jobs import RANKS, Priority

_id = click.argument("download_id", metavar="ID")


@click.command(short_help="End a download; what arrived is kept.")
@_id
@click.option("--purge", is_flag=True, help="Remove what arrived, unless another download is using it.")
def cancel(download_id: str, purge: bool) -> None:
    """End a download. What arrived is kept, so that pulling the model again goes on from there.

    ID is the download's id, or the first 4 or more characters of it.
    """
    _act("cancel", download_id, "Cancelled", purge=purge)


@click.command(short_help="Set a download aside.")
@_id
def pause(download_id: str) -> None:
    """Set a download aside until `hive resume`, which frees its worker for another. What arrived is kept.

    ID is the download's id, or the first 4 or more characters of it.
    """
    _act("pause", download_id, "Paused")


@click.command(short_help="Let a paused download go on.")
@_id
def resume(download_id: str) -> None:
    """Let a paused download go on from what has arrived.

    ID is the download's id, or the first 4 or more characters of it.
    """
    _act("resume", download_id, "Resumed")


@click.command(short_help="Try again what failed or was cancelled.")
@_id
def retry(download_id: str) -> None:
    """Try again what failed or was cancelled. Prints the id of the new download, which goes on from what arrived.

    ID is the download's id, or the first 4 or more characters of it.
    """
    with need_server(Settings.from_env()).client() as client:
        click.echo(client.retry(find_download(client, download_id).id).download_id)


@click.command(short_help="Change how soon a download gets a worker.")
@_id
@click.argument("level", type=click.Choice(list(RANKS)))
def priority(download_id: str, level: Priority) -> None:
    """Change how soon a download gets a worker: high, normal or low.

    High is for what is needed now: where no worker is free, one gives up a download of low priority, which goes on
    later from what it has.

    ID is the download's id, or the first 4 or more characters of it.
    """
    with need_server(Settings.from_env()).client() as client:
        client.set_priority(find_download(client, download_id).id, level)


def _act(word: str, download_id: str, done: str, **options: bool) -> None:
    with need_server(Settings.from_env()).client() as client:
        download = find_download(client, download_id)
        getattr(client, word)(download.id, **options)
    click.echo(f"{done} {download.id[:SHORT_ID_CHARS]}  {plain(download.model_ref)}", err=True)
