"""The models that `ls`, `show` and `rm` are about: those of the server that answers, else those on this machine's disk.

Where a server runs it is asked, because it may keep its models elsewhere and knows which of them a download is using.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Protocol

import msgspec

from hive.cli.failure import CliError
from hive.cli.server import find_server
from hive.cli.units import plain
from hive.errors import ModelNotOnDisk
from hive.replies import Deleted, Model
from hive.settings import Settings

if TYPE_CHECKING:
    from hive.catalog import ModelCatalog

#: Ids that an error offers in place of one that is not there.
MAX_OFFERED = 8


class Shelf(Protocol):
    """Where models are listed and deleted: `Client` is one, `Disk` the other."""

    def models(self) -> list[Model]:
        """All of them."""

    def delete_model(self, model_id: str) -> Deleted:
        """Delete one."""


class Disk:
    """The models in this machine's store, as a client would see them."""

    def __init__(self, catalog: ModelCatalog) -> None:
        self._catalog = catalog

    def models(self) -> list[Model]:
        """All models on the disk."""
        return msgspec.convert(msgspec.to_builtins(self._catalog.list()), list[Model])

    def delete_model(self, model_id: str) -> Deleted:
        """Delete one. Raises ModelNotOnDisk, and OSError where the store cannot be written."""
        return Deleted(id=model_id, freed_bytes=self._catalog.delete(model_id))


@contextlib.contextmanager
def open_shelf(settings: Settings) -> Generator[Shelf]:
    """The server's models, or the disk's where no server answers."""
    server = find_server(settings)
    if server is not None:
        with server.client() as client:
            yield client
    else:
        from hive.catalog import ModelCatalog

        yield Disk(ModelCatalog(settings))


def find_model(shelf: Shelf, name: str) -> Model:
    """The model of this id. `hf:` in front is taken as read, so that what was pulled can be named in the same way.

    Raises:
        CliError: when it is not there; the hint names what is there of the same repository.
    """
    wanted = name.removeprefix("hf:")
    models = shelf.models()
    same = [model for model in models if model.id == wanted]
    if same:
        return same[0]
    repo = wanted.partition("@")[0].partition(":")[0]
    near = [model.id for model in models if model.id.partition("@")[0].partition(":")[0] == repo]
    if len(near) == 1 and wanted == repo:
        return next(model for model in models if model.id == near[0])
    hint = f"there is: {', '.join(near[:MAX_OFFERED])}" if near else "`hive ls` lists the models on disk"
    raise CliError(f"'{plain(name[:200])}' is not on disk.", plain(hint), code=ModelNotOnDisk.code)
