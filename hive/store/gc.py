"""Garbage collection: removes from the store what nothing refers to, and never what is in use.

Everything here can be fetched again, so the question is not whether bytes are lost but whether somebody is disturbed.
Hence three rules. Nothing younger than a grace period is touched. What downloads that have not ended need (`InUse`)
stays, and is asked for again right before a removal. A blob goes only after a second look (`gc_repo`), a partial file
only under the lease that its worker would hold (`gc_partials`).

Here are the order, and hive's own folders: files from URLs and listings.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from hive.settings import Settings
from hive.store.dirfd import open_folder, remove_empty, size_of, subfolders
from hive.store.file_use import is_in_use
from hive.store.gc_context import GcContext, HoldLease, InUse, InUseError, OnCollectionLine, modified_s
from hive.store.gc_partials import collect_partials
from hive.store.gc_repo import collect_repo
from hive.store.layout import FILES, TREES, URL_KEY_CHARS, is_commit, read_manifest, repo_of
from hive.store.repo_cache import RepoCache
from hive.wire.maintenance import Collected

__all__ = ["GarbageCollector", "HoldLease", "InUse", "OnCollectionLine"]


class GarbageCollector:
    """One collection. `look` says what downloads need at this moment; `hold_lease` is None where there is no Redis."""

    def __init__(
        self,
        settings: Settings,
        say: OnCollectionLine,
        stop: threading.Event,
        look: Callable[[], InUse],
        hold_lease: HoldLease | None = None,
        *,
        older_than_s: float | None = None,
        dry_run: bool = False,
    ) -> None:
        self._gc = GcContext(settings, say, stop, look, hold_lease, older_than_s=older_than_s, dry_run=dry_run)

    def run(self) -> Collected:
        """Collect everything. Says a line for each thing, and the end.

        Raises:
            Stopped: `stop` was set.
            HiveError: Redis is away: what is under way cannot be known.
        """
        gc = self._gc
        in_use = gc.look()
        collect_partials(gc, in_use)
        _collect_url_files(gc, in_use)
        with open_folder(gc.hub, missing_ok=True) as hub:
            if hub is not None:
                gc.remove_temporaries(hub, gc.hub.name)
                for folder in [name for name in subfolders(hub) if repo_of(name)]:
                    collect_repo(gc, folder, in_use)
        _collect_listings(gc, in_use)
        return gc.end()

    def run_partials(self) -> Collected:
        """Collect only what downloads left half-way. The same lines and errors."""
        collect_partials(self._gc, self._gc.look())
        return self._gc.end()


def _collect_url_files(gc: GcContext, in_use: InUse) -> None:
    """Left alone while any URL is being fetched: which folder it goes to is not known where its query is secret."""
    if in_use.urls:
        return
    with open_folder(gc.hive, FILES, missing_ok=True) as files:
        if files is None:
            return
        for key in [name for name in subfolders(files) if len(name) == URL_KEY_CHARS]:
            gc.check_stop()
            with contextlib.suppress(OSError), open_folder(files, key) as folder:
                gc.remove_temporaries(folder, f"hive/{FILES}/{key}")
                if not _is_sound(folder):
                    _remove_url_file(gc, files, folder, key)


def _remove_url_file(gc: GcContext, files: int, folder: int, key: str) -> None:
    """A file from a URL that its manifest does not vouch for: the catalog takes it for absent."""
    names = os.listdir(folder)
    modified = max([os.fstat(folder).st_mtime, *(modified_s(folder, name) for name in names)])
    if not gc.is_old(modified):
        return
    n_bytes = sum(size_of(folder, name) or 0 for name in names)
    with gc.reporting("url_file", f"hive/{FILES}/{key}", n_bytes):
        if any(is_in_use(name, folder) for name in names):
            raise InUseError
        if not gc.dry_run:
            if gc.look().urls:
                raise InUseError
            for name in names:
                os.unlink(name, dir_fd=folder)
            os.rmdir(key, dir_fd=files)


def _is_sound(folder: int) -> bool:
    """Whether the manifest of a URL's file is there and the file has the size that it says."""
    manifest = read_manifest(folder)
    return manifest is not None and size_of(folder, manifest.name) == manifest.size


def _collect_listings(gc: GcContext, in_use: InUse) -> None:
    """Our listings of commits of which there is no snapshot any more."""
    with open_folder(gc.hive, TREES, missing_ok=True) as trees:
        if trees is None:
            return
        for repo in subfolders(trees):
            if repo_of(repo) in in_use.repos:
                continue
            before = gc.removed
            with contextlib.suppress(OSError), open_folder(trees, repo) as folder:
                gc.remove_temporaries(folder, f"hive/{TREES}/{repo}")
                for name in _unused_listings(gc, repo, folder):
                    with gc.reporting("listing", f"hive/{TREES}/{repo}/{name}", size_of(folder, name) or 0):
                        gc.unlink(folder, name)
            if gc.removed > before and not gc.dry_run:
                remove_empty(trees, repo)


def _unused_listings(gc: GcContext, repo: str, folder: int) -> list[str]:
    commits: list[str] = []
    with contextlib.suppress(OSError), RepoCache(gc.hub, repo) as cache:
        commits = cache.commits()
    names = [name for name in os.listdir(folder) if name.endswith(".json") and is_commit(name[:-5])]
    return [name for name in names if name[:-5] not in commits and gc.is_old(modified_s(folder, name))]
