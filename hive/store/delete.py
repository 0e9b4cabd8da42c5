"""Removing a model from the disk: exactly its files, then the blobs, folders and records that nothing else needs.

The order makes a removal that is broken off harmless: first the refs (one that points to a commit without a snapshot
makes tools drop the whole repository), then the links, then the blobs that no link of any commit needs, then what is
empty. Nothing is followed: a planted link is itself removed, and what it points to is not touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from hive.store.dirfd import open_folder, remove_empty, remove_file, size_of, walk
from hive.store.layout import BLOBS, FILES, REFS, SNAPSHOTS, TREES
from hive.store.repo_cache import RepoCache, SnapshotEntry

#: What huggingface_hub notes of files that a commit does not have.
_NOT_THERE = ".no_exist"


def remove_snapshot_files(hub: Path, hive: Path, folder: str, commit: str, paths: set[str] | None) -> int:
    """Remove these files of a commit, or all of it where `paths` is None, and give the bytes that were freed.

    Raises:
        OSError: the store cannot be written.
    """
    with RepoCache(hub, folder) as cache:
        entries = cache.entries(commit)
        gone = [entry for entry in entries if paths is None or entry.path in paths]
        kept = [entry for entry in entries if paths is not None and entry.path not in paths]
        kept += [entry for other in cache.commits() if other != commit for entry in cache.entries(other)]
        if paths is None:
            _remove_commit(cache, commit)
            with open_folder(hive, missing_ok=True) as records:
                if records is not None:
                    _unlink(records, TREES, folder, f"{commit}.json")
                    remove_empty(records, f"{TREES}/{folder}")
        else:
            _remove_links(cache.fd, commit, paths)
        freed = _remove_blobs(cache.fd, gone, kept)
        remove_empty_repo(hub, cache.fd, folder)
    return freed


def remove_url_file(hive: Path, key: str) -> int:
    """Remove the folder of a file from a plain URL, and give the bytes of what was in it.

    Raises:
        OSError: the store cannot be written.
    """
    with open_folder(hive, FILES) as files:
        with open_folder(files, key) as folder:
            freed = sum(size_of(below, entry.name) or 0 for below, _, entry in walk(folder))
        shutil.rmtree(key, dir_fd=files)
    return freed


def _remove_commit(cache: RepoCache, commit: str) -> None:
    for name in cache.refs().get(commit, ()):
        folders = name.split("/")[:-1]
        _unlink(cache.fd, REFS, *name.split("/"))
        remove_empty(cache.fd, "/".join([REFS, *folders]))
    for parent in (SNAPSHOTS, _NOT_THERE):
        with contextlib.suppress(FileNotFoundError), open_folder(cache.fd, parent, missing_ok=True) as above:
            if above is not None:
                shutil.rmtree(commit, dir_fd=above)
    _unlink(cache.fd, TREES, f"{commit}.json")


def _remove_links(repo: int, commit: str, paths: Iterable[str]) -> None:
    with open_folder(repo, SNAPSHOTS, commit) as snapshot:
        for path in paths:
            _unlink(snapshot, *path.split("/"))
            remove_empty(snapshot, path.rpartition("/")[0])


def _remove_blobs(repo: int, gone: list[SnapshotEntry], kept: list[SnapshotEntry]) -> int:
    """A blob in the shared store only loses this repository's link: huggingface_hub knows who else uses it. One that
    has a second name in another repository goes on to exist there, and frees nothing.
    """
    freed = sum(entry.size for entry in gone if entry.blob is None)
    used = {entry.blob for entry in kept}
    for entry in {entry.blob: entry for entry in gone if entry.blob and entry.blob not in used}.values():
        alone = not entry.shared and _has_one_name(repo, BLOBS, entry.blob or "")
        if _unlink(repo, BLOBS, entry.blob or "") and alone:
            freed += entry.size
    return freed


def remove_empty_repo(hub: Path, repo: int, folder: str) -> None:
    """Remove the repository's folder, when nothing is left in it; while another tool's blob is under way, it stays.

    `snapshots` goes last: tools take a repository without it for broken.
    """
    for name in (TREES, REFS, _NOT_THERE, BLOBS):
        remove_empty(repo, name)
    with os.scandir(repo) as entries:
        left = [entry.name for entry in entries]
    if left in ([SNAPSHOTS], []):
        with open_folder(hub) as above:
            remove_empty(above, "/".join([folder, *left]))


def _has_one_name(folder: int, *path: str) -> bool:
    with contextlib.suppress(OSError), open_folder(folder, *path[:-1]) as above:
        return os.stat(path[-1], dir_fd=above, follow_symlinks=False).st_nlink == 1
    return False


def _unlink(folder: int, *path: str) -> bool:
    """Whether there was such a file and it is gone."""
    with open_folder(folder, *path[:-1], missing_ok=True) as above:
        return above is not None and remove_file(above, path[-1])
