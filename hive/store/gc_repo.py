"""Garbage collection in one repository of the Hub's cache: contents without a link, snapshots of dead links.

A repository that a download is using is left alone altogether: its blobs have no links before its end. In any other a
blob goes by two-phase delete (`hive.store.trash`): into the trash, a second look at who uses it, and only then away.

Other tools write to the same cache. Their half files (`*.incomplete`) have a name of one process, so that nobody ever
goes on from one whose process is gone: those that nobody has written to for a day are removed. Their locks are not.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from hive.store.delete import remove_empty_repo
from hive.store.dirfd import open_folder, remove_file, subfolders
from hive.store.file_use import is_in_use
from hive.store.gc_context import GcContext, InUse, InUseError
from hive.store.layout import BLOBS, SNAPSHOTS, TREES, repo_of
from hive.store.orphans import Orphan, broken_snapshots, dangling_links, orphans_of
from hive.store.repo_cache import RepoCache, open_repo, read_tree
from hive.store.trash import Trash, hub_lock

#: Blobs that are in the trash at a time, each under a lock: a bound on open files, and one second look for all of them.
BATCH: Final = 64


def collect_repo(gc: GcContext, folder: str, in_use: InUse) -> None:
    """Collect in this folder below `hub`. Raises Stopped, and HiveError where what is in use cannot be known."""
    gc.check_stop()
    if repo_of(folder) in in_use.repos:
        return
    with open_repo(gc.hub, folder) as cache:
        if cache is not None:
            _Repo(gc, cache, folder).collect()


class _Repo:
    """One repository, held open."""

    def __init__(self, gc: GcContext, cache: RepoCache, folder: str) -> None:
        self._gc = gc
        self._cache = cache
        self._folder = folder
        self._trees: dict[str, frozenset[str] | None] = {}

    def collect(self) -> None:
        """Files, blobs, snapshots, and the folder where nothing is left in it."""
        gc, before = self._gc, self._gc.removed
        found = [orphan for orphan in orphans_of(self._cache, self._listed) if gc.is_old(orphan.modified, orphan.kind)]
        for orphan in found:
            if orphan.kind != "blob":
                self._file(orphan)
        blobs = [orphan for orphan in found if orphan.kind == "blob"]
        for at in range(0, len(blobs), BATCH):
            self._blobs(blobs[at : at + BATCH])
        for orphan in broken_snapshots(self._cache):
            if gc.is_old(orphan.modified):
                self._snapshot(orphan)
        if gc.removed > before and not gc.dry_run and not self._cache.commits() and not self._is_used_now():
            remove_empty_repo(gc.hub, self._cache.fd, self._folder)

    def _listed(self, commit: str) -> frozenset[str] | None:
        """The paths of a commit, where the Hub's listing of it was kept."""
        if commit not in self._trees:
            tree = self._cache.tree(commit) or read_tree(self._gc.hive, (TREES, self._folder), commit)
            self._trees[commit] = frozenset(file.path for file in tree) if tree is not None else None
        return self._trees[commit]

    def _file(self, orphan: Orphan) -> None:
        with (
            self._gc.reporting(orphan.kind, self._shown(orphan), orphan.n_bytes),
            open_folder(self._cache.fd, *orphan.folders) as above,
        ):
            self._gc.unlink(above, orphan.name)

    def _blobs(self, blobs: list[Orphan]) -> None:
        """Into the trash, look again, remove what is still unused."""
        self._gc.check_stop()
        if self._gc.dry_run:
            for orphan in blobs:
                with self._gc.reporting("blob", self._shown(orphan), orphan.n_bytes):
                    self._check_use(orphan)
            return
        with contextlib.ExitStack() as stack:
            above = stack.enter_context(open_folder(self._cache.fd, BLOBS))
            trash = stack.enter_context(Trash())
            put = [orphan for orphan in blobs if self._put(orphan, above, trash, stack)]
            # Under their own names they would be orphans still: what is linked by now shows as a dangling link.
            wanted = linked(self._cache) if not self._is_used_now() else {orphan.name for orphan in put}
            for orphan in put:
                with self._gc.reporting("blob", self._shown(orphan), orphan.n_bytes):
                    if orphan.name in wanted:
                        trash.restore(above, orphan.name)
                        raise InUseError
                    trash.remove(above, orphan.name)

    def _put(self, orphan: Orphan, above: int, trash: Trash, stack: contextlib.ExitStack) -> bool:
        try:
            if not stack.enter_context(hub_lock(self._gc.hub, self._folder, orphan.name)):
                raise InUseError
            self._check_use(orphan)
            return trash.put(above, orphan.name)
        except OSError as error:
            self._gc.keep(orphan.kind, self._shown(orphan), error)
            return False

    def _check_use(self, orphan: Orphan) -> None:
        """Raises InUseError where a worker has it in memory."""
        if is_in_use(f"{BLOBS}/{orphan.name}", self._cache.fd):
            raise InUseError

    def _snapshot(self, orphan: Orphan) -> None:
        """Its links one by one, then its folders as far as they are empty: what came meanwhile stays."""
        with self._gc.reporting("snapshot", self._shown(orphan), 0):
            if self._gc.dry_run:
                return
            if self._is_used_now():
                raise InUseError
            with open_folder(self._cache.fd, SNAPSHOTS) as snapshots:
                for path in dangling_links(self._cache, orphan.name):
                    *folders, name = path.split("/")
                    with open_folder(snapshots, orphan.name, *folders) as above:
                        os.unlink(name, dir_fd=above)
                _remove_folders(snapshots, orphan.name)
            with open_folder(self._cache.fd, TREES, missing_ok=True) as trees:
                if trees is not None:
                    remove_file(trees, f"{orphan.name}.json")

    def _is_used_now(self) -> bool:
        return repo_of(self._folder) in self._gc.look().repos

    def _shown(self, orphan: Orphan) -> str:
        return f"{self._gc.hub.name}/{self._folder}/{orphan.path}"


def linked(cache: RepoCache) -> set[str]:
    """The names of the contents that links lead to and that are not there: in the trash, or lost before."""
    found: set[str] = set()
    for commit in cache.commits():
        with contextlib.suppress(OSError), open_folder(cache.fd, SNAPSHOTS, commit) as snapshot:
            for path in dangling_links(cache, commit):
                *folders, name = path.split("/")
                with contextlib.suppress(OSError), open_folder(snapshot, *folders) as above:
                    found.add(os.readlink(name, dir_fd=above).rpartition("/")[2])
    return found


def _remove_folders(root: int, name: str) -> None:
    """Remove a folder and those in it, as far as they are empty."""
    with contextlib.suppress(OSError):
        with open_folder(root, name) as folder:
            below = subfolders(folder)
            for child in below:
                _remove_folders(folder, child)
        if not stat.S_ISLNK(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=root)
