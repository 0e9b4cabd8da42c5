"""`hive ls` and `hive rm`: the models on disk, whole ones and what a stopped download has left of one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from hive.cli.disk import CommandSource, list_models, open_source
from hive.cli.download_ids import DownloadSource, is_id, repo_of
from hive.cli.errors import USAGE, CliError
from hive.cli.format import age, percent, plain, shown, size
from hive.cli.output import echo, echo_json, echo_value
from hive.cli.table import Column, print_table
from hive.errors import ModelNotOnDisk
from hive.settings import Settings
from hive.wire.api import Download, Model
from hive.wire.events import Downloading
from hive.wire.refs import RefError, parse_ref
from hive.wire.registries import MODELSCOPE, MODELSCOPE_SCHEME, read_name

_COLUMNS = (
    Column("MODEL", shrinks="middle"),
    Column("SIZE", figures=True),
    Column("FILES", figures=True, drops=1),
    Column("MODIFIED", shrinks="end"),
)
#: Ids that an error offers in place of one that is not there.
MAX_OFFERED: Final = 8


@click.command(short_help="List the models on disk.")
@click.option("-q", "--quiet", is_flag=True, help="Print ids of whole models only.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array: models, then downloads with a part.")
def ls(quiet: bool, as_json: bool) -> None:
    """List the models on disk, and below them what downloads that have not ended have brought so far.

    Works without a server, from the disk itself.
    """
    settings = Settings.from_env()
    with open_source(settings) as source:
        models = list_models(settings, source)
        partials = [] if quiet else partial_models(source)
    if as_json:
        echo_json([*models, *partials], indented=True)
    elif quiet:
        for model in models:
            echo_value(model.id)
    else:
        rows = [[model.id, size(model.size), str(len(model.files)), age(model.created)] for model in models]
        print_table(_COLUMNS, rows + [_partial_row(download) for download in partials])


@click.command(short_help="Delete models from disk.")
@click.argument("names", metavar="MODEL...", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm(names: tuple[str, ...], yes: bool) -> None:
    """Delete models from disk. Files that another model shares stay.

    MODEL is a name as `hive ls` shows it; org/name means all its variants. What a stopped download has left is named
    in the same way.
    """
    with open_source(Settings.from_env()) as source:
        models, partials = source.models(), partial_models(source)
        found = [found for name in dict.fromkeys(names) for found in _find(models, partials, name)]
        if not yes:
            _confirm(found)
        for one in dict.fromkeys(found):
            _delete(source, one)


def _find(models: Sequence[Model], partials: Sequence[Download], name: str) -> list[Model | Download]:
    """What a name means: whole models of it, else what a download has left.

    Raises:
        CliError: neither is there.
    """
    whole = match_models(models, name)
    parts = match_downloads(partials, name)
    if whole or parts:
        return [*whole, *parts]
    raise not_there(models, name)


def _delete(source: CommandSource, one: Model | Download) -> None:
    if isinstance(one, Model):
        deleted = source.delete_model(one.id)
        echo(f"Deleted {plain(one.id)}, {size(deleted.freed_bytes)} freed", err=True)
        return
    source.cancel(one.id, purge=True)
    echo(f"Deleted what had arrived of {plain(shown(one.model_ref))}, {size(arrived(one))}", err=True)


def _confirm(found: Sequence[Model | Download]) -> None:
    if not sys.stdin.isatty():
        raise CliError("Nobody can be asked here; --yes deletes without a question.", exit_code=USAGE)
    if len(found) > 1:
        for one in found:
            echo(f"  {_described(one)}", err=True)
    what = _described(found[0]) if len(found) == 1 else f"these {len(found)}"
    if not click.confirm(f"Delete {what}?", err=True):
        raise CliError("Nothing was deleted.")


def _described(one: Model | Download) -> str:
    if isinstance(one, Model):
        return f"{plain(one.id)} ({size(one.size)}, {plain(one.path)})"
    return f"what has arrived of {plain(shown(one.model_ref))} ({size(arrived(one))})"


def partial_models(source: DownloadSource) -> list[Download]:
    """The downloads that have not ended and have brought something."""
    return [one for one in source.downloads("active") if arrived(one)]


def match_models(models: Sequence[Model], name: str) -> list[Model]:
    """The model of this id, or all of this repository or URL. `hf:` in front is taken as read, so that what was pulled
    can be named in the same way.
    """
    wanted = name.removeprefix("hf:")
    if wanted.startswith(MODELSCOPE_SCHEME):
        wanted = MODELSCOPE + wanted.removeprefix(MODELSCOPE_SCHEME)
    with contextlib.suppress(RefError):
        if "://" in wanted and (url := parse_ref(wanted).url) is not None:
            from hive.store.layout import url_key

            return [model for model in models if model.id.startswith(f"url/{url_key(url)}/")]
        if (named := read_name(wanted)) is not None:
            wanted = "@".join(named)
            return [model for model in models if model.id == wanted or model.id.startswith(f"{wanted}:")]
    same = [model for model in models if model.id == wanted]
    return same or [model for model in models if wanted == repo_of(model.id)]


def match_downloads(downloads: Sequence[Download], name: str) -> list[Download]:
    """The downloads of this reference, or of this repository, or with an id that begins like this."""
    wanted = name.removeprefix("hf:")
    same = [
        one for one in downloads if shown(one.model_ref) == wanted or (is_id(name) and one.id.startswith(name.lower()))
    ]
    return same or [one for one in downloads if repo_of(one.model_ref) == wanted]


def not_there(models: Sequence[Model], name: str) -> CliError:
    """No such model; the hints are commands with what is there of the same repository."""
    near = [model.id for model in models if repo_of(model.id) == repo_of(name)]
    hints = [f"hive show {model_id}" for model_id in near[:MAX_OFFERED]] or ["hive ls"]
    return CliError(f"'{plain(name[:200])}' is not on disk.", *map(plain, hints), code=ModelNotOnDisk.code)


def arrived(download: Download) -> int:
    """Bytes that a download has on the disk."""
    return download.progress.bytes_downloaded if isinstance(download.progress, Downloading) else 0


def _partial_row(download: Download) -> list[str]:
    event = download.progress
    assert isinstance(event, Downloading)
    share = percent(event.bytes_downloaded, event.bytes_total)
    of = f" of {size(event.bytes_total)}" if event.bytes_total else ""
    return [shown(download.model_ref), size(event.bytes_downloaded), "-", f"{download.status}, {share}{of}"]
