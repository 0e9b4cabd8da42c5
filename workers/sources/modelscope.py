"""A model of ModelScope as a plan: its files with their SHA-256, and where they are.

    GET /api/v1/models/<org>/<name>/repo/files?Revision=&Recursive=True&Root=    the files
    GET /api/v1/models/<org>/<name>/repo?Revision=&FilePath=                      one of them, mostly a redirect

The listing names no commit, so the first 40 digits of a hash over it stand for one: what has the same files is the
same. It is cut off without a word at 3,000 entries; then the folders are asked for one by one.

Written after the packages modelscope 1.23 and modelscope_hub 0.5 (`_legacy_api.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from hive.errors import DownloadError, HubRefused, ModelAccessDenied, ModelNotFound, RevisionNotFound
from hive.net.egress import Network
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.layout import repo_folder
from hive.store.repo_cache import open_repo
from hive.wire.refs import ModelRef
from hive.wire.registries import MASTER, RegistryName
from hive.wire.selection import RepoFile
from workers.sources.elsewhere import asking, base_url
from workers.sources.hub_transport import CallBounds
from workers.sources.huggingface import selected
from workers.sources.plan import Plan, PlannedFile, plan_of_listing, planned_by_sha256
from workers.transfer import Location

#: Entries at which a listing is cut off.
LISTING_LIMIT: Final = 3000
#: Most listings that are asked for.
MAX_LISTINGS: Final = 1000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FOLDER: Final = "tree"
#: What the repository is kept by, and no file of the model.
_OF_GIT: Final = frozenset({".gitignore", ".gitattributes"})


class _Entry(msgspec.Struct, rename="pascal"):
    path: str
    type: str = "blob"
    size: int = 0
    sha256: str | None = None


class _Files(msgspec.Struct, rename="pascal"):
    files: list[_Entry] | None = None


class _Answer(msgspec.Struct, rename="pascal"):
    data: _Files | None = None
    success: bool = True
    message: str | None = None


def resolve(
    ref: ModelRef,
    name: RegistryName,
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    settings: Settings,
    network: Network,
) -> Plan:
    """The plan for a reference to ModelScope.

    Raises:
        HubUnavailable: it does not answer.
        ModelNotFound, RevisionNotFound, FileNotFound, VariantNotFound: it has no such thing.
        ModelAccessDenied: it is not public.
        DownloadError: a file has no digest, or a name that cannot be one.
    """
    scope = ModelScope(settings, name, network)
    revision, commit = ref.rev, ref.rev
    if ref.is_pinned:
        found = ModelCatalog(settings).tree(ref.repo, commit)
        if found is None:
            raise RevisionNotFound("Of ModelScope only what is on the disk has such a revision. Name a branch.")
        tree, revision = found, _branch_of(settings, ref.repo, commit)
    else:
        tree = scope.tree(revision)
        commit = _commit_of(tree)
    selection = selected(tree, ref, include, exclude, settings.allow_pickles)
    return plan_of_listing(ref, commit, tree, selection, lambda file: _planned(scope, revision, file))


def _planned(scope: ModelScope, revision: str, file: RepoFile) -> PlannedFile:
    location = Location(url=scope.file_url(revision, file.path))
    return planned_by_sha256(file, lambda: location)


def _commit_of(tree: Sequence[RepoFile]) -> str:
    """What stands for the commit of these files."""
    listed = sorted((file.path, file.size, file.sha256) for file in tree)
    return hashlib.sha256(msgspec.json.encode(listed)).hexdigest()[:40]


def _branch_of(settings: Settings, repo: str, commit: str) -> str:
    """The branch or tag that brought these files; they are compared with their digests whatever it means by now."""
    with open_repo(settings.hub_dir, repo_folder(repo)) as cache:
        refs = cache.refs().get(commit, []) if cache is not None else []
    return refs[0] if refs else MASTER


class ModelScope:
    """One model there."""

    def __init__(self, settings: Settings, name: RegistryName, network: Network) -> None:
        self._base = base_url(settings, name)
        self._network = network
        self._model = quote(name.path)
        self._shown = name.path
        self._bounds = CallBounds(settings.first_byte_timeout_s, settings.hub_timeout_s, settings.max_listing_bytes)
        self._max_files = settings.max_listing_files
        self._called = f"ModelScope ({urlsplit(self._base).netloc})"

    def file_url(self, revision: str, path: str) -> str:
        """Where a file is."""
        query = urlencode({"Revision": revision, "FilePath": path})
        return f"{self._base}/api/v1/models/{self._model}/repo?{query}"

    def tree(self, revision: str) -> tuple[RepoFile, ...]:
        """All files of a revision."""
        entries = self._listing(revision, "", recursive=True)
        if len(entries) >= LISTING_LIMIT:
            entries = self._walk(revision)
        files = [_file(entry) for entry in entries if entry.type != _FOLDER and entry.path not in _OF_GIT]
        if not files:
            raise ModelNotFound(f"{self._called} has no files of {self._shown} at {revision[:80]}.")
        if len({file.path for file in files}) != len(files):
            raise DownloadError(f"{self._called} lists a file of {self._shown} twice.")
        return tuple(files)

    def _walk(self, revision: str) -> list[_Entry]:
        """All entries, folder by folder."""
        found: dict[str, _Entry] = {}
        waiting, asked = [""], 0
        while waiting:
            asked += 1
            entries = self._listing(revision, waiting.pop(), recursive=False)
            if asked > MAX_LISTINGS or len(entries) >= LISTING_LIMIT or len(found) > self._max_files:
                raise DownloadError(f"{self._shown} has more files in a folder, or more folders, than can be listed.")
            new = [entry for entry in entries if entry.path not in found]
            found.update((entry.path, entry) for entry in new)
            waiting += [entry.path for entry in new if entry.type == _FOLDER]
        return list(found.values())

    def _listing(self, revision: str, root: str, *, recursive: bool) -> list[_Entry]:
        query = {"Revision": revision, "Recursive": str(recursive), **({"Root": root} if root else {})}
        with asking(self._base, self._bounds, self._network, self._called) as client:
            answer = client.get(f"{self._base}/api/v1/models/{self._model}/repo/files?{urlencode(query)}")
            data = answer.content
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            text = f"{self._called} does not let everybody have {self._shown}."
            raise ModelAccessDenied(text, host=urlsplit(self._base).netloc)
        try:
            said = msgspec.json.decode(data, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            said = _Answer(success=False)
        if answer.status_code == HTTPStatus.NOT_FOUND or (answer.is_success and not said.success):
            raise ModelNotFound(f"{self._called} has no {self._shown} at {revision[:80]}.")
        if not answer.is_success or said.data is None:
            raise HubRefused(f"{self._called} answered with status {answer.status_code}, and no list of files.")
        return said.data.files or []


def _file(entry: _Entry) -> RepoFile:
    sha256 = (entry.sha256 or "").lower()
    if not _SHA256.fullmatch(sha256) or entry.size < 0:
        raise DownloadError(f"ModelScope tells no SHA-256 of {entry.path[:80]!a}: nobody could see that it came whole.")
    return RepoFile(entry.path, entry.size, sha256[:40], sha256)
