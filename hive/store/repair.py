"""What is done about wrong files: they are set aside, and their right content is asked for as a download.

Nothing is deleted: a wrong blob goes to `hive/partial/<digest>.bad`, as the engine does with a file whose digest stays
wrong, and the collection of garbage removes it when nobody has looked at it for a while. A link to the wrong blob is
removed; the blob stays. Then the commit is asked for again, restricted to these paths: what is there and right is not
fetched, and a commit never changes, so what comes is what was there.

A repository that a download is using is not mended: its worker may have counted on a blob that is put aside.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from hive.errors import Conflict, HiveError, ModelInUse, StoreNotWritable
from hive.settings import Settings
from hive.store.dirfd import open_folder, read_file
from hive.store.inventory import Content, Holding
from hive.store.layout import BLOBS, FILES, MANIFEST, MAX_MANIFEST_BYTES, PARTIAL, SNAPSHOTS, decode_manifest, url_key
from hive.wire.maintenance import Problem, Refetch
from hive.wire.refs import ModelRef
from hive.wire.spec import DownloadSpec

#: Paths that one download asks for: as many patterns as a request may have.
MAX_PATHS: Final = 64

#: What is set aside; what else is wrong is no file.
_SET_ASIDE = frozenset({"wrong_size", "wrong_digest", "unreadable"})


class Mender:
    """Mends holdings. `is_used` says whether a download uses a repository or URL; `request` asks for one and gives its
    id.
    """

    def __init__(
        self, settings: Settings, is_used: Callable[[Holding], bool], request: Callable[[DownloadSpec], str]
    ) -> None:
        self._hub = settings.hub_dir
        self._hive = settings.hive_dir
        self._is_used = is_used
        self._request = request

    def mend(self, holding: Holding, problems: Sequence[Problem]) -> Iterator[Refetch]:
        """Set aside and ask again. What cannot be done is said in the line that would have named the download."""
        paths = sorted({problem.path for problem in problems})
        try:
            if self._is_used(holding):
                raise ModelInUse("A download is using this model. Verify it again when that has ended.")
            wants = self._specs(holding, paths)
            self._put_aside(holding, problems)
        except (HiveError, OSError) as error:
            yield _refused(holding, paths, error)
            return
        for spec, some in wants:
            try:
                yield Refetch(model=holding.model, paths=tuple(some), download_id=self._request(spec))
            except HiveError as error:
                yield _refused(holding, some, error)

    def _specs(self, holding: Holding, paths: list[str]) -> list[tuple[DownloadSpec, list[str]]]:
        """The downloads that bring these paths.

        Raises:
            Conflict: nobody knows how to ask for it again.
        """
        if holding.repo is None or holding.commit is None:
            return [(self._url_spec(holding.folder), paths)]
        ref = ModelRef(repo=holding.repo, revision=holding.commit)
        batches = [paths[at : at + MAX_PATHS] for at in range(0, len(paths), MAX_PATHS)]
        return [(DownloadSpec(ref, tuple(glob.escape(path) for path in batch)), batch) for batch in batches]

    def _url_spec(self, key: str) -> DownloadSpec:
        with open_folder(self._hive, FILES, key) as folder:
            manifest = decode_manifest(read_file(folder, MANIFEST, MAX_MANIFEST_BYTES) or b"")
        if manifest is None or url_key(manifest.url) != key:
            raise Conflict("The URL had a query, which hive does not keep. Ask with POST /v1/models/download again.")
        sha256 = manifest.sha256 if manifest.verified else None
        return DownloadSpec(ModelRef(kind="url", url=manifest.url), sha256=sha256)

    def _put_aside(self, holding: Holding, problems: Iterable[Problem]) -> None:
        wrong = {problem.path for problem in problems if problem.kind in _SET_ASIDE}
        there: set[str] = set()
        for content in holding.contents:
            there.update(content.paths)
            if wrong & set(content.paths):
                self._set_aside(content, holding)
        for path in sorted(wrong - there):
            self._unlink(holding, path)

    def _set_aside(self, content: Content, holding: Holding) -> None:
        """One content. Where the blob is a link to the store that all repositories share, only that link goes."""
        with contextlib.suppress(FileNotFoundError):
            if content.blob is not None and content.names != (holding.folder, BLOBS):
                with open_folder(self._hub, holding.folder, BLOBS) as blobs:
                    os.unlink(content.blob, dir_fd=blobs)
                return
            with (
                open_folder(content.root, *content.names) as folder,
                open_folder(self._hive, PARTIAL, create=True) as partial,
            ):
                _move(folder, content.name, partial, _bad_name(partial, content))

    def _unlink(self, holding: Holding, path: str) -> None:
        """A link to another file's content. Only where it is a link."""
        *folders, name = path.split("/")
        assert holding.commit is not None
        with (
            contextlib.suppress(FileNotFoundError),
            open_folder(self._hub, holding.folder, SNAPSHOTS, holding.commit, *folders) as folder,
        ):
            if _is_link(folder, name):
                os.unlink(name, dir_fd=folder)


def _refused(holding: Holding, paths: Sequence[str], error: HiveError | OSError) -> Refetch:
    if isinstance(error, OSError):
        error = StoreNotWritable(f"The wrong files cannot be set aside: {error.strerror}.")
    return Refetch(model=holding.model, paths=tuple(paths), code=error.code, message=error.message)


def _bad_name(partial: int, content: Content) -> str:
    """The name that the engine gives to a wrong file of this digest, or one beside it where that is taken."""
    digest = content.digest
    if digest is None:
        key = hashlib.sha256("/".join(content.paths).encode()).hexdigest()
    else:
        key = digest.hex if digest.algorithm == "sha256" else f"git-{digest.hex}"
    taken = f"{key}.bad" in os.listdir(partial)
    return f"{key}.{secrets.token_hex(4)}.bad" if taken else f"{key}.bad"


def _move(folder: int, name: str, target: int, target_name: str) -> None:
    """Move a file; its time is now, from which the collection of garbage counts."""
    try:
        os.rename(name, target_name, src_dir_fd=folder, dst_dir_fd=target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise StoreNotWritable("<store>/hub and <store>/hive lie on different filesystems.") from None
        raise
    os.utime(target_name, dir_fd=target, follow_symlinks=False)


def _is_link(folder: int, name: str) -> bool:
    try:
        os.readlink(name, dir_fd=folder)
    except OSError:
        return False
    return True
