"""What lies in a repository of the cache and nothing refers to. Looks only; `hive.store.gc` removes.

    blobs/<digest>               that no link of any snapshot names
    blobs/<digest>.*.incomplete  another tool's download that ended half-way
    .<name>.<16 hex>.tmp         ours, from a write that was broken off; in a snapshot a repository's own file may be
                                 called so, and what the commit's listing names, or nobody listed, is none of ours
    snapshots/<commit>/          of which nothing is left but links without a blob, and that no ref names

A whole snapshot that no ref names stays: somebody asked for that commit. So does what is not understood: a link that
leads elsewhere, a folder among the blobs.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection
from typing import NamedTuple

from hive.store.dirfd import open_folder, walk
from hive.store.layout import BLOBS, INCOMPLETE, SNAPSHOTS, TEMPORARY
from hive.store.repo_cache import RepoCache
from hive.wire.maintenance import GarbageKind


class Orphan(NamedTuple):
    """Something to remove: its folder and name below the repository, bytes, and when it was last written, unix s."""

    kind: GarbageKind
    folders: tuple[str, ...]
    name: str
    n_bytes: int
    modified: float

    @property
    def path(self) -> str:
        """Its path below the repository."""
        return "/".join((*self.folders, self.name))


def orphans_of(cache: RepoCache, listed: Callable[[str], Collection[str] | None]) -> list[Orphan]:
    """The files that nothing refers to. `listed`: the paths that the Hub's listing of a commit names, None without."""
    used: set[str] = set()
    found: list[Orphan] = []
    for folder, path, entry in walk(cache.fd):
        *folders, name = path.split("/")
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                continue
            if TEMPORARY.fullmatch(name) and not _is_repositorys(folders, name, listed):
                found.append(_orphan("temporary", folders, name, status))
            elif folders == [BLOBS]:
                found.append(_orphan("incomplete" if name.endswith(INCOMPLETE) else "blob", folders, name, status))
            elif folders[:1] == [SNAPSHOTS] and stat.S_ISLNK(status.st_mode):
                # Whatever way it takes there: a link that ends in a blob's name may be somebody's use of it.
                used.add(os.readlink(entry.name, dir_fd=folder).rpartition("/")[2])
    return [orphan for orphan in found if orphan.kind != "blob" or orphan.name not in used]


def _is_repositorys(folders: list[str], name: str, listed: Callable[[str], Collection[str] | None]) -> bool:
    """Whether what has the name of a temporary file is a repository's own: a path of a snapshot, unless the listing
    knows of none.
    """
    if folders[:1] != [SNAPSHOTS] or len(folders) < 2:
        return False
    paths = listed(folders[1])
    return paths is None or "/".join((*folders[2:], name)) in paths


def _orphan(kind: GarbageKind, folders: list[str], name: str, status: os.stat_result) -> Orphan:
    n_bytes = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return Orphan(kind, tuple(folders), name, n_bytes, status.st_mtime)


def broken_snapshots(cache: RepoCache) -> list[Orphan]:
    """The snapshots that no ref names and of which nothing is left: no files, or only links without a blob."""
    named = cache.refs()
    times = {commit: _broken_since(cache, commit) for commit in cache.commits() if commit not in named}
    return [Orphan("snapshot", (SNAPSHOTS,), commit, 0, since) for commit, since in times.items() if since is not None]


def dangling_links(cache: RepoCache, commit: str) -> list[str]:
    """The paths of a snapshot's links that should lead to a blob, which is not there."""
    with contextlib.suppress(OSError), open_folder(cache.fd, SNAPSHOTS, commit) as snapshot:
        return [path for folder, path, entry in walk(snapshot) if _dangles(cache, folder, path, entry)]
    return []


def _broken_since(cache: RepoCache, commit: str) -> float | None:
    """When the last of a broken snapshot was written; None where it is not broken, or not understood."""
    with contextlib.suppress(OSError), open_folder(cache.fd, SNAPSHOTS, commit) as snapshot:
        times = [os.fstat(snapshot).st_mtime]
        for folder, path, entry in walk(snapshot):
            if not _dangles(cache, folder, path, entry):
                return None
            times += [entry.stat(follow_symlinks=False).st_mtime, os.fstat(folder).st_mtime]
        return max(times)
    return None


def _dangles(cache: RepoCache, folder: int, path: str, entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return False
    name = cache.blob_of(path, os.readlink(entry.name, dir_fd=folder))
    return name is not None and not _is_there(cache, name)


def _is_there(cache: RepoCache, blob: str) -> bool:
    """Whether there is anything of this name among the blobs, now: the cache's own answer may be an old one."""
    with contextlib.suppress(OSError), open_folder(cache.fd, BLOBS) as blobs:
        os.stat(blob, dir_fd=blobs, follow_symlinks=False)
        return True
    return False
