"""One repository of the Hub's cache as it lies on the disk: its refs, its commits, and the files of each.

A snapshot's entry is a link to a blob of its own repository, and nothing else is believed: an entry that leads anywhere
else (somebody planted it, or a download was broken off) is not there. Where links are not to be had, huggingface_hub
puts the file itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from hive.store.dirfd import open_folder, read_file, subfolders, walk
from hive.store.layout import (
    BLOBS,
    INCOMPLETE,
    MAX_REF_BYTES,
    MAX_TREE_BYTES,
    REFS,
    SNAPSHOTS,
    TREES,
    decode_tree,
    is_commit,
)
from hive.wire.selection import RepoFile

_BLOB = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_SHARED_BLOB = re.compile(r"(?:\.\./){2}blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})")


class SnapshotEntry(NamedTuple):
    """One file of a snapshot that is really there: size in bytes, time of its content in unix seconds.

    `blob` is the name of its blob, None where the file itself lies in the snapshot; `shared` says that the blob is in
    turn a link into the store that several repositories share, which belongs to huggingface_hub.
    """

    path: str
    size: int
    modified: float
    blob: str | None
    shared: bool = False


class Blob(NamedTuple):
    """A blob that is there: size in bytes, unix seconds, and whether it lies in the shared store; `at` says where
    below `hub`.
    """

    size: int
    modified: float
    shared: bool
    at: tuple[str, ...]


class RepoCache:
    """The folder `models--org--name` below `hub`: a context manager that holds it open, so nobody can exchange it."""

    def __init__(self, hub: Path, folder: str) -> None:
        self.path = hub / folder
        self._hub = hub
        self._folder = folder
        self._blobs: dict[str, Blob | None] = {}
        self._open = contextlib.ExitStack()
        #: The descriptor of the folder, while it is open, and of the blobs in it, once one was looked up: a snapshot
        #: of a thousand files looks there a thousand times.
        self.fd = -1
        self._blobs_fd = -1

    def __enter__(self) -> Self:
        """Open it. Raises OSError where it is not there or is a link."""
        self.fd = self._open.enter_context(open_folder(self._hub, self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._open.close()

    def refs(self) -> dict[str, list[str]]:
        """The branches and tags of each commit, sorted."""
        found: dict[str, list[str]] = {}
        with contextlib.suppress(OSError), open_folder(self.fd, REFS) as refs:
            for folder, name, entry in walk(refs):
                commit = _commit(read_file(folder, entry.name, MAX_REF_BYTES))
                if commit:
                    found.setdefault(commit, []).append(name)
        return {commit: sorted(names) for commit, names in found.items()}

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit hash stands for here, or None."""
        if is_commit(revision):
            return revision
        *folders, name = revision.split("/")
        with contextlib.suppress(OSError), open_folder(self.fd, REFS, *folders) as refs:
            return _commit(read_file(refs, name, MAX_REF_BYTES))
        return None

    def commits(self) -> list[str]:
        """The commits that have a snapshot, complete or not."""
        with contextlib.suppress(OSError), open_folder(self.fd, SNAPSHOTS) as snapshots:
            return [name for name in subfolders(snapshots) if is_commit(name)]
        return []

    def entries(self, commit: str) -> list[SnapshotEntry]:
        """The files of a snapshot that are there, by path."""
        found = []
        with contextlib.suppress(OSError), open_folder(self.fd, SNAPSHOTS, commit) as snapshot:
            for folder, path, file in walk(snapshot):
                if entry := self._entry(folder, path, file):
                    found.append(entry)
        return sorted(found)

    def tree(self, commit: str) -> tuple[RepoFile, ...] | None:
        """The Hub's listing of a commit, where huggingface_hub or hive left it whole."""
        return read_tree(self.fd, (TREES,), commit)

    def is_unfinished(self) -> bool:
        """Whether another tool's download into this repository has not ended."""
        with open_folder(self.fd, BLOBS, missing_ok=True) as blobs:
            return blobs is not None and any(name.endswith(INCOMPLETE) for name in os.listdir(blobs))

    def blob(self, name: str) -> Blob | None:
        """The blob of this name, or None where there is none."""
        if name not in self._blobs:
            self._blobs[name] = self._look_up(name)
        return self._blobs[name]

    def _entry(self, folder: int, path: str, file: os.DirEntry[str]) -> SnapshotEntry | None:
        with contextlib.suppress(OSError):
            if not file.is_symlink():
                found = file.stat(follow_symlinks=False)
                return SnapshotEntry(path, found.st_size, found.st_mtime, None) if stat.S_ISREG(found.st_mode) else None
            name = self.blob_of(path, os.readlink(file.name, dir_fd=folder))
            if name and (blob := self.blob(name)):
                return SnapshotEntry(path, blob.size, blob.modified, name, blob.shared)
        return None

    def blob_of(self, path: str, target: str) -> str | None:
        """The name of the blob that a link at this path points to, or None where it points elsewhere."""
        blobs = f"{self.path / BLOBS}/" if target.startswith("/") else "../" * (path.count("/") + 2) + f"{BLOBS}/"
        name = target.removeprefix(blobs)
        return name if target.startswith(blobs) and _BLOB.fullmatch(name) else None

    def _look_up(self, name: str) -> Blob | None:
        with contextlib.suppress(OSError):
            if self._blobs_fd < 0:
                self._blobs_fd = self._open.enter_context(open_folder(self.fd, BLOBS))
            found = os.stat(name, dir_fd=self._blobs_fd, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                return Blob(found.st_size, found.st_mtime, False, (self._folder, BLOBS, name))
            if stat.S_ISLNK(found.st_mode) and (
                match := _SHARED_BLOB.fullmatch(os.readlink(name, dir_fd=self._blobs_fd))
            ):
                with open_folder(self._hub, BLOBS, match[1]) as shared:
                    found = os.stat(match[2], dir_fd=shared, follow_symlinks=False)
                at = (BLOBS, match[1], match[2])
                return Blob(found.st_size, found.st_mtime, True, at) if stat.S_ISREG(found.st_mode) else None
        return None


@contextlib.contextmanager
def open_repo(hub: Path, folder: str) -> Iterator[RepoCache | None]:
    """The repository in this folder below `hub`, held open; None where there is none, or a link or file in its place.

    Raises:
        OSError: where it cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        try:
            cache = stack.enter_context(RepoCache(hub, folder))
        except (FileNotFoundError, NotADirectoryError):
            cache = None
        yield cache


def read_tree(folder: Path | int, names: tuple[str, ...], commit: str) -> tuple[RepoFile, ...] | None:
    """The listing `<commit>.json` in the folder `names` below `folder`, or None where none can be read."""
    with contextlib.suppress(OSError), open_folder(folder, *names) as trees:
        data = read_file(trees, f"{commit}.json", MAX_TREE_BYTES)
        return decode_tree(data) if data else None
    return None


def _commit(data: bytes | None) -> str | None:
    text = (data or b"").decode("ascii", "replace").strip()
    return text if is_commit(text) else None
