"""Inventory: what the store claims to hold, every content with the size and the digest that it should have, and what
is plainly not there.

The Hub's cache says it twice: a blob is named by its digest (sha256 for a large file, git's sha1 for any other), and
`trees/<commit>.json` lists the digests of a commit. The names say it for all tools' files, also without a listing; the
listing says it where the file itself lies in the snapshot, and finds a link to another file's blob. A file from a plain
URL has its manifest.

A listed file that has no link here is no mistake: huggingface_hub writes the listing of a whole commit also where only
some files of it were asked for. It is noted. A link without a blob, or a shard that lacks among its set, is a problem.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from hive.errors import ModelNotOnDisk
from hive.settings import Settings
from hive.store.dirfd import open_folder, subfolders, walk
from hive.store.layout import (
    FILES,
    SNAPSHOTS,
    TREES,
    URL_KEY_CHARS,
    read_manifest,
    repo_folder,
    repo_of,
)
from hive.store.repo_cache import RepoCache, open_repo, read_tree
from hive.wire.gguf import matching, projector_for, variants
from hive.wire.maintenance import Note, Problem, ProblemKind
from hive.wire.refs import REPO_KINDS, RefError, parse_ref
from hive.wire.selection import RepoFile, at_path
from hive.wire.weights import absent_shards
from hive.wire.words import counted

Algorithm = Literal["sha256", "git-sha1"]

#: Paths that one note names, and shards of one set that are named as missing.
MAX_NOTED_PATHS = 100

_HEX = re.compile(r"[0-9a-f]+")
_ALGORITHMS: dict[int, Algorithm] = {64: "sha256", 40: "git-sha1"}
_URL_ID = re.compile(r"url/([0-9a-f]{16})(?:/.*)?")


class Target(NamedTuple):
    """What is to be verified: a folder below `hub` or, where `is_url`, below `hive/files`; of a repository perhaps
    one commit, and of that one variant or one file.
    """

    folder: str
    is_url: bool = False
    commit: str | None = None
    quant: str | None = None
    path: str | None = None


class Digest(NamedTuple):
    """What a content must hash to.

    The download engine has a type of the same name (`workers.transfer.Digest`): it imports of hive only how to get
    out, and the store imports no worker, so there is no place where both could find one. What they must agree on, the
    name of a partial file, is `layout.partial_key`.
    """

    algorithm: Algorithm
    hex: str


class Content(NamedTuple):
    """One content on the disk, whoever shares it: in the folder `names` below `root`, and called `name` there.

    `size` is what it should have, None where nobody says, and `n_bytes` what it has; `paths` are the files that it is.
    `blob` is the name of its blob, None where it lies in the snapshot itself or comes from a URL.
    """

    root: Path
    names: tuple[str, ...]
    name: str
    n_bytes: int
    size: int | None
    digest: Digest | None
    paths: tuple[str, ...]
    blob: str | None = None

    @property
    def key(self) -> tuple[Path, tuple[str, ...], str]:
        """What is the same for two that are one file."""
        return self.root, self.names, self.name


class InventoryItem(NamedTuple):
    """What one commit of a repository, or one URL, has in the store. `folder` is its folder below `hub` or `files`."""

    model: str
    folder: str
    repo: str | None
    commit: str | None
    contents: tuple[Content, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[Note, ...] = ()


def digest_of(name: str) -> Digest | None:
    """The digest that a blob's name is, or None where it is none."""
    algorithm = _ALGORITHMS.get(len(name)) if _HEX.fullmatch(name) else None
    return Digest(algorithm, name) if algorithm else None


def all_targets(settings: Settings) -> list[Target]:
    """Every repository and every file from a URL in the store."""
    found: list[Target] = []
    with open_folder(settings.hub_dir, missing_ok=True) as hub:
        found += [Target(name) for name in subfolders(hub) if repo_of(name)] if hub is not None else []
    with open_folder(settings.hive_dir, FILES, missing_ok=True) as files:
        keys = subfolders(files) if files is not None else []
        found += [Target(key, is_url=True) for key in keys if len(key) == URL_KEY_CHARS]
    return found


def target(settings: Settings, model_id: str) -> Target:
    """What this id, or reference, means here; also where all of its content is gone.

    Without a revision that is `main`, or every commit where there is no `main`.

    Raises:
        ModelNotOnDisk: nothing of it is here.
    """
    if url := _URL_ID.fullmatch(model_id):
        with contextlib.suppress(OSError), open_folder(settings.hive_dir, FILES, url[1]):
            return Target(url[1], is_url=True)
        raise ModelNotOnDisk(model_id=model_id)
    with contextlib.suppress(RefError, OSError):
        ref = parse_ref(model_id, settings.hf_endpoint)
        folder = repo_folder(ref.repo)
        with RepoCache(settings.hub_dir, folder) as cache:
            commit = cache.commit_of(ref.rev)
            if commit in cache.commits():
                return Target(folder, commit=commit, quant=ref.quant, path=ref.path)
            if ref.revision is None and cache.commits():
                return Target(folder, quant=ref.quant, path=ref.path)
    raise ModelNotOnDisk(model_id=model_id)


def inventory(settings: Settings, wanted: Target) -> Iterator[InventoryItem]:
    """What a target has on the disk, commit by commit. What is not there any more has nothing."""
    if wanted.is_url:
        yield from _url_item(settings, wanted.folder)
        return
    with open_repo(settings.hub_dir, wanted.folder) as repo:
        if repo is None:
            return
        for commit in repo.commits():
            if wanted.commit in (None, commit):
                yield _Commit(settings, repo, wanted, commit).item()


def _url_item(settings: Settings, key: str) -> Iterator[InventoryItem]:
    with contextlib.suppress(OSError), open_folder(settings.hive_dir, FILES, key) as folder:
        manifest = read_manifest(folder)
        if manifest is None:
            return
        model = f"url/{key}/{manifest.name}"
        try:
            n_bytes = os.stat(manifest.name, dir_fd=folder, follow_symlinks=False).st_size
        except FileNotFoundError:
            gone = Problem(model=model, path=manifest.name, kind="missing", message="The file is gone.")
            yield InventoryItem(model, key, None, None, (), (gone,))
            return
        digest = Digest("sha256", manifest.sha256)
        at, paths = (FILES, key), (manifest.name,)
        content = Content(settings.hive_dir, at, manifest.name, n_bytes, manifest.size, digest, paths)
        yield InventoryItem(model, key, None, None, (content,))


class _Commit:
    """One snapshot, looked at once."""

    def __init__(self, settings: Settings, cache: RepoCache, wanted: Target, commit: str) -> None:
        self._hub = settings.hub_dir
        self._cache = cache
        self._target = wanted
        self._commit = commit
        self._model = f"{repo_of(wanted.folder)}@{commit}"
        self._problems: list[Problem] = []
        whole = cache.tree(commit)
        listed = whole if whole is not None else read_tree(settings.hive_dir, (TREES, wanted.folder), commit)
        self._tree = {file.path: file for file in listed or ()}
        #: Whether the listing lies where huggingface_hub expects all of it to be here.
        self._is_whole = whole is not None

    def item(self) -> InventoryItem:
        """Its contents, each once, and what is wrong or missing."""
        found: dict[tuple[Path, tuple[str, ...], str], Content] = {}
        seen = {path for _, path, _ in self._walk()}
        wanted = _wanted(seen, self._target)
        for folder, path, entry in self._walk():
            if path in wanted and (content := self._content(folder, path, entry)):
                known = found.get(content.key)
                found[content.key] = known._replace(paths=(*known.paths, path)) if known else content
        repo = repo_of(self._target.folder)
        # Of a data set whoever likes reads some parts and not others.
        is_model = repo is not None and not repo.startswith(REPO_KINDS)
        for path in absent_shards(wanted, MAX_NOTED_PATHS) if is_model else ():
            self._report(path, "missing", "This shard is not here, though others of its set are.")
        contents = tuple(sorted(found.values(), key=lambda content: content.paths))
        notes = tuple(self._notes(seen, contents))
        return InventoryItem(
            self._model, self._target.folder, repo, self._commit, contents, tuple(self._problems), notes
        )

    def _walk(self) -> Iterator[tuple[int, str, os.DirEntry[str]]]:
        with contextlib.suppress(OSError), open_folder(self._cache.fd, SNAPSHOTS, self._commit) as snapshot:
            yield from walk(snapshot)

    def _content(self, folder: int, path: str, entry: os.DirEntry[str]) -> Content | None:
        listed = self._tree.get(path)
        if entry.is_symlink():
            name = self._cache.blob_of(path, os.readlink(entry.name, dir_fd=folder))
            if name is not None:
                return self._blob(path, name, listed)
            self._report(path, "foreign_link", "The link leads out of the repository's blobs; hive does not follow it.")
            return None
        found = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            self._report(path, "unreadable", "This is neither a file nor a link.")
            return None
        names = (self._target.folder, SNAPSHOTS, self._commit, *path.split("/")[:-1])
        digest, size = (digest_of(listed.etag), listed.size) if listed else (None, None)
        return Content(self._hub, names, entry.name, found.st_size, size, digest, (path,))

    def _blob(self, path: str, name: str, listed: RepoFile | None) -> Content | None:
        if listed and digest_of(name) and listed.etag != name:
            message = "The link leads to the content of another file."
            self._report(path, "wrong_digest", message, listed.etag, name)
            return None
        blob = self._cache.blob(name)
        if blob is None:
            self._report(path, "dangling_link", "The link leads to a content that is not there.", name)
            return None
        digest = digest_of(name) or (digest_of(listed.etag) if listed else None)
        size = listed.size if listed else None
        return Content(self._hub, blob.at[:-1], blob.at[-1], blob.size, size, digest, (path,), name)

    def _notes(self, seen: set[str], contents: tuple[Content, ...]) -> Iterator[Note]:
        absent = sorted(set(self._tree) - seen - {problem.path for problem in self._problems})
        if self._is_whole and absent and not (self._target.quant or self._target.path):
            message = f"Not here: {counted(len(absent), 'file')} of the listing, never asked for, deleted, or lost."
            yield Note(model=self._model, message=message, paths=tuple(absent[:MAX_NOTED_PATHS]))
        unknown = [path for content in contents if content.digest is None for path in content.paths]
        if unknown:
            message = f"No digest is known of {counted(len(unknown), 'file')}: only read."
            yield Note(model=self._model, message=message, paths=tuple(unknown[:MAX_NOTED_PATHS]))

    def _report(
        self, path: str, kind: ProblemKind, message: str, expected: str | None = None, found: str | None = None
    ) -> None:
        self._problems.append(
            Problem(model=self._model, path=path, kind=kind, message=message, expected=expected, found=found)
        )


def _wanted(seen: Iterable[str], wanted: Target) -> set[str]:
    """The paths that a target means, among those that have a file or a link."""
    if wanted.path is not None:
        return set(at_path(wanted.path, seen))
    if wanted.quant is None:
        return set(seen)
    files = [RepoFile(path, 0, "") for path in sorted(seen)]
    found = matching(variants(files), wanted.quant)
    projectors_too = [projector for variant in found if (projector := projector_for(variant, files))]
    return {file.path for variant in found for file in variant.files} | {file.path for file in projectors_too}
