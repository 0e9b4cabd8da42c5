"""What is on the disk, read from the disk and nothing else: still right when Redis has lost all and the Hub is away.

    org/name                       the snapshot that refs/main stands for
    org/name:Q4_K_M                one GGUF variant of it
    org/name@v1.0:Q4_K_M           the same of another branch, tag or commit
    datasets/org/name              a data set; spaces/org/name the files of a Space
    url/<16 hex>/<file name>       a file from a plain URL

Every file is looked at anew with each call: a thousand snapshots of fifty files take well under two seconds, and a
cache of what other tools may change at any time would have to be as slow to be right.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from hive.errors import ModelInUse, ModelNotOnDisk
from hive.settings import Settings
from hive.store.delete import remove_snapshot_files, remove_url_file
from hive.store.dirfd import open_folder, size_of, subfolders
from hive.store.file_use import is_in_use
from hive.store.layout import (
    FILES,
    SNAPSHOTS,
    TREES,
    URL_KEY_CHARS,
    Manifest,
    read_manifest,
    repo_folder,
    repo_of,
    url_key,
)
from hive.store.repo_cache import RepoCache, SnapshotEntry, open_repo, read_tree
from hive.wire.api import Model, ModelFile
from hive.wire.gguf import Variant, is_vocabulary, main_models, matching, projector_for, projectors, variants
from hive.wire.refs import DEFAULT_REVISION, REPO_KINDS, ModelRef, is_quant, is_revision, path_problem, repo_in
from hive.wire.selection import RepoFile, Selection, SelectionError, select
from hive.wire.weights import is_weights, missing_shards

#: What ids of files from URLs begin with, and who owns them in lists.
URL_OWNER: Final = "url"


class Origin(NamedTuple):
    """Where a model on the disk is from: a repository, or a URL (without its query)."""

    repo: str | None = None
    url: str | None = None


#: What is said of a model that is not deleted because it is in memory.
IN_MEMORY: Final = "A worker has this model in memory. End it first: hive stop, or DELETE /v1/workers/{id}."
#: What is said of a model whose listing nobody kept.
UNLISTED_NOTE: Final = (
    "Answered from the disk: the Hub could not be asked, and the tool that fetched this kept no list of its files."
)


class OnDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A reference that needs no download. `local_path` is what a program opens; `size` counts the bytes of `files`.
    `note` is what people should know of it.
    """

    model_id: str
    local_path: str
    size: int
    files: tuple[ModelFile, ...]
    commit: str | None = None
    variant: str | None = None
    note: str | None = None


class _Snapshot(NamedTuple):
    """One commit of a repository on the disk, with the label that tells it from the repository's others in an id."""

    repo: str
    path: Path
    commit: str
    refs: tuple[str, ...]
    entries: list[SnapshotEntry]

    @property
    def label(self) -> str:
        """What of an id says which commit: nothing for `main`, else a name that can be typed, else the hash."""
        revision = self.revision
        return f"@{revision}" if revision else ""

    @property
    def revision(self) -> str | None:
        if DEFAULT_REVISION in self.refs:
            return None
        return next((ref for ref in self.refs if is_revision(ref)), self.commit)

    def gguf(self) -> list[Variant[SnapshotEntry]]:
        """The GGUF variants; a tokenizer beside other weights is none, nor is what a data set has of that format."""
        if self.repo.startswith(REPO_KINDS):
            return []
        found = variants(self.entries)
        others = bool(found) and any(is_weights(entry.path) for entry in self.entries)
        return [variant for variant in found if not (others and is_vocabulary(variant.primary))]

    def id_of(self, primary: str, found: Sequence[Variant[SnapshotEntry]]) -> str:
        """What a person types to mean the variant of this path, among `found`: its name, or the path where the name
        alone does not lead to it.
        """
        named = {variant.primary: variant.name.upper() for variant in main_models(found)}
        name = named.get(primary)
        if name is not None and list(named.values()).count(name) == 1 and is_quant(name):
            shown = next(variant.name for variant in found if variant.primary == primary)
            return f"{self.repo}{self.label}:{shown}"
        return str(ModelRef(repo=self.repo, revision=self.revision, path=primary)).removeprefix("hf:")


class ModelCatalog:
    """The models in a store. Every method reads the disk; all are safe to call from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._hub = settings.hub_dir
        self._hive = settings.hive_dir
        self._pickles = settings.allow_pickles

    def find(
        self,
        ref: ModelRef,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        sha256: str | None = None,
        name: str | None = None,
    ) -> OnDisk | None:
        """What this reference means, when all of it is on the disk with the right sizes; else None: ask the Hub.

        `name`: what the file of a plain URL must be called.
        """
        if ref.url is not None:
            return self._find_url(ref.url, sha256, name)
        folder = repo_folder(ref.repo)
        if repo_of(folder) != ref.repo:
            return None
        with open_repo(self._hub, folder) as cache:
            if cache is None:
                return None
            commit = cache.commit_of(ref.rev)
            snapshot = self._snapshot(cache, ref.repo, commit, cache.refs()) if commit else None
            if snapshot is None:
                return None
            tree = self.tree(ref.repo, snapshot.commit)
            if tree is None:
                return _found_by_name(snapshot, ref, include, exclude)
            with contextlib.suppress(SelectionError):
                return _found(snapshot, self._select(tree, ref, include, exclude), sha256)
        return None

    def _select(
        self, files: Iterable[RepoFile], ref: ModelRef, include: Sequence[str], exclude: Sequence[str]
    ) -> Selection:
        """Which of these files are meant. Raises SelectionError, which offers nothing: nobody sees it."""
        return select(
            files,
            path=ref.path,
            quant=ref.quant,
            include=include,
            exclude=exclude,
            similar=False,
            pickles=self._pickles,
            is_model=ref.is_model,
        )

    def find_unlisted(self, ref: ModelRef, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> OnDisk | None:
        """What the disk has of a reference to the Hub where nobody kept the Hub's listing of it, as older tools do not.

        Nothing says whether that is all of it, but what is there and no gap shows: for when the Hub cannot be asked.
        """
        folder = repo_folder(ref.repo)
        if ref.url is not None or repo_of(folder) != ref.repo:
            return None
        with open_repo(self._hub, folder) as cache:
            commit = cache.commit_of(ref.rev) if cache is not None else None
            if cache is None or commit is None or cache.is_unfinished():
                return None
            snapshot = self._snapshot(cache, ref.repo, commit, cache.refs())
        if snapshot is None or (ref.is_model and missing_shards(entry.path for entry in snapshot.entries)):
            return None
        files = [RepoFile(entry.path, entry.size, "") for entry in snapshot.entries]
        with contextlib.suppress(SelectionError):
            found = _found(snapshot, self._select(files, ref, include, exclude), None)
            return found and msgspec.structs.replace(found, note=UNLISTED_NOTE)
        return None

    def list(self) -> list[Model]:
        """Every model on the disk, and every data set and Space, by id. Other tools' files and broken folders are left
        out.
        """
        found = [model for folder in self._folders() for model in self._models_in(folder)]
        return sorted([*found, *self._url_models()], key=lambda model: model.id)

    def get(self, model_id: str) -> Model:
        """The model of this id.

        Raises:
            ModelNotOnDisk: there is none.
        """
        is_url = model_id.startswith(f"{URL_OWNER}/")
        models = self._url_models() if is_url else self._models_in(self._folder_of(model_id))
        for model in models:
            if model.id == model_id:
                return model
        raise ModelNotOnDisk(model_id=model_id)

    def at(self, path: Path) -> Model | None:
        """The model that lies here; None where none does, or it lies elsewhere than in this store."""
        models: Iterable[Model] = (model for model, _ in self._url_model(path.parent.name))
        if path.is_relative_to(self._hub):
            models = self._models_in(path.relative_to(self._hub).parts[0])
        return next((model for model in models if model.path == str(path)), None)

    def delete(self, model_id: str) -> int:
        """Remove a model: its files, then what nothing else on the disk needs. Gives the bytes that were freed.

        The id is looked up among what is there and never becomes a path. Whoever calls sees to it that no download of
        the same repository is under way: its worker may be about to use a blob that looks unused.

        Raises:
            ModelNotOnDisk: there is no such model.
            ModelInUse: a worker has it in memory.
            OSError: the store cannot be written.
        """
        model = self.get(model_id)
        repo = self.origin(model).repo
        if any(is_in_use(path) for path in self._paths(model)):
            raise ModelInUse(IN_MEMORY, id=model.id)
        if repo is None or model.revision is None:
            return remove_url_file(self._hive, Path(model.path).parent.name)
        folder = repo_folder(repo)
        others = [m for m in self._models_in(folder) if m.revision == model.revision and m.id != model.id]
        needed = {file.path for other in others for file in other.files}
        paths = {file.path for file in model.files} - needed if others else None
        return remove_snapshot_files(self._hub, self._hive, folder, model.revision, paths)

    def _paths(self, model: Model) -> Iterator[Path]:
        """Where its files are."""
        path = Path(model.path)
        root = path if path.is_dir() else path.parent
        if model.revision is not None and path.is_relative_to(self._hub):
            root = self._hub.joinpath(*path.relative_to(self._hub).parts[:3])  # the snapshot
        for file in model.files:
            yield root / file.path

    def origin(self, model: Model) -> Origin:
        """Where a model of this store is from; its path says so, which an id alone need not."""
        path = Path(model.path)
        if path.is_relative_to(self._hub):
            return Origin(repo=repo_of(path.relative_to(self._hub).parts[0]))
        for _, manifest in self._url_model(path.parent.name):
            return Origin(url=manifest.url)
        return Origin()

    def _folders(self) -> Sequence[str]:
        with open_folder(self._hub, missing_ok=True) as hub:
            return () if hub is None else [name for name in subfolders(hub) if repo_of(name)]

    def _folder_of(self, model_id: str) -> str | None:
        """The folder on the disk whose repository this id begins with."""
        repo = repo_in(model_id)
        return next((folder for folder in self._folders() if repo_of(folder) == repo), None)

    def _models_in(self, folder: str | None) -> Iterator[Model]:
        repo = repo_of(folder) if folder else None
        if not folder or not repo:
            return
        with contextlib.suppress(OSError), RepoCache(self._hub, folder) as cache:
            refs = cache.refs()
            for commit in cache.commits():
                if snapshot := self._snapshot(cache, repo, commit, refs):
                    yield from _models(snapshot)

    def tree(self, repo: str, commit: str) -> tuple[RepoFile, ...] | None:
        """The Hub's listing of a commit, where one was kept: a commit never changes, so it need not be asked again."""
        folder = repo_folder(repo)
        with contextlib.suppress(OSError), RepoCache(self._hub, folder) as cache:
            if (tree := cache.tree(commit)) is not None:
                return tree
        return read_tree(self._hive, (TREES, folder), commit)

    @staticmethod
    def _snapshot(cache: RepoCache, repo: str, commit: str, refs: Mapping[str, Sequence[str]]) -> _Snapshot | None:
        entries = cache.entries(commit)
        path = cache.path / SNAPSHOTS / commit
        return _Snapshot(repo, path, commit, tuple(refs.get(commit, ())), entries) if entries else None

    def _find_url(self, url: str, sha256: str | None, name: str | None) -> OnDisk | None:
        with contextlib.suppress(OSError):
            model, manifest = next(self._url_model(url_key(url)), (None, None))
            if model and manifest and sha256 in (None, manifest.sha256) and name in (None, manifest.name):
                return OnDisk(model_id=model.id, local_path=model.path, size=model.size, files=model.files)
        return None

    def _url_models(self) -> Sequence[Model]:
        with open_folder(self._hive, FILES, missing_ok=True) as files:
            keys = [] if files is None else [key for key in subfolders(files) if len(key) == URL_KEY_CHARS]
            return [model for key in keys for model, _ in self._url_model(key)]

    def _url_model(self, key: str) -> Iterator[tuple[Model, Manifest]]:
        """The file in this folder of `hive/files`, when it is there with the size that its manifest says."""
        with contextlib.suppress(OSError), open_folder(self._hive, FILES, key) as folder:
            manifest = read_manifest(folder)
            if manifest is None or size_of(folder, manifest.name) != manifest.size:
                return
            created = os.stat(manifest.name, dir_fd=folder, follow_symlinks=False).st_mtime
            model = Model(
                id=f"{URL_OWNER}/{key}/{manifest.name}",
                path=str(self._hive / FILES / key / manifest.name),
                size=manifest.size,
                files=(ModelFile(manifest.name, manifest.size),),
                created=int(created),
                owned_by=URL_OWNER,
            )
            yield model, manifest


def _models(snapshot: _Snapshot) -> Iterator[Model]:
    """The models of a snapshot: each GGUF variant, and the rest where it has no GGUF or other weights too."""
    found = snapshot.gguf()
    main = [variant.primary for variant in main_models(found)]
    for variant in found:
        projector = projector_for(variant, snapshot.entries) if variant.primary in main else None
        entries = [*variant.files, *([projector] if projector else [])]
        model_id = snapshot.id_of(variant.primary, found)
        complete = not variant.missing and not variant.raw_parts
        yield _model(snapshot, entries, model_id, variant.primary, variant.name, complete)
    gguf = {file.path for variant in found for file in variant.files} | {p.path for p in projectors(snapshot.entries)}
    rest = [entry for entry in snapshot.entries if entry.path not in gguf] if found else snapshot.entries
    if not found or any(is_weights(entry.path) for entry in rest):
        primary = rest[0].path if len(rest) == 1 else None
        complete = snapshot.repo.startswith(REPO_KINDS) or not missing_shards(entry.path for entry in rest)
        yield _model(snapshot, rest, f"{snapshot.repo}{snapshot.label}", primary, None, complete)


def _model(
    snapshot: _Snapshot,
    entries: list[SnapshotEntry],
    model_id: str,
    primary: str | None,
    variant: str | None,
    complete: bool,
) -> Model:
    return Model(
        id=model_id,
        path=str(snapshot.path / primary if primary else snapshot.path),
        size=sum({entry.blob or entry.path: entry.size for entry in entries}.values()),
        files=tuple(ModelFile(entry.path, entry.size) for entry in entries),
        created=int(max(entry.modified for entry in entries)),
        incomplete=UNSET if complete else True,
        owned_by=snapshot.repo.split("/")[-2 if "/" in snapshot.repo else 0],
        revision=snapshot.commit,
        refs=snapshot.refs,
        variant=variant,
    )


def _found(snapshot: _Snapshot, selection: Selection, sha256: str | None) -> OnDisk | None:
    """The selection, when each of its files lies in the snapshot with the size that the Hub listed."""
    sizes = {entry.path: entry.size for entry in snapshot.entries}
    if any(sizes.get(file.path) != file.size or path_problem(file.path) for file in selection.files):
        return None
    if sha256 and [file.sha256 for file in selection.files] != [sha256]:
        return None
    files = tuple(ModelFile(file.path, file.size) for file in selection.files)
    return _on_disk(snapshot, files, selection.variant, selection.primary)


def _found_by_name(snapshot: _Snapshot, ref: ModelRef, include: Sequence[str], exclude: Sequence[str]) -> OnDisk | None:
    """Without the Hub's listing, only what names itself complete: one file, or all shards of a variant."""
    if include or exclude:
        return None
    if ref.path is not None:
        file = next((entry for entry in snapshot.entries if entry.path == ref.path), None)
        return _on_disk(snapshot, (ModelFile(file.path, file.size),), None, file.path) if file else None
    found = matching(main_models(variants(snapshot.entries)), ref.quant) if ref.quant else []
    if len(found) != 1 or found[0].missing or found[0].raw_parts:
        return None
    projector = projector_for(found[0], snapshot.entries)
    entries = [*found[0].files, *([projector] if projector else [])]
    files = tuple(ModelFile(entry.path, entry.size) for entry in entries)
    return _on_disk(snapshot, files, found[0].name, found[0].primary)


def _on_disk(snapshot: _Snapshot, files: tuple[ModelFile, ...], variant: str | None, primary: str | None) -> OnDisk:
    found = snapshot.gguf()
    is_variant = primary in [variant.primary for variant in found]
    return OnDisk(
        model_id=snapshot.id_of(primary or "", found) if is_variant else f"{snapshot.repo}{snapshot.label}",
        local_path=str(snapshot.path / primary if primary else snapshot.path),
        size=sum(file.size for file in files),
        files=files,
        commit=snapshot.commit,
        variant=variant,
    )
