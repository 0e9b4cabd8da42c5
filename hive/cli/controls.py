"""What people do to a download from the command line: cancel, pause, resume, retry, priority."""

from __future__ import annotations

from collections.abc import Callable

import click

from hive.cli.disk import CommandSource, LocalStore, open_source
from hive.cli.download_ids import SHORT_ID_CHARS, find_download
from hive.cli.errors import each_in_turn
from hive.cli.format import plain
from hive.cli.hub_token import read_token
from hive.cli.output import echo, echo_value
from hive.cli.server import find_server, need_server
from hive.settings import Settings
from hive.wire.api import Download
from hive.wire.jobs import RANKS, Priority

_ids = click.argument("download_ids", metavar="ID...", nargs=-1, required=True)


@click.command(short_help="End downloads; what arrived is kept.")
@_ids
@click.option("--purge", is_flag=True, help="Remove what arrived, unless another download is using it.")
def cancel(download_ids: tuple[str, ...], purge: bool) -> None:
    """End downloads. What arrived is kept, so that pulling the model again goes on from there.

    ID is the download's id, the first 4 or more characters of it, or the reference that was asked for. Works without
    a server.
    """
    _act(download_ids, "Cancelled", lambda source, download: source.cancel(download.id, purge=purge))


@click.command(short_help="Pause downloads; what arrived is kept.")
@_ids
def pause(download_ids: tuple[str, ...]) -> None:
    """Set downloads aside until `hive resume`, which frees their workers for others. What arrived is kept.

    ID is the download's id, the first 4 or more characters of it, or the reference that was asked for. Works without
    a server.
    """
    _act(download_ids, "Paused", lambda source, download: source.pause(download.id))


@click.command(short_help="Let paused downloads go on.")
@_ids
def resume(download_ids: tuple[str, ...]) -> None:
    """Let paused downloads go on from what has arrived. Without a server this command downloads by itself.

    ID is the download's id, the first 4 or more characters of it, or the reference that was asked for.
    """
    settings = Settings.from_env()
    server = find_server(settings)
    if server is None:
        from hive.cli.pull import resume_here

        disk = LocalStore(settings)
        each_in_turn(download_ids, lambda text: resume_here(settings, disk.entry(find_download(disk, text).id)))
        return
    with server.client() as client:
        _each(client, download_ids, "Resumed", lambda download: client.resume(download.id))


@click.command(short_help="Try again what failed or was cancelled.")
@_ids
def retry(download_ids: tuple[str, ...]) -> None:
    """Try again what failed or was cancelled. Prints the id of each new download, which goes on from what arrived.

    ID is the download's id, the first 4 or more characters of it, or the reference that was asked for.
    """
    settings = Settings.from_env()
    with need_server(settings).client() as client:
        # The first request's was not kept. What needs none goes on without a word.
        token = read_token(settings, None, from_stdin=False, none=False).for_client(client, quiet=True)

        def again(text: str) -> None:
            echo_value(client.retry(find_download(client, text).id, hf_token=token).download_id)

        each_in_turn(download_ids, again)


@click.command(short_help="Change how soon a download gets a worker.")
@click.argument("download_id", metavar="ID")
@click.argument("level", type=click.Choice(list(RANKS)))
def priority(download_id: str, level: Priority) -> None:
    """Change how soon a download gets a worker: high, normal or low.

    High is for what is needed now: where no worker is free, one gives up a download of low priority, which goes on
    later from what it has.

    ID is the download's id, the first 4 or more characters of it, or the reference that was asked for.
    """
    with need_server(Settings.from_env()).client() as client:
        client.set_priority(find_download(client, download_id).id, level)


def _act(texts: tuple[str, ...], done: str, do: Callable[[CommandSource, Download], object]) -> None:
    with open_source(Settings.from_env()) as source:
        _each(source, texts, done, lambda download: do(source, download))


def _each(source: CommandSource, texts: tuple[str, ...], done: str, do: Callable[[Download], object]) -> None:
    def one(text: str) -> None:
        download = find_download(source, text)
        do(download)
        echo(f"{done} {download.id[:SHORT_ID_CHARS]}  {plain(download.model_ref)}", err=True)

    each_in_turn(texts, one)
