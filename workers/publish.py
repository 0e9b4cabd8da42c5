"""Atomic publication by rename: verified files become a model in the Hub's cache, or a file from a URL in its folder.

A file is published by one rename, of bytes that the engine has verified and synced, to `blobs/<digest>`. After the last
file come the links in `snapshots/<commit>/`, then the listing of the commit and, as the very last, the ref: whoever
reads a ref finds all that it promises, and a power cut at any moment leaves either the old state or files that the
next attempt finds and uses. No folder below the store is reached through a link, so a planted one makes an error and
not a write elsewhere.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from hive.disk_errors import disk_error
from hive.errors import DownloadError, InternalError, StoreNotWritable
from hive.settings import Settings
from hive.store.dirfd import (
    FOLDER_MODE,
    copy_file,
    open_folder,
    read_file,
    remove_file,
    size_of,
    temporary_name,
    write_file,
    write_link,
)
from hive.store.filesystem import check_names, partial_place
from hive.store.given_up import note_given_up
from hive.store.layout import (
    BLOBS,
    CACHEDIR_TAG,
    CACHEDIR_TAG_TEXT,
    FILES,
    MANIFEST,
    MAX_REF_BYTES,
    REFS,
    SNAPSHOTS,
    TREES,
    Manifest,
    blob_link,
    encode_tree,
    own_partial_key,
    partial_key,
    read_manifest,
    repo_folder,
    url_key,
)
from hive.store.probe import probe
from hive.store.repo_cache import RepoCache, open_repo
from hive.store.restricted import AccessNotes, ProbeFile
from hive.wire.refs import without_query
from workers.reuse import link_existing
from workers.sources.plan import Plan, PlannedFile
from workers.transfer import Fetched, Limits, data_path, discard, finish, journal_path, move_file

#: Bytes from which a file is made durable by itself when it is published: what it would cost to fetch it again.
SYNCED_ALONE_FROM_BYTES: Final = Limits().small_file_bytes


class Store:
    """The shared model store. Methods raise StoreNotWritable or DiskFull where the disk refuses."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hub = settings.hub_dir
        self._hive = settings.hive_dir
        self._notes = AccessNotes(settings.hive_dir)
        self._places = {kind: partial_place(settings, for_url=kind == "url") for kind in ("hf", "url")}

    def check(self, plan: Plan) -> None:
        """Whether the disk will take these files, before any of them is fetched.

        Raises:
            StoreNotWritable, DiskFull: nothing can be written; or a name cannot be, or two are one to this filesystem.
        """
        if plan.kind == "hf":
            limits = probe(self._settings)
            check_names([file.path for file in plan.files], limits, self._hub)
            return
        with _our_errors(), open_folder(self._hive, FILES, create=True) as files:
            name = temporary_name("probe")
            write_file(files, name, b"", durable=False)
            remove_file(files, name)

    def partial(self, plan: Plan, file: PlannedFile, own: str = "") -> Path:
        """Where the engine keeps this file while it is under way: one place for a content, whoever asks for it.

        With `own` (an id) a place that nobody shares: for files too small to be resumed.
        """
        place = self._places[plan.kind]
        with _our_errors(), open_folder(place.root, *place.names, create=True):
            return place.path / (_partial_key(plan, file) + (f".{own}" if own else ""))

    def note_given_up(self, plan: Plan, file: PlannedFile) -> None:
        """Note that bytes of this content are given up; nothing where no digest names it, or only a stranger's host
        brings it so: nobody reads that while it comes.
        """
        if file.etag is not None and not plan.ref.is_strangers:
            with _our_errors():
                note_given_up(self._hive, file.etag)

    def missing(self, plan: Plan) -> tuple[PlannedFile, ...]:
        """The files that have to be fetched: those that are not in the store with the right size.

        A content that several paths share is fetched once, for the first of them; `complete` links the others.
        """
        if plan.kind == "url":
            return tuple(file for file in plan.files if not self._has_url_file(plan, file))
        wanted = {_etag(file): file for file in reversed(plan.files)}
        files = tuple(file for file in plan.files if wanted[_etag(file)] is file)
        with _our_errors(), open_repo(self._hub, _folder(plan)) as cache:
            return files if cache is None else tuple(file for file in files if not _content(cache, plan, file))

    def has(self, plan: Plan, file: PlannedFile) -> bool:
        """Whether this file need not be fetched. `missing` is quicker for many."""
        return not self.missing(dataclasses.replace(plan, files=(file,)))

    def link_existing(self, plan: Plan, file: PlannedFile, check: Callable[[], None]) -> bool:
        """Take the file from another repository of the store that has it; False where none has. `check` raises where
        this is to end.
        """
        if plan.kind == "url" or file.digest is None or file.digest.algorithm != "sha256" or file.size is None:
            return False
        with _our_errors():
            found = link_existing(
                self._hub, _folder(plan), _etag(file), file.size, check, lambda repo: self._may_have(plan, repo)
            )
            if found:
                with open_folder(self._hub, _folder(plan), SNAPSHOTS, create=True):
                    partial = self.partial(plan, file)
                    if os.path.lexists(journal_path(partial)):
                        self.note_given_up(plan, file)
                    discard(partial)
            return found

    def _may_have(self, plan: Plan, repo: str) -> bool:
        """Whether content of this repository may be linked into the plan's. Of a restricted one only where the Hub lets
        the download in there too; and then so must it whoever sees the plan's commit.
        """
        places = self._notes.places_of_repo(repo)
        if not all(plan.lets_in(place) for place in places):
            return False
        if places:
            self._notes.note(plan.repo or "", _commit(plan), (*plan.places, *places))
        return True

    def note_access(self, plan: Plan, owners: Iterable[str]) -> None:
        """Note, before any file is there, for whom the Hub is to be asked; of a URL with a query, who knows it."""
        with _our_errors():
            if plan.ref.url is not None and plan.own_content:
                for owner in owners or [""]:
                    self._notes.note_url(plan.ref.url, owner)
            elif places := plan.places or self._shared_places(plan):
                self._notes.note(plan.repo or "", _commit(plan), places)

    def _shared_places(self, plan: Plan) -> tuple[ProbeFile, ...]:
        """What the other commits of a registry's repository are restricted by: its blobs are theirs as well, and their
        digests are whatever the registry names.
        """
        return self._notes.places_of_repo(plan.repo or "") if plan.ref.registry is not None else ()

    def note_let_in(self, plan: Plan, owners: Iterable[str]) -> None:
        """Note that the Hub has let these owners in."""
        with _our_errors():
            for owner in owners if plan.places else ():
                self._notes.let_in(plan.repo or "", _commit(plan), owner)

    def publish(self, plan: Plan, file: PlannedFile, partial: Path, fetched: Fetched) -> None:
        """Move a verified file from its partial to its blob, where `missing` finds it, or to its place below `files`.

        The links are left to `complete`: between the engine's busy threads each costs several times as much as at the
        end. Tools take a repository without the folder `snapshots` for broken, so that is there from the start.
        """
        with _our_errors():
            if plan.kind == "url":
                self._publish_url_file(plan, file, partial, fetched)
                return
            with open_folder(self._hub, _folder(plan), create=True) as repo:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(SNAPSHOTS, FOLDER_MODE, dir_fd=repo)
                with open_folder(repo, BLOBS, create=True) as blobs:
                    if fetched.size >= SYNCED_ALONE_FROM_BYTES:
                        finish(partial, self._hub / _folder(plan) / BLOBS / _etag(file))
                    else:
                        _move(partial, blobs, _etag(file))

    def complete(self, plan: Plan) -> None:
        """Make the plan's files a model: links, listing, and last the ref.

        Raises:
            DownloadError: a file is not in the store (any more).
        """
        if plan.kind == "url":
            return
        with _our_errors():
            with open_folder(self._hub, _folder(plan), SNAPSHOTS, _commit(plan), create=True):
                self._write_tag()
            with RepoCache(self._hub, _folder(plan)) as cache:
                self._complete_links(plan, cache)
            self._sync(plan)
            with RepoCache(self._hub, _folder(plan)) as cache:
                self._write_tree(plan, cache)
            self._write_ref(plan)

    def local_path(self, plan: Plan) -> str:
        """What a program opens: the file, the first shard, or the snapshot's folder."""
        if plan.ref.url is not None:
            manifest = self._url_manifest(plan.ref.url)
            name = plan.files[0].path if manifest is None else manifest.name
            return str(self._hive / FILES / url_key(plan.ref.url) / name)
        snapshot = self._hub / _folder(plan) / SNAPSHOTS / _commit(plan)
        return str(snapshot / plan.primary if plan.primary else snapshot)

    def _link(self, plan: Plan, file: PlannedFile, content: tuple[str, ...], *, last: bool) -> None:
        """A link to the blob. Where the filesystem has none the file itself, as huggingface_hub does it: moved, or
        copied while others still want it. A disk that is full or broken refuses that too, and then says so itself.
        """
        *folders, name = file.path.split("/")
        repo = _folder(plan)
        with open_folder(self._hub, repo, SNAPSHOTS, _commit(plan), *folders, create=True) as folder:
            if content[0] == BLOBS:
                with contextlib.suppress(OSError):
                    write_link(folder, name, blob_link(file.path, _etag(file)))
                    return
            with open_folder(self._hub, repo, *content[:-1]) as source:
                if last and content[0] == BLOBS:
                    os.replace(content[-1], name, src_dir_fd=source, dst_dir_fd=folder)
                else:
                    copy_file(source, content[-1], folder, name)

    def _complete_links(self, plan: Plan, cache: RepoCache) -> None:
        """Files whose blob was there before have no link in this commit yet."""
        sizes = {entry.path: entry.size for entry in cache.entries(_commit(plan))}
        absent = [file for file in plan.files if sizes.get(file.path) != file.size]
        waiting = collections.Counter(_etag(file) for file in absent)
        for file in absent:
            content = _content(cache, plan, file)
            if content is None:
                raise DownloadError(f"{file.path} was removed from the store during the download. Start it again.")
            waiting[_etag(file)] -= 1
            self._link(plan, file, content, last=not waiting[_etag(file)])

    def _sync(self, plan: Plan) -> None:
        """Make all names survive a power cut: one fsync for each folder, not for each of a thousand files."""
        folders = {tuple(file.path.split("/")[:-1]) for file in plan.files}
        parents = {path[:depth] for path in folders for depth in range(len(path) + 1)}
        base = (_folder(plan), SNAPSHOTS, _commit(plan))
        for path in [
            (_folder(plan), BLOBS),
            *(base[:depth] for depth in range(len(base))),
            *((*base, *parent) for parent in sorted(parents)),
        ]:
            with open_folder(self._hub, *path) as folder:
                os.fsync(folder)

    def _write_tree(self, plan: Plan, cache: RepoCache) -> None:
        """Beside the snapshot where it is whole, else in hive's own folder; see hive.store.layout. Nothing where no
        listing is known: an archive need not have one.
        """
        if not plan.tree:
            return
        folder, name = _folder(plan), f"{_commit(plan)}.json"
        sizes = {entry.path: entry.size for entry in cache.entries(_commit(plan))}
        whole = all(sizes.get(file.path) == file.size for file in plan.tree)
        root, names = (self._hub, (folder, TREES)) if whole else (self._hive, (TREES, folder))
        with open_folder(root, *names, create=True) as trees:
            if not size_of(trees, name):
                write_file(trees, name, encode_tree(plan.tree))

    def _write_ref(self, plan: Plan) -> None:
        commit, revision = _commit(plan), plan.revision
        if revision in (None, commit):
            return
        *folders, name = (revision or "").split("/")
        with open_folder(self._hub, _folder(plan), REFS, *folders, create=True) as refs:
            if read_file(refs, name, MAX_REF_BYTES) != commit.encode():
                write_file(refs, name, commit.encode())

    def _write_tag(self) -> None:
        """Backup programs skip a folder with this file."""
        with open_folder(self._hub) as hub:
            if not size_of(hub, CACHEDIR_TAG):
                write_file(hub, CACHEDIR_TAG, CACHEDIR_TAG_TEXT.encode())

    def _publish_url_file(self, plan: Plan, file: PlannedFile, partial: Path, fetched: Fetched) -> None:
        """The old manifest goes first: it must never vouch for new bytes. A file of another name goes last."""
        key = url_key(plan.ref.url or "")
        manifest = Manifest(
            name=file.path,
            url=str(without_query(plan.ref)),
            size=fetched.size,
            sha256=fetched.digest_hex,
            etag=fetched.etag,
            fetched_at=time.time(),
            verified=fetched.verified,
        )
        with open_folder(self._hive, FILES, key, create=True) as folder:
            before = read_manifest(folder)
            remove_file(folder, MANIFEST)
            finish(partial, self._hive / FILES / key / file.path)
            write_file(folder, MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            if before is not None and before.name != file.path:
                remove_file(folder, before.name)

    def _has_url_file(self, plan: Plan, file: PlannedFile) -> bool:
        """Only a digest says that the URL still means what was fetched from it once."""
        if file.digest is None:
            return False
        manifest = self._url_manifest(plan.ref.url or "")
        return manifest is not None and manifest.sha256 == file.digest.hex and plan.name in (None, manifest.name)

    def _url_manifest(self, url: str) -> Manifest | None:
        """What is known of a URL's file that is there with the size that it had."""
        with contextlib.suppress(OSError), open_folder(self._hive, FILES, url_key(url)) as folder:
            manifest = read_manifest(folder)
            if manifest is not None and size_of(folder, manifest.name) == manifest.size:
                return manifest
        return None


def _content(cache: RepoCache, plan: Plan, file: PlannedFile) -> tuple[str, ...] | None:
    """Where in the repository the file's content is: its blob, or, where there are no links, a file of the commit that
    has the same. None where it is not there with the right size.
    """
    blob = cache.blob(_etag(file))
    if blob is not None and blob.size == file.size:
        return BLOBS, _etag(file)
    for path in dict.fromkeys([file.path, *(other.path for other in plan.files if other.etag == file.etag)]):
        *folders, name = path.split("/")
        with contextlib.suppress(OSError), open_folder(cache.fd, SNAPSHOTS, _commit(plan), *folders) as folder:
            if size_of(folder, name) == file.size:
                return SNAPSHOTS, _commit(plan), *folders, name
    return None


def _move(partial: Path, blobs: int, etag: str) -> None:
    """Publish a small file as `finish` does, but leave the fsync of the folder to `complete`: two for each of a
    thousand files took as long as to fetch them. A power cut in between costs no more than to fetch a small file again.
    """
    move_file(data_path(partial), etag, folder=blobs)
    journal_path(partial).unlink(missing_ok=True)


def _partial_key(plan: Plan, file: PlannedFile) -> str:
    if file.digest is not None and plan.own_partial:
        return own_partial_key(file.digest.algorithm, file.digest.hex, plan.own_partial)
    if file.digest is None:
        return f"url-{hashlib.sha256((plan.ref.url or '').encode()).hexdigest()}"
    return partial_key(file.digest.algorithm, file.digest.hex)


def _folder(plan: Plan) -> str:
    if plan.repo is None:
        raise InternalError("A plan of the Hub has no repository.")
    return repo_folder(plan.repo)


def _commit(plan: Plan) -> str:
    if plan.commit is None:
        raise InternalError("A plan of the Hub has no commit.")
    return plan.commit


def _etag(file: PlannedFile) -> str:
    if file.etag is None:
        raise InternalError("A file of the Hub has no digest.")
    return file.etag


@contextlib.contextmanager
def _our_errors() -> Iterator[None]:
    """The disk's refusals in hive's words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            text = f"A folder of the store is a link or a file; hive follows no links there: {error.filename}."
            raise StoreNotWritable(text, path=str(error.filename)) from error
        raise disk_error(error) from error
