"""Export of a model of the store as an archive (hive.store.archive).

Each file is hashed while it is written, and one that is not what the store says ends the export: a wrong archive would
be noticed on a machine that cannot fetch the model again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from hive.errors import BadRequest, ChecksumMismatch, ModelNotOnDisk
from hive.settings import Settings
from hive.store import archive
from hive.store.archive import ArchivedFile, ArchiveManifest, ArchiveWriter
from hive.store.blobs import BlobPlace, open_blob
from hive.store.catalog import ModelCatalog
from hive.store.dirfd import open_folder
from hive.store.inventory import digest_of
from hive.store.layout import FILES, SNAPSHOTS, read_manifest, repo_folder, url_key
from hive.store.repo_cache import RepoCache, SnapshotEntry
from hive.store.restricted import AccessNotes
from hive.wire.api import Model
from hive.wire.refs import DEFAULT_REVISION, ModelRef, is_revision
from hive.wire.weights import is_beside_weights

#: Bytes of a model card in which its licence is looked for.
MAX_CARD_BYTES: Final = 64 << 10
_LICENSE = re.compile(rb"^license:[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9._-]{0,63})", re.MULTILINE)

#: Hears the path of a file and how many of its bytes were written just now.
OnBytes = Callable[[str, int], None]


class Export(NamedTuple):
    """What is to be written: the manifest, and where each file of it lies."""

    manifest: ArchiveManifest
    places: tuple[BlobPlace, ...]

    def write(self, stream: BinaryIO, on_bytes: OnBytes) -> None:
        """The whole archive.

        Raises:
            ChecksumMismatch: a file is not what the store says.
            OSError: it cannot be read, or the archive not be written.
        """
        writer = ArchiveWriter(stream)
        writer.manifest(self.manifest)
        for file, place in zip(self.manifest.files, self.places, strict=True):
            writer.begin(archive.FILES + file.path, file.size)

            def on_data(data: memoryview, path: str = file.path) -> None:
                writer.write(data)
                on_bytes(path, len(data))

            found = _read(place, file.size, on_data)
            if found != file.sha256:
                text = f"{file.path} is not what the store says that it is. Look with hive catalog verify."
                raise ChecksumMismatch(text, expected=file.sha256, found=found)
            writer.end(file.size)
        writer.close()


def export_of(settings: Settings, models: Sequence[Model]) -> Export:
    """The archive of these models, which are variants of one commit, or one file from a URL.

    Raises:
        BadRequest: they are not of one commit; one is not whole; the URL is not known whole.
        OSError: the store cannot be read.
    """
    if any(model.incomplete is True for model in models):
        raise BadRequest(f"{models[0].id} is not whole: files of it are missing. hive pull brings them.")
    catalog = ModelCatalog(settings)
    origins = {(catalog.origin(model).repo, model.revision) for model in models}
    if len(origins) != 1:
        raise BadRequest("These are models of several commits. Export one after the other.")
    [(repo, commit)] = origins
    if repo is None or commit is None:
        return _of_url(settings, models[0])
    return _of_repository(settings, models, repo, commit)


def _of_repository(settings: Settings, models: Sequence[Model], repo: str, commit: str) -> Export:
    hub, folder = settings.hub_dir, repo_folder(repo)
    wanted = {file.path for model in models for file in model.files}
    tree = ModelCatalog(settings).tree(repo, commit) or ()
    listed = {file.path: file.etag for file in tree}
    with RepoCache(hub, folder) as cache:
        entries = [e for e in cache.entries(commit) if e.path in wanted or is_beside_weights(e.path)]
        refs = cache.refs().get(commit, [])
        places = tuple(_place(hub, cache, folder, commit, entry) for entry in entries)
    if not wanted <= {entry.path for entry in entries}:
        raise ModelNotOnDisk
    files = tuple(
        _archived(entry.path, place, entry.blob or listed.get(entry.path, ""))
        for entry, place in zip(entries, places, strict=True)
    )
    is_listed = all(listed.get(file.path) == file.etag for file in files)
    revision = DEFAULT_REVISION if DEFAULT_REVISION in refs else next(filter(is_revision, refs), "")
    named = (revision or commit) if revision != DEFAULT_REVISION else None
    only = models[0] if len(models) == 1 else None
    snapshot = hub / folder / SNAPSHOTS / commit
    path = Path(only.path) if only is not None else snapshot
    manifest = ArchiveManifest(
        ref=str(ModelRef(repo=repo, revision=named, quant=only.variant if only else None)),
        repo=repo,
        revision=revision,
        commit=commit,
        variant=(only.variant or "") if only else "",
        license=next((_license(place) for entry, place in zip(entries, places, strict=True) if _is_card(entry)), ""),
        primary=path.relative_to(snapshot).as_posix() if path != snapshot else "",
        files=files,
        tree=tree if is_listed else (),
        restricted=AccessNotes(settings.hive_dir).places(repo, commit),
    )
    return Export(manifest, places)


def _of_url(settings: Settings, model: Model) -> Export:
    key = Path(model.path).parent.name
    with open_folder(settings.hive_dir, FILES, key) as folder:
        known = read_manifest(folder)
    if known is None:
        raise ModelNotOnDisk(model_id=model.id)
    if url_key(known.url) != key:
        raise BadRequest(
            "The URL of this file had a query, which is kept nowhere: it cannot be exported. Copy the file."
        )
    if ModelRef(kind="url", url=known.url).is_local_file:
        raise BadRequest("This file came from a disk: its address means nothing elsewhere. Copy the file.")
    at = (FILES, key, known.name)
    place = BlobPlace(settings.hive_dir, at, str(settings.hive_dir.joinpath(*at)), known.size)
    file = ArchivedFile(known.name, known.size, known.sha256, known.sha256)
    manifest = ArchiveManifest(ref=known.url, url=known.url, verified=known.verified, primary=known.name, files=(file,))
    return Export(manifest, (place,))


def _place(hub: Path, cache: RepoCache, folder: str, commit: str, entry: SnapshotEntry) -> BlobPlace:
    blob = cache.blob(entry.blob) if entry.blob is not None else None
    at = blob.at if blob is not None else (folder, SNAPSHOTS, commit, *entry.path.split("/"))
    return BlobPlace(hub, at, entry.path, entry.size)


def _archived(path: str, place: BlobPlace, name: str) -> ArchivedFile:
    """The file with its digests. What is named by git's SHA-1, and is small, or by nothing, is read for its SHA-256."""
    digest = digest_of(name)
    if digest is not None and digest.algorithm == "sha256":
        return ArchivedFile(path, place.size, digest.hex, digest.hex)
    sha256 = _read(place, place.size, lambda _: None)
    return ArchivedFile(path, place.size, sha256, digest.hex if digest is not None else sha256)


def _read(place: BlobPlace, size: int, on_data: Callable[[memoryview], None]) -> str:
    """The SHA-256 of exactly so many bytes, each piece of which `on_data` gets."""
    made, buffer, left = hashlib.sha256(), memoryview(bytearray(min(archive.COPY_BYTES, max(size, 1)))), size
    file, _ = open_blob(place)
    try:
        while left:
            count = os.readv(file, [buffer[: min(left, len(buffer))]])
            if not count:
                raise ChecksumMismatch(f"{place.path} is shorter than it was. Look with hive catalog verify.")
            made.update(buffer[:count])
            on_data(buffer[:count])
            left -= count
    finally:
        os.close(file)
    return made.hexdigest()


def _is_card(entry: SnapshotEntry) -> bool:
    return entry.path == "README.md"


def _license(place: BlobPlace) -> str:
    """What the head of a model card calls the licence; "" where it says nothing."""
    file, _ = open_blob(place)
    with os.fdopen(file, "rb") as stream:
        head = stream.read(MAX_CARD_BYTES)
    found = _LICENSE.search(head.partition(b"\n---")[0]) if head.startswith(b"---") else None
    return found[1].decode() if found else ""
