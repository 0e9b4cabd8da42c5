"""`hive ls` and `hive rm`: the models on disk."""

from __future__ import annotations

import sys

import click

from hive.cli.failure import USAGE, CliError
from hive.cli.shelf import find_model, open_shelf
from hive.cli.table import Column, print_table
from hive.cli.units import age, plain, size
from hive.settings import Settings

_COLUMNS = (
    Column("MODEL", shrinks=True),
    Column("SIZE", figures=True),
    Column("FILES", figures=True),
    Column("MODIFIED"),
)


@click.command(short_help="List the models on disk.")
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def ls(quiet: bool, as_json: bool) -> None:
    """List the models on disk. Works without a server, from the disk itself."""
    with open_shelf(Settings.from_env()) as shelf:
        models = shelf.models()
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(models)))
    elif quiet:
        for model in models:
            click.echo(model.id)
    else:
        rows = [[model.id, size(model.size), str(len(model.files)), age(model.created)] for model in models]
        print_table(_COLUMNS, rows)


@click.command(short_help="Delete a model from disk.")
@click.argument("model", metavar="MODEL")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm(model: str, yes: bool) -> None:
    """Delete a model from disk. Files that another model shares stay.

    MODEL is an id as `hive ls` shows it.
    """
    with open_shelf(Settings.from_env()) as shelf:
        found = find_model(shelf, model)
        if not yes:
            _confirm(f"Delete {plain(found.id)} ({size(found.size)}, {plain(found.path)})?")
        deleted = shelf.delete_model(found.id)
    click.echo(f"Deleted {plain(found.id)}, {size(deleted.freed_bytes)} freed", err=True)


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise CliError("Nobody can be asked here.", "give --yes to delete without a question", exit_code=USAGE)
    if not click.confirm(question, err=True):
        raise CliError("Nothing was deleted.")
