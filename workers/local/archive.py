"""Import of an archive (hive.store.archive) into the store: what it leaves is what a download would have left.

Each file is hashed while it is written to a partial file of its own and published by the worker's own code
(workers.publish), and the model is there only when all of them are. What came whole before a failure stays as blobs
that nothing refers to: the next import reads past them, and `hive gc` removes them where there is none.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from typing import BinaryIO, Final, NamedTuple

from hive.disk_errors import disk_error, disk_full
from hive.downloads.local import LocalDownloads
from hive.errors import BadRequest, ChecksumMismatch, ModelInUse
from hive.plain_file import open_plain_file
from hive.settings import Settings
from hive.store.archive import ArchivedFile, ArchiveManifest, ArchiveReader
from hive.store.dirfd import CONTENT_MODE
from hive.store.filesystem import nearest, partial_place
from hive.store.layout import repo_folder
from hive.store.repo_cache import open_repo
from hive.wire.spec import DownloadSpec
from workers.fetch import limits_of
from workers.publish import Store
from workers.sources.plan import Plan, PlannedFile
from workers.transfer import Digest, Fetched, Location, Source, data_path, discard, free_bytes

_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC

#: Hears the path of a file and how many of its bytes were read just now.
OnBytes = Callable[[str, int], None]


class Imported(NamedTuple):
    """What was imported: the path that a program opens, and whether all of it was there before."""

    local_path: str
    was_there: bool


def import_archive(
    settings: Settings, stream: BinaryIO, on_manifest: Callable[[ArchiveManifest], None], on_bytes: OnBytes
) -> Imported:
    """Bring the model of an archive into the store. `on_manifest` hears what comes.

    Raises:
        BadRequest: it is no archive, damaged, or holds what it must not.
        ChecksumMismatch: a file is not what the manifest says.
        DiskFull, StoreNotWritable: the store will not take it.
        ModelInUse: another command is downloading the same commit.
    """
    reader = ArchiveReader(stream)
    manifest = reader.manifest()
    plan, store = _plan(manifest), Store(settings)
    on_manifest(manifest)
    store.check(plan)
    if _is_there(settings, store, plan):
        store.complete(plan)
        return Imported(store.local_path(plan), was_there=True)
    try:
        run = LocalDownloads(settings).begin(DownloadSpec(ref=plan.ref))
    except OSError as error:
        raise disk_error(error, settings.hive_dir) from error
    if run is None:
        raise ModelInUse("Another command is downloading this. Wait for its end, then import again.")
    completed = False
    try:
        store.note_access(plan, ())
        _Import(settings, store, plan, run.id).run(reader, manifest, on_bytes)
        store.complete(plan)
        completed = True
    finally:
        if completed or not (run.is_known or run.bytes_done):
            run.end(completed=completed)
        else:
            run.set_aside()
    return Imported(store.local_path(plan), was_there=False)


def _is_there(settings: Settings, store: Store, plan: Plan) -> bool:
    if plan.kind == "url":
        return not store.missing(plan)
    with open_repo(settings.hub_dir, repo_folder(plan.repo or "")) as cache:
        entries = cache.entries(plan.commit or "") if cache is not None else []
    sizes = {entry.path: entry.size for entry in entries}
    return all(sizes.get(file.path) == file.size for file in plan.files)


def _plan(manifest: ArchiveManifest) -> Plan:
    """The plan that a download of the same would have had."""
    ref = manifest.model_ref()
    files = tuple(_planned(file, is_url=ref.url is not None) for file in manifest.files)
    primary = manifest.primary or None
    if ref.url is not None:
        return Plan(ref=ref, kind="url", files=files, primary=primary, name=files[0].path)
    return Plan(
        ref=ref,
        kind="hf",
        files=files,
        primary=primary,
        repo=manifest.repo,
        revision=manifest.revision or None,
        commit=manifest.commit,
        variant=manifest.variant or None,
        license=manifest.license or None,
        tree=manifest.tree,
        places=manifest.restricted,
    )


def _planned(file: ArchivedFile, *, is_url: bool) -> PlannedFile:
    digest = Digest("sha256", file.sha256)

    def nowhere() -> Location:
        raise BadRequest("A file of an archive has no address.")

    source = Source(locate=nowhere, size=file.size, digest=digest, name=file.path)
    return PlannedFile(file.path, file.size, digest, None if is_url else file.etag, source)


class _Import:
    """One import, of which this process has the download in hand."""

    def __init__(self, settings: Settings, store: Store, plan: Plan, run_id: str) -> None:
        self._settings = settings
        self._store = store
        self._plan = plan
        self._run_id = run_id
        self._limits = limits_of(settings)

    def run(self, reader: ArchiveReader, manifest: ArchiveManifest, on_bytes: OnBytes) -> None:
        """All files into the store, as blobs."""
        missing = {file.path for file in self._store.missing(self._plan)}
        self._take_room(sum(file.size for file in manifest.files if file.path in missing))
        for archived, planned in zip(manifest.files, self._plan.files, strict=True):
            if archived.path in missing and not self._adopt(planned):
                self._write(reader, archived, planned, on_bytes, verified=manifest.verified)
            else:
                _read(reader, archived, on_bytes, None)
        reader.end()

    def _take_room(self, needed: int) -> None:
        folder = nearest(partial_place(self._settings, for_url=self._plan.kind == "url").path)
        available = free_bytes(folder, self._limits)
        if needed > available:
            raise disk_full(folder, needed=needed, available=available)

    def _adopt(self, file: PlannedFile) -> bool:
        """Whether another repository of the store has the same content, which is then shared."""
        if (file.size or 0) < self._limits.small_file_bytes:
            return False
        return self._store.link_existing(self._plan, file, lambda: None)

    def _write(
        self, reader: ArchiveReader, archived: ArchivedFile, planned: PlannedFile, on_bytes: OnBytes, *, verified: bool
    ) -> None:
        partial, began_s = self._store.partial(self._plan, planned, self._run_id), time.monotonic()
        target = data_path(partial)
        try:
            try:
                descriptor = open_plain_file(target, _WRITE, CONTENT_MODE)
                with os.fdopen(descriptor, "wb", buffering=0) as file:
                    _read(reader, archived, on_bytes, file)
                    os.fsync(descriptor)
            except OSError as error:
                raise disk_error(error, target, needed=archived.size) from error
            known = verified or self._plan.kind == "hf"
            seconds = time.monotonic() - began_s
            fetched = Fetched(target, archived.size, archived.sha256, None, 0, seconds, known)
            self._store.publish(self._plan, planned, partial, fetched)
        finally:
            discard(partial)


def _read(reader: ArchiveReader, archived: ArchivedFile, on_bytes: OnBytes, file: BinaryIO | None) -> None:
    """Read a file, hash it, and write it where it is wanted."""
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % archived.size, usedforsecurity=False)
    by_git = archived.etag != archived.sha256
    for data in reader.file(archived):
        sha256.update(data)
        if by_git:
            git.update(data)
        left = data
        while file is not None and left:
            left = left[file.write(left) :]
        on_bytes(archived.path, len(data))
    found = sha256.hexdigest()
    if found != archived.sha256:
        text = f"The archive is damaged: {archived.path} is not what its manifest says."
        raise ChecksumMismatch(text, expected=archived.sha256, found=found)
    if by_git and git.hexdigest() != archived.etag:
        text = f"The archive's manifest is wrong: {archived.path} is not the file of the commit."
        raise ChecksumMismatch(text, expected=archived.etag, found=git.hexdigest())
