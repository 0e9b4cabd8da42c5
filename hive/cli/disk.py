"""The models and downloads of this machine as they are on the disk: what commands work on where no server answers.

Where a server runs it is asked, because it may keep its models elsewhere and knows which of them a download is using.
`Disk` does the same as far as the disk goes: models from the catalog, downloads that have not ended from the intent
log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from hive.cli.download_ids import DownloadSource, repo_of
from hive.cli.hub_token import read_token
from hive.cli.server import find_server
from hive.errors import DownloadNotFound, ModelInUse
from hive.settings import Settings
from hive.wire.api import Deleted, Download, Model
from hive.wire.events import Downloading

if TYPE_CHECKING:
    from hive.downloads.local import LocalDownloads, NotedDownload
    from hive.store.catalog import ModelCatalog

#: Downloads that are listed at most.
MAX_LISTED = 10_000


class CommandSource(DownloadSource, Protocol):
    """Where models and downloads are listed and ended."""

    def cancel(self, download_id: str, *, purge: bool = False) -> Download:
        """End a download."""

    def pause(self, download_id: str) -> Download:
        """Set a download aside."""

    def models(self) -> list[Model]:
        """All models on disk."""

    def delete_model(self, model_id: str) -> Deleted:
        """Delete one."""


class LocalStore:
    """This machine's store, as a client would see it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _catalog(self) -> ModelCatalog:
        from hive.store.catalog import ModelCatalog

        return ModelCatalog(self._settings)

    @cached_property
    def local(self) -> LocalDownloads:
        """The intent log's downloads."""
        from hive.downloads.local import LocalDownloads

        return LocalDownloads(self._settings)

    def models(self) -> list[Model]:
        """All models on the disk."""
        return self._catalog.list()

    def delete_model(self, model_id: str) -> Deleted:
        """Delete one. Raises ModelNotOnDisk, ModelInUse, and OSError where the store cannot be written."""
        from hive.downloads.live import in_use_elsewhere

        repo = repo_of(model_id)
        for entry in self.local.list():
            if entry.pid is not None and repo_of(entry.intent.ref) == repo:
                raise ModelInUse(f"A hive pull is using {repo} (pid {entry.pid}).", id=model_id)
        if repo in in_use_elsewhere(self._settings).repos:
            text = f"Another hive on this store is downloading {repo}. Cancel it there, or wait for its end."
            raise ModelInUse(text, id=model_id)
        return Deleted(id=model_id, freed_bytes=self._catalog.delete(model_id))

    def downloads(self, status: str | None = None, *, limit: int = MAX_LISTED) -> list[Download]:
        """All that have not ended, the newest first, or those of one status."""
        found = [_shown(entry) for entry in self.local.list()]
        return [one for one in found if status in (None, "active", one.status)][:limit]

    def get(self, download_id: str) -> Download:
        """One of them. Raises DownloadNotFound."""
        return _shown(self.entry(download_id))

    def entry(self, download_id: str) -> NotedDownload:
        """The same as it stands in the intent log."""
        entry = self.local.get(download_id)
        if entry is None or entry.has_ended:
            raise DownloadNotFound(id=download_id)
        return entry

    def cancel(self, download_id: str, *, purge: bool = False) -> Download:
        """End one, whoever runs it."""
        entry = self.entry(download_id)
        self.local.cancel(entry, purge=purge)
        return _shown(entry)

    def pause(self, download_id: str) -> Download:
        """Stop the command that runs it, and let no server go on with it."""
        entry = self.entry(download_id)
        self.local.pause(entry)
        return _shown(entry)


@contextlib.contextmanager
def open_source(settings: Settings) -> Generator[CommandSource]:
    """The server's models and downloads, or the disk's where no server answers."""
    server = find_server(settings)
    if server is None:
        yield LocalStore(settings)
    else:
        with server.client() as client:
            yield client


def list_models(settings: Settings, source: CommandSource) -> list[Model]:
    """The models that this user may see. A server with keys shows restricted ones by HF_TOKEN, which it is sent under
    the same rules as with a pull.
    """
    from hive.client import Client

    if not isinstance(source, Client) or not source.has_key:
        return source.models()
    token = read_token(settings, None, from_stdin=False, none=False)
    return source.models(hf_token=token.for_client(source, quiet=True))


def _shown(entry: NotedDownload) -> Download:
    """As a server would show it."""
    if entry.pid is not None:
        status, reason = "downloading", f"by the command with pid {entry.pid}"
    elif entry.queued:
        status, reason = "queued", "no server runs: hive up goes on with it"
    else:
        status, reason = "paused", None
    event = Downloading(
        bytes_downloaded=entry.bytes_done,
        bytes_total=entry.bytes_total,
        speed_mbps=0.0,
        status="downloading" if entry.pid is not None else "queued" if entry.queued else "paused",
        message=reason,
    )
    return Download(
        id=entry.intent.id,
        model_ref=entry.intent.ref,
        status=status,
        priority=entry.intent.priority,
        created_at=entry.intent.created_ms / 1000,
        reason=reason,
        progress=event,
    )
