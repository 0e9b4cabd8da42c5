"""Quarantine and repair: wrong files are set aside, and their right content is asked for as a download.

Nothing is deleted: a wrong blob goes to `hive/partial/<digest>.bad`, as the engine does with a file whose digest stays
wrong, and the collection of garbage removes it when nobody has looked at it for a while. A link to the wrong blob is
removed; the blob stays. Then the commit is asked for again, restricted to these paths: what is there and right is not
fetched, and a commit never changes, so what comes is what was there.

A repository that a download is using is not repaired: its worker may have counted on a blob that is set aside.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from hive.disk_errors import disk_error
from hive.errors import Conflict, HiveError, ModelInUse
from hive.settings import Settings
from hive.store.dirfd import open_folder, remove_file
from hive.store.filesystem import partial_place
from hive.store.given_up import note_given_up
from hive.store.inventory import Content, InventoryItem
from hive.store.layout import BLOBS, FILES, SNAPSHOTS, partial_key, read_manifest, url_key
from hive.wire.maintenance import Problem, Refetch
from hive.wire.refs import ModelRef
from hive.wire.spec import DownloadSpec

#: Paths that one download asks for: as many patterns as a request may have.
MAX_PATHS: Final = 64

#: What is set aside; what else is wrong is no file.
_SET_ASIDE = frozenset({"wrong_size", "wrong_digest", "unreadable"})


class Repairer:
    """Repairs what an inventory found wrong. `is_used` says whether a download uses a repository or URL; `request`
    asks for one and gives its id.
    """

    def __init__(
        self, settings: Settings, is_used: Callable[[InventoryItem], bool], request: Callable[[DownloadSpec], str]
    ) -> None:
        self._settings = settings
        self._hub = settings.hub_dir
        self._hive = settings.hive_dir
        self._is_used = is_used
        self._request = request

    def repair(self, item: InventoryItem, problems: Sequence[Problem]) -> Iterator[Refetch]:
        """Set aside and ask again. What cannot be done is said in the line that would have named the download."""
        paths = sorted({problem.path for problem in problems})
        try:
            if self._is_used(item):
                raise ModelInUse("A download is using this model. Verify it again when that has ended.")
            wants = self._specs(item, paths)
            self._quarantine_all(item, problems)
        except (HiveError, OSError) as error:
            yield _refused(item, paths, error)
            return
        for spec, some in wants:
            try:
                yield Refetch(model=item.model, paths=tuple(some), download_id=self._request(spec))
            except HiveError as error:
                yield _refused(item, some, error)

    def _specs(self, item: InventoryItem, paths: list[str]) -> list[tuple[DownloadSpec, list[str]]]:
        """The downloads that bring these paths.

        Raises:
            Conflict: nobody knows how to ask for it again.
        """
        if item.repo is None or item.commit is None:
            return [(self._url_spec(item.folder), paths)]
        ref = ModelRef(repo=item.repo, revision=item.commit)
        batches = [paths[at : at + MAX_PATHS] for at in range(0, len(paths), MAX_PATHS)]
        return [(DownloadSpec(ref, tuple(glob.escape(path) for path in batch)), batch) for batch in batches]

    def _url_spec(self, key: str) -> DownloadSpec:
        with open_folder(self._hive, FILES, key) as folder:
            manifest = read_manifest(folder)
        if manifest is None or url_key(manifest.url) != key:
            raise Conflict("The URL had a query, which hive does not keep. Ask with POST /v1/models/download again.")
        sha256 = manifest.sha256 if manifest.verified else None
        return DownloadSpec(ModelRef(kind="url", url=manifest.url), sha256=sha256)

    def _quarantine_all(self, item: InventoryItem, problems: Iterable[Problem]) -> None:
        wrong = {problem.path for problem in problems if problem.kind in _SET_ASIDE}
        there: set[str] = set()
        for content in item.contents:
            there.update(content.paths)
            if wrong & set(content.paths):
                self._quarantine(content, item)
        for path in sorted(wrong - there):
            self._unlink(item, path)

    def _quarantine(self, content: Content, item: InventoryItem) -> None:
        """One content. Where the blob is a link to the store that all repositories share, only that link goes."""
        with contextlib.suppress(FileNotFoundError):
            if content.blob is not None and content.names != (item.folder, BLOBS):
                with open_folder(self._hub, item.folder, BLOBS) as blobs:
                    remove_file(blobs, content.blob)
                return
            place = partial_place(self._settings, for_url=item.repo is None)
            with (
                open_folder(content.root, *content.names) as folder,
                open_folder(place.root, *place.names, create=True) as partial,
            ):
                if content.digest is not None:
                    note_given_up(self._hive, content.digest.hex)
                _move(folder, content.name, partial, _bad_name(partial, content))

    def _unlink(self, item: InventoryItem, path: str) -> None:
        """A link to another file's content. Only where it is a link."""
        *folders, name = path.split("/")
        assert item.commit is not None
        with open_folder(self._hub, item.folder, SNAPSHOTS, item.commit, *folders, missing_ok=True) as folder:
            if folder is not None and _is_link(folder, name):
                remove_file(folder, name)


def _refused(item: InventoryItem, paths: Sequence[str], error: HiveError | OSError) -> Refetch:
    if isinstance(error, OSError):
        error = disk_error(error)
    return Refetch(model=item.model, paths=tuple(paths), code=error.code, message=error.message)


def _bad_name(partial: int, content: Content) -> str:
    """The name that the engine gives to a wrong file of this digest, or one beside it where that is taken."""
    digest = content.digest
    if digest is None:
        key = hashlib.sha256("/".join(content.paths).encode()).hexdigest()
    else:
        key = partial_key(digest.algorithm, digest.hex)
    taken = f"{key}.bad" in os.listdir(partial)
    return f"{key}.{secrets.token_hex(4)}.bad" if taken else f"{key}.bad"


def _move(folder: int, name: str, target: int, target_name: str) -> None:
    """Move a file; its time is now, from which the collection of garbage counts."""
    os.rename(name, target_name, src_dir_fd=folder, dst_dir_fd=target)
    os.utime(target_name, dir_fd=target, follow_symlinks=False)


def _is_link(folder: int, name: str) -> bool:
    try:
        os.readlink(name, dir_fd=folder)
    except OSError:
        return False
    return True
