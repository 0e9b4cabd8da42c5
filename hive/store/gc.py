"""Collection of garbage: removes from the store what nothing refers to, and never what is in use.

Everything here can be fetched again, so the question is not whether bytes are lost but whether somebody is disturbed.
Hence three rules. Nothing younger than a grace period is touched. What downloads that have not ended need
(`hive.downloads.live`) stays, and is asked for again right before a removal. A blob goes only after a second look
(`hive.store.trash`), a partial file only under the lease that its worker would hold.

Other tools write to the same cache. Their half files (`*.incomplete`) have a name of one process, so that nobody ever
goes on from one whose process is gone: those that nobody has written to for a day are removed. Their locks are not.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from hive.downloads.live import Needed
from hive.settings import Settings
from hive.store.checksum import Stopped
from hive.store.delete import remove_empty_repo
from hive.store.dirfd import open_folder, read_file, remove_empty, size_of, subfolders
from hive.store.layout import (
    BLOBS,
    FILES,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    PARTIAL,
    SNAPSHOTS,
    TREES,
    URL_KEY_CHARS,
    decode_manifest,
    is_commit,
    repo_of,
)
from hive.store.orphans import TEMPORARY, Orphan, broken_snapshots, dangling_links, orphans_of
from hive.store.repo_cache import RepoCache
from hive.store.trash import Aside, hub_lock
from hive.wire.maintenance import Collected, CollectionLine, GarbageKind, Kept, Removed

#: Seconds for which everything stays, whatever was asked for: the time between a file and the link to it.
GRACE_S: Final = 600.0
#: The same for what another tool writes: a download of its that waits for the network writes nothing.
INCOMPLETE_GRACE_S: Final = 86_400.0
#: Blobs that are put aside at a time, each under a lock: a bound on open files, and one second look for all of them.
BATCH: Final = 64

_PARTIAL = re.compile(
    r"(?P<key>(?:git-|url-)?[0-9a-f]{40,64})"
    r"(?:\.(?P<id>[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}))?"
    r"(?:\.(?P<bad>(?:[0-9a-f]{8}\.)?bad)|\.(?:part|journal|journal\.new))"
)

Say = Callable[[CollectionLine], None]
#: Holds the lease of a partial file; gives False where somebody else does.
Take = Callable[[str], AbstractContextManager[bool]]


class _Partial(NamedTuple):
    """The files of one partial, or one file that was set aside."""

    kind: GarbageKind
    key: str
    download_id: str
    names: list[str]

    @property
    def lease(self) -> str:
        """What its worker would hold a lease on."""
        return f"{self.key}.{self.download_id}" if self.download_id else self.key


class Collector:
    """One collection. `look` says what downloads need at this moment; `take` is None where no Redis can be asked."""

    def __init__(
        self,
        settings: Settings,
        say: Say,
        stop: threading.Event,
        look: Callable[[], Needed],
        take: Take | None = None,
        *,
        older_than_s: float | None = None,
        dry_run: bool = False,
    ) -> None:
        self._hub = settings.hub_dir
        self._hive = settings.hive_dir
        self._say = say
        self._stop = stop
        self._look = look
        self._take = take
        self._dry_run = dry_run
        self._min_age_s = max(settings.partial_ttl_s if older_than_s is None else older_than_s, GRACE_S)
        self._began_s = time.monotonic()
        self._removed = self._bytes = self._kept = 0

    def run(self) -> Collected:
        """Collect everything. Says a line for each thing, and the end.

        Raises:
            Stopped: `stop` was set.
            HiveError: Redis is away: what is under way cannot be known.
        """
        needed = self._look()
        self._partials(needed)
        self._urls(needed)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), open_folder(self._hub) as hub:
            for folder in [name for name in subfolders(hub) if repo_of(name)]:
                self._repo(folder, needed)
        self._listings(needed)
        return self._end()

    def run_partials(self) -> Collected:
        """Collect only what downloads left half-way. The same lines and errors."""
        self._partials(self._look())
        return self._end()

    # -- hive's own folders ------------------------------------------------------------------------------------------

    def _partials(self, needed: Needed) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), open_folder(self._hive, PARTIAL) as folder:
            self._temporaries(folder, f"hive/{PARTIAL}")
            for partial in _partials_in(folder):
                self._check_stop()
                modified = max((_modified(folder, name) for name in partial.names), default=0.0)
                if self._is_old(modified) and not _needs(needed, partial, modified):
                    self._remove_partial(folder, partial)

    def _remove_partial(self, folder: int, partial: _Partial) -> None:
        """The journal goes first: bytes without one are fetched again, a journal without bytes is no use."""
        path = f"hive/{PARTIAL}/{partial.names[-1]}"
        n_bytes = sum(size_of(folder, name) or 0 for name in partial.names)
        with self._reporting(partial.kind, path, n_bytes):
            if self._dry_run:
                return
            with self._take(partial.lease) if self._take else contextlib.nullcontext(True) as ours:
                if not ours:
                    raise _InUse
                for name in partial.names:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)

    def _urls(self, needed: Needed) -> None:
        """Left alone while any URL is being fetched: which folder it goes to is not known where its query is secret."""
        if needed.urls:
            return
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), open_folder(self._hive, FILES) as files:
            for key in [name for name in subfolders(files) if len(name) == URL_KEY_CHARS]:
                self._check_stop()
                with contextlib.suppress(OSError), open_folder(files, key) as folder:
                    self._temporaries(folder, f"hive/{FILES}/{key}")
                    if not _is_sound(folder):
                        self._url(files, folder, key)

    def _url(self, files: int, folder: int, key: str) -> None:
        """A file from a URL that its manifest does not vouch for: the catalog takes it for absent."""
        names = os.listdir(folder)
        modified = max([os.fstat(folder).st_mtime, *(_modified(folder, name) for name in names)])
        if not self._is_old(modified):
            return
        n_bytes = sum(size_of(folder, name) or 0 for name in names)
        with self._reporting("url_file", f"hive/{FILES}/{key}", n_bytes):
            if not self._dry_run:
                if self._look().urls:
                    raise _InUse
                for name in names:
                    os.unlink(name, dir_fd=folder)
                os.rmdir(key, dir_fd=files)

    def _listings(self, needed: Needed) -> None:
        """Our listings of commits of which there is no snapshot any more."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), open_folder(self._hive, TREES) as trees:
            for repo in subfolders(trees):
                if repo_of(repo) in needed.repos:
                    continue
                before = self._removed
                with contextlib.suppress(OSError), open_folder(trees, repo) as folder:
                    self._temporaries(folder, f"hive/{TREES}/{repo}")
                    for name in self._unused_listings(repo, folder):
                        with self._reporting("listing", f"hive/{TREES}/{repo}/{name}", size_of(folder, name) or 0):
                            self._unlink(folder, name)
                if self._removed > before and not self._dry_run:
                    remove_empty(trees, repo)

    def _unused_listings(self, repo: str, folder: int) -> list[str]:
        commits: list[str] = []
        with contextlib.suppress(OSError), RepoCache(self._hub, repo) as cache:
            commits = cache.commits()
        names = [name for name in os.listdir(folder) if name.endswith(".json") and is_commit(name[:-5])]
        return [name for name in names if name[:-5] not in commits and self._is_old(_modified(folder, name))]

    def _temporaries(self, folder: int, path: str) -> None:
        for name in os.listdir(folder):
            if TEMPORARY.fullmatch(name) and self._is_old(_modified(folder, name)):
                with self._reporting("temporary", f"{path}/{name}", size_of(folder, name) or 0):
                    self._unlink(folder, name)

    # -- a repository ------------------------------------------------------------------------------------------------

    def _repo(self, folder: str, needed: Needed) -> None:
        """A repository that a download is using is left alone altogether: its blobs have no links before its end."""
        self._check_stop()
        if repo_of(folder) in needed.repos:
            return
        before = self._removed
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), RepoCache(self._hub, folder) as cache:
            found = [orphan for orphan in orphans_of(cache) if self._is_old(orphan.modified, orphan.kind)]
            for orphan in found:
                if orphan.kind != "blob":
                    self._orphan(cache, folder, orphan)
            blobs = [orphan for orphan in found if orphan.kind == "blob"]
            for at in range(0, len(blobs), BATCH):
                self._blobs(cache, folder, blobs[at : at + BATCH])
            for orphan in broken_snapshots(cache):
                if self._is_old(orphan.modified):
                    self._snapshot(cache, folder, orphan)
            if self._removed > before and not self._dry_run and not cache.commits() and not self._used_now(folder):
                remove_empty_repo(self._hub, cache.fd, folder)

    def _orphan(self, cache: RepoCache, folder: str, orphan: Orphan) -> None:
        shown = self._shown(folder, orphan)
        with self._reporting(orphan.kind, shown, orphan.n_bytes), open_folder(cache.fd, *orphan.folders) as above:
            self._unlink(above, orphan.name)

    def _blobs(self, cache: RepoCache, folder: str, blobs: list[Orphan]) -> None:
        """Put them aside, look again, remove what is still unused."""
        self._check_stop()
        if self._dry_run:
            for orphan in blobs:
                with self._reporting("blob", self._shown(folder, orphan), orphan.n_bytes):
                    pass
            return
        with contextlib.ExitStack() as stack:
            above = stack.enter_context(open_folder(cache.fd, BLOBS))
            aside = stack.enter_context(Aside())
            put = [orphan for orphan in blobs if self._put_aside(folder, orphan, above, aside, stack)]
            # Under their own names they would be orphans still: what is linked by now shows as a dangling link.
            wanted = _linked(cache) if not self._used_now(folder) else {orphan.name for orphan in put}
            for orphan in put:
                with self._reporting("blob", self._shown(folder, orphan), orphan.n_bytes):
                    if orphan.name in wanted:
                        aside.put_back(above, orphan.name)
                        raise _InUse
                    aside.remove(above, orphan.name)

    def _put_aside(self, folder: str, orphan: Orphan, above: int, aside: Aside, stack: contextlib.ExitStack) -> bool:
        try:
            if not stack.enter_context(hub_lock(self._hub, folder, orphan.name)):
                raise _InUse
            return aside.put(above, orphan.name)
        except OSError as error:
            self._keep(orphan.kind, self._shown(folder, orphan), error)
            return False

    def _snapshot(self, cache: RepoCache, folder: str, orphan: Orphan) -> None:
        """Its links one by one, then its folders as far as they are empty: what came meanwhile stays."""
        with self._reporting("snapshot", self._shown(folder, orphan), 0):
            if self._dry_run:
                return
            if self._used_now(folder):
                raise _InUse
            with open_folder(cache.fd, SNAPSHOTS) as snapshots:
                for path in dangling_links(cache, orphan.name):
                    *folders, name = path.split("/")
                    with open_folder(snapshots, orphan.name, *folders) as above:
                        os.unlink(name, dir_fd=above)
                _remove_folders(snapshots, orphan.name)
            with contextlib.suppress(FileNotFoundError), open_folder(cache.fd, TREES) as trees:
                os.unlink(f"{orphan.name}.json", dir_fd=trees)

    def _used_now(self, folder: str) -> bool:
        return repo_of(folder) in self._look().repos

    def _shown(self, folder: str, orphan: Orphan) -> str:
        return f"{self._hub.name}/{folder}/{orphan.path}"

    # -- what all do -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reporting(self, kind: GarbageKind, path: str, n_bytes: int) -> Iterator[None]:
        """Say that what the block does was done, or why not. What is gone already is not said."""
        try:
            yield
        except FileNotFoundError:
            return
        except OSError as error:
            self._keep(kind, path, error)
            return
        self._removed += 1
        self._bytes += n_bytes
        self._say(Removed(kind=kind, path=path, bytes=n_bytes))

    def _keep(self, kind: GarbageKind, path: str, error: OSError) -> None:
        self._kept += 1
        in_use = isinstance(error, _InUse)
        message = "It is in use." if in_use else f"It cannot be removed: {error.strerror}."
        self._say(Kept(kind=kind, path=path, message=message, in_use=in_use))

    def _unlink(self, folder: int, name: str) -> None:
        if not self._dry_run:
            os.unlink(name, dir_fd=folder)

    def _is_old(self, modified: float, kind: GarbageKind = "partial") -> bool:
        least_s = max(self._min_age_s, INCOMPLETE_GRACE_S) if kind == "incomplete" else self._min_age_s
        return time.time() - modified >= least_s

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _end(self) -> Collected:
        seconds = round(time.monotonic() - self._began_s, 3)
        end = Collected(
            dry_run=self._dry_run, removed=self._removed, bytes=self._bytes, kept=self._kept, seconds=seconds
        )
        self._say(end)
        return end


class _InUse(OSError):
    """Somebody uses it after all."""


def _partials_in(folder: int) -> list[_Partial]:
    """The partials by name; within each the journal before the data."""
    found: dict[tuple[str, str, str], _Partial] = {}
    for name in sorted(os.listdir(folder)):
        if match := _PARTIAL.fullmatch(name):
            bad, key, download_id = match["bad"] or "", match["key"], match["id"] or ""
            kind: GarbageKind = "set_aside" if bad else "partial"
            found.setdefault((key, download_id, bad), _Partial(kind, key, download_id, [])).names.append(name)
    return list(found.values())


def _needs(needed: Needed, partial: _Partial, modified: float) -> bool:
    if partial.kind == "set_aside":
        return False
    if partial.download_id:
        return partial.download_id in needed.ids
    return partial.key in needed.partials or modified >= needed.unlisted_since_s


def _modified(folder: int, name: str) -> float:
    """When a file was last written, unix seconds; now where it has gone, so that nobody takes it for old."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return time.time()


def _is_sound(folder: int) -> bool:
    """Whether the manifest of a URL's file is there and the file has the size that it says."""
    manifest = decode_manifest(read_file(folder, MANIFEST, MAX_MANIFEST_BYTES) or b"")
    return manifest is not None and size_of(folder, manifest.name) == manifest.size


def _linked(cache: RepoCache) -> set[str]:
    """The names of the contents that links lead to and that are not there: put aside, or lost before."""
    found: set[str] = set()
    for commit in cache.commits():
        with contextlib.suppress(OSError), open_folder(cache.fd, SNAPSHOTS, commit) as snapshot:
            for path in dangling_links(cache, commit):
                *folders, name = path.split("/")
                with contextlib.suppress(OSError), open_folder(snapshot, *folders) as above:
                    found.add(os.readlink(name, dir_fd=above).rpartition("/")[2])
    return found


def _remove_folders(root: int, name: str) -> None:
    """Remove a folder and those in it, as far as they are empty."""
    with contextlib.suppress(OSError):
        with open_folder(root, name) as folder:
            below = subfolders(folder)
            for child in below:
                _remove_folders(folder, child)
        if not stat.S_ISLNK(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=root)
