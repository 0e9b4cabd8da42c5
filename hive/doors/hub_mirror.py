"""The Hub mirror: what the Hub says of a model, asked in the client's name, and from the disk while it is away.

Problem: a team's tools ask the Hub for each file of each start, with tokens of their own; a mirror that answers from
what it has would show a private model to whoever knows its name. The easy way, to ask the Hub each time, is as slow and
as often away as the Hub. So each file is asked for with the client's token, by a HEAD, and the answer is remembered: of
a commit for five minutes, of a branch and of what there is not for seconds. Whoever the Hub has let in to a file has
been let in; nobody is by another's token, which is remembered by a keyed hash.

While the Hub cannot be asked the disk answers: refs for revisions, listings and links for files. What was fetched with
an authorisation (hive/store/restricted.py) is then for those tokens alone that were let in by this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import re
import time
from collections import OrderedDict
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from hive import errors
from hive.doors.growing import GrowingFiles
from hive.doors.hub_paths import HubPath, read_resolve_path
from hive.doors.hub_upstream import HubAnswer, HubUpstream
from hive.doors.small_files import SmallFiles
from hive.downloads.threads import Threads
from hive.downloads.wrong_digests import WrongDigests
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.dirfd import open_folder, read_file, write_file
from hive.store.layout import MAX_REF_BYTES, REFS, SNAPSHOTS, is_commit, repo_folder
from hive.store.repo_cache import open_repo
from hive.store.restricted import AccessNotes
from hive.wire.refs import api_place, is_revision
from hive.wire.selection import RepoFile

#: Seconds for which an answer counts: of a file at a commit, of a branch, and a no.
COMMIT_TTL_S: Final = 300.0
BRANCH_TTL_S: Final = 10.0
NO_TTL_S: Final = 10.0
#: Answers and tokens that are remembered; the oldest are forgotten.
MAX_REMEMBERED: Final = 10_000
#: Redirects inside the Hub that are followed for one file.
MAX_HOPS: Final = 4
#: Threads that look at the disk, and looks that wait for one.
DISK_THREADS: Final = 4
MAX_WAITING: Final = 256
_DIGEST: Final = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_REFUSALS: Final = frozenset({400, 401, 403, 404, 410, 416, 429})


class HubFile(NamedTuple):
    """A file of a commit: its digest (sha256, or git's sha1) and size in bytes."""

    commit: str
    etag: str
    size: int

    @property
    def is_lfs(self) -> bool:
        """Whether it is a large one, whose digest is its sha256."""
        return len(self.etag) == 64


class HubRefusal(NamedTuple):
    """What the Hub refuses, in its own words."""

    status: int
    code: str
    message: str
    commit: str = ""
    #: Where it is now, a path of the Hub, for what was renamed; and seconds to wait.
    location: str = ""
    retry_after: str = ""


Found = HubFile | HubRefusal


class HubMirror:
    """The mirror of one HTTP process. Its methods belong to the event loop."""

    def __init__(self, settings: Settings, catalog: ModelCatalog, marks: WrongDigests) -> None:
        self._settings = settings
        self._catalog = catalog
        self.upstream = HubUpstream(settings)
        self.growing = GrowingFiles(settings.hub_dir, settings.hive_dir, marks)
        self.small = SmallFiles()
        self._notes = AccessNotes(settings.hive_dir)
        self._disk = Threads("mirror", DISK_THREADS, MAX_WAITING)
        self._key = os.urandom(32)
        self._answers: OrderedDict[tuple[bytes, HubPath], tuple[Found, float]] = OrderedDict()
        self._asking: dict[tuple[bytes, HubPath], asyncio.Task[Found]] = {}
        #: What the Hub says that branches and tags stand for, and is not on the disk yet.
        self._revisions: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._let_in: OrderedDict[tuple[bytes, str], None] = OrderedDict()

    def close(self) -> None:
        """Let go of the threads."""
        self.upstream.close()
        self.growing.close()
        self._disk.close()

    # -- files -------------------------------------------------------------------------------------------------------

    async def file(self, asked: HubPath, token: str | None, *, sees_everything: bool = False) -> Found:
        """The file that an address means, where the Hub lets this token have it.

        Raises:
            HubUnavailable: the Hub is away, and the disk does not know.
            ServerBusy: too many ask at once.
        """
        key = (self.hash_of(token), asked)
        known = self._answers.get(key)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask_file(asked, token))
            task.add_done_callback(lambda done: (self._asking.pop(key, None), done.cancelled() or done.exception()))
        try:
            return await asyncio.shield(task)
        except errors.HubUnavailable:
            found = await self._disk.run(self._file_on_disk, asked, token, sees_everything)
            if found is None:
                raise
            return found

    async def _ask_file(self, asked: HubPath, token: str | None) -> Found:
        found = await self._head(asked, token)
        if isinstance(found, HubFile):
            ttl_s = COMMIT_TTL_S if is_commit(asked.revision) else BRANCH_TTL_S
            self.note_revision(asked.repo, asked.revision, found.commit)
            self._let_in[(self.hash_of(token), asked.repo)] = None
            while len(self._let_in) > MAX_REMEMBERED:
                self._let_in.popitem(last=False)
        else:
            ttl_s = 0.0 if found.status == 429 else NO_TTL_S
        self._answers[(self.hash_of(token), asked)] = found, time.monotonic() + ttl_s
        while len(self._answers) > MAX_REMEMBERED:
            self._answers.popitem(last=False)
        return found

    async def _head(self, asked: HubPath, token: str | None) -> Found:
        target, seen = f"/{asked.repo}/resolve/{asked.rev}/{quote(asked.path)}", dict[str, str]()
        for _ in range(MAX_HOPS):
            answer = await self.upstream.ask("HEAD", target, token)
            seen = {**answer.headers, **{name: value for name, value in seen.items() if name.startswith("x-")}}
            location = answer.headers.get("location", "")
            if not (300 <= answer.status < 400) or not location.startswith("/") or location.startswith("//"):
                break
            elsewhere = read_resolve_path(urlsplit(location).path.encode("latin-1", "replace"))
            if elsewhere is not None and elsewhere.repo != asked.repo:
                return HubRefusal(307, "", "", location=location)
            target = location
        if answer.status in _REFUSALS:
            return refusal_of(answer)
        if answer.status >= 400:
            raise errors.HubUnavailable
        commit = seen.get("x-repo-commit", "").lower()
        if not is_commit(commit):
            return HubRefusal(404, "EntryNotFound", "The Hub names no commit for this file.")
        return await self._described(asked, commit, seen, answer.status, token)

    async def _described(
        self, asked: HubPath, commit: str, seen: dict[str, str], status: int, token: str | None
    ) -> Found:
        """The digest and size: those of the headers where they are of the Hub, else of its listing. The length of a
        redirect is that of its own body.
        """
        etag = (seen.get("x-linked-etag") or seen.get("etag", "")).removeprefix("W/").strip('"').lower()
        size = seen.get("x-linked-size") or (seen.get("content-length", "") if status == 200 else "")
        if _DIGEST.fullmatch(etag) and size.isdecimal() and len(size) < 19:
            return HubFile(commit, etag, int(size))
        target = f"/api/{api_place(asked.repo)}/paths-info/{commit}"
        form = f"paths={quote(asked.path, safe='')}&expand=false".encode()
        answer = await self.upstream.ask("POST", target, token, form, "application/x-www-form-urlencoded")
        if answer.status != 200:
            return refusal_of(answer)
        for entry in _entries(answer.body):
            if entry.get("path") == asked.path and (described := _described_entry(entry, commit)) is not None:
                return described
        return HubRefusal(404, "EntryNotFound", "The Hub's listing has no such file.", commit)

    # -- the disk ----------------------------------------------------------------------------------------------------

    def _file_on_disk(self, asked: HubPath, token: str | None, sees_everything: bool) -> Found | None:
        """What the disk says of a file; None where it does not know. Blocking."""
        commit = self._commit_on_disk(asked)
        if commit is None:
            return None
        if (refused := self._refused_on_disk(asked.repo, commit, token, sees_everything)) is not None:
            return refused
        tree = self._catalog.tree(asked.repo, commit)
        if tree is not None:
            found = next((file for file in tree if file.path == asked.path), None)
            if found is None:
                return HubRefusal(404, "EntryNotFound", "This commit has no such file.", commit)
            return HubFile(commit, found.etag, found.size)
        with open_repo(self._settings.hub_dir, repo_folder(asked.repo)) as cache:
            for entry in cache.entries(commit) if cache is not None else ():
                if entry.path == asked.path and entry.blob and _DIGEST.fullmatch(entry.blob):
                    return HubFile(commit, entry.blob, entry.size)
        return None

    def _commit_on_disk(self, asked: HubPath) -> str | None:
        with open_repo(self._settings.hub_dir, repo_folder(asked.repo)) as cache:
            return cache.commit_of(asked.revision or "main") if cache is not None else None

    def _refused_on_disk(self, repo: str, commit: str, token: str | None, sees_everything: bool) -> HubRefusal | None:
        """What is told of a restricted commit to whom nobody has let in."""
        if sees_everything or not self._notes.places(repo, commit) or (self.hash_of(token), repo) in self._let_in:
            return None
        text = "This model is restricted, and the Hub cannot be asked now whether your token may have it."
        return HubRefusal(403, "GatedRepo", text)

    async def tree_on_disk(
        self, asked: HubPath, token: str | None, *, sees_everything: bool
    ) -> tuple[str, tuple[RepoFile, ...]] | HubRefusal | None:
        """The commit and listing of a revision from the disk; None where it has none."""
        return await self._disk.run(self._tree_on_disk, asked, token, sees_everything)

    def _tree_on_disk(
        self, asked: HubPath, token: str | None, sees_everything: bool
    ) -> tuple[str, tuple[RepoFile, ...]] | HubRefusal | None:
        commit = self._commit_on_disk(asked)
        tree = self._catalog.tree(asked.repo, commit) if commit is not None else None
        if commit is None or tree is None:
            return None
        refused = self._refused_on_disk(asked.repo, commit, token, sees_everything)
        return refused if refused is not None else (commit, tree)

    def note_revision(self, repo: str, revision: str, commit: str) -> None:
        """The Hub has said what a branch or tag stands for; see `write_refs`."""
        if is_commit(commit) and is_revision(revision) and not is_commit(revision):
            self._revisions[(repo, revision)] = commit
            self._revisions.move_to_end((repo, revision))
            while len(self._revisions) > MAX_REMEMBERED:
                self._revisions.popitem(last=False)

    async def write_refs(self, repo: str, commit: str) -> None:
        """Write which branches and tags stand for this commit, where a snapshot of it is on the disk: for when the Hub
        is away. A ref without its snapshot would make other tools drop the repository.
        """
        found = [rev for (name, rev), known in self._revisions.items() if name == repo and known == commit]
        if found:
            await self._disk.run(self._write_refs, repo, found, commit)

    def _write_refs(self, repo: str, revisions: list[str], commit: str) -> None:
        folder = repo_folder(repo)
        with contextlib.suppress(OSError):  # no snapshot yet, or a store that is only read
            with open_folder(self._settings.hub_dir, folder, SNAPSHOTS, commit):
                pass
            for revision in revisions:
                *folders, name = revision.split("/")
                with open_folder(self._settings.hub_dir, folder, REFS, *folders, create=True) as refs:
                    if read_file(refs, name, MAX_REF_BYTES) != commit.encode():
                        write_file(refs, name, commit.encode())
            for revision in revisions:
                self._revisions.pop((repo, revision), None)

    def hash_of(self, token: str | None) -> bytes:
        """What tells tokens apart, and is none: another in each process."""
        return hmac.digest(self._key, token.encode(), "sha256") if token else b""


def refusal_of(answer: HubAnswer) -> HubRefusal:
    """What the Hub refuses, as it says so."""
    headers = answer.headers
    commit = headers.get("x-repo-commit", "").lower()
    return HubRefusal(
        answer.status,
        headers.get("x-error-code", "")[:64],
        headers.get("x-error-message", "")[:1024],
        commit if is_commit(commit) else "",
        retry_after=headers.get("retry-after", "")[:32],
    )


def _entries(body: bytes) -> list[dict[str, Any]]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _described_entry(entry: dict[str, Any], commit: str) -> HubFile | None:
    lfs = entry.get("lfs")
    lfs = lfs if isinstance(lfs, dict) else None
    etag, size = (lfs or entry).get("oid"), (lfs or entry).get("size")
    if isinstance(etag, str) and isinstance(size, int) and size >= 0 and _DIGEST.fullmatch(etag):
        return HubFile(commit, etag, size)
    return None
