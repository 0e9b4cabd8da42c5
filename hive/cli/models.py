"""`hive ls` and `hive rm`: the models on disk, at the server that answers, else in the store of this machine.

Where a server runs it is asked, because it may keep its models elsewhere and knows which of them a download is using.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Protocol

import click
import msgspec

from hive.cli.errors import USAGE, CliError
from hive.cli.format import age, plain, size
from hive.cli.server import find_server
from hive.cli.table import Column, print_table
from hive.errors import ModelNotOnDisk
from hive.settings import Settings
from hive.wire.api import Deleted, Model

if TYPE_CHECKING:
    from hive.store.catalog import ModelCatalog

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
    with open_models(Settings.from_env()) as source:
        models = source.models()
    if as_json:
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
    with open_models(Settings.from_env()) as source:
        found = find_model(source, model)
        if not yes:
            _confirm(f"Delete {plain(found.id)} ({size(found.size)}, {plain(found.path)})?")
        deleted = source.delete_model(found.id)
    click.echo(f"Deleted {plain(found.id)}, {size(deleted.freed_bytes)} freed", err=True)


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise CliError("Nobody can be asked here.", "give --yes to delete without a question", exit_code=USAGE)
    if not click.confirm(question, err=True):
        raise CliError("Nothing was deleted.")


#: Ids that an error offers in place of one that is not there.
MAX_OFFERED = 8


class ModelSource(Protocol):
    """Where models are listed and deleted: `Client` is one, `LocalModels` the other."""

    def models(self) -> list[Model]:
        """All of them."""

    def delete_model(self, model_id: str) -> Deleted:
        """Delete one."""


class LocalModels:
    """The models in this machine's store, as a client would see them."""

    def __init__(self, catalog: ModelCatalog) -> None:
        self._catalog = catalog

    def models(self) -> list[Model]:
        """All models on the disk."""
        return self._catalog.list()

    def delete_model(self, model_id: str) -> Deleted:
        """Delete one. Raises ModelNotOnDisk, and OSError where the store cannot be written."""
        return Deleted(id=model_id, freed_bytes=self._catalog.delete(model_id))


@contextlib.contextmanager
def open_models(settings: Settings) -> Generator[ModelSource]:
    """The server's models, or the disk's where no server answers."""
    server = find_server(settings)
    if server is not None:
        with server.client() as client:
            yield client
    else:
        from hive.store.catalog import ModelCatalog

        yield LocalModels(ModelCatalog(settings))


def find_model(source: ModelSource, name: str) -> Model:
    """The model of this id. `hf:` in front is taken as read, so that what was pulled can be named in the same way.

    Raises:
        CliError: when it is not there; the hint names what is there of the same repository.
    """
    wanted = name.removeprefix("hf:")
    models = source.models()
    same = [model for model in models if model.id == wanted]
    if same:
        return same[0]
    repo = wanted.partition("@")[0].partition(":")[0]
    near = [model.id for model in models if model.id.partition("@")[0].partition(":")[0] == repo]
    if len(near) == 1 and wanted == repo:
        return next(model for model in models if model.id == near[0])
    hint = f"there is: {', '.join(near[:MAX_OFFERED])}" if near else "`hive ls` lists the models on disk"
    raise CliError(f"'{plain(name[:200])}' is not on disk.", plain(hint), code=ModelNotOnDisk.code)
