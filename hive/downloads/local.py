"""Downloads that a command runs by itself, where no server answers: the intent log is all there is of them.

Problem: without Redis there is no record, no queue and no lease, and yet a download must be one for all commands of the
machine: listed, resumed, cancelled, and never begun twice. The easy way, files of a kind of their own, would be unknown
to a server that is started later. So they stand in the intent log like any other, as paused ones: nobody goes on with
them unasked, whether the command was stopped or killed. Whoever works on one holds a lock of the kernel, by the key
that makes two requests the same download.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from hive.downloads.intents import Attempt, Intent, IntentLog
from hive.settings import Settings
from hive.store.dirfd import open_folder, remove_file, size_of
from hive.store.file_lock import FileLock, holder_of
from hive.store.filesystem import partial_places
from hive.store.given_up import noting_removal
from hive.store.layout import PARTIAL_ENDINGS
from hive.store.partial_lock import PartialLocks
from hive.wire.refs import dedup_key
from hive.wire.spec import DownloadSpec, request_of

#: Characters of the key in a lock's name.
_KEY_CHARS: Final = 32


class NotedDownload(NamedTuple):
    """A download of the intent log: the request, how far it is, and the process that runs it now (None: nobody).

    `queued` says that it waits for a server: it was asked for there, and nobody has paused it.
    """

    intent: Intent
    attempt: Attempt | None
    pid: int | None

    @property
    def queued(self) -> bool:
        """Whether a server goes on with it when one is started."""
        return self.pid is None and not (self.intent.paused or self.intent.cancelled)

    @property
    def has_ended(self) -> bool:
        """Whether only a server is left to be told that it has ended."""
        return self.pid is None and self.intent.cancelled

    @property
    def bytes_done(self) -> int:
        """Bytes that had arrived when that was last noted."""
        return self.attempt.bytes_done if self.attempt else 0

    @property
    def bytes_total(self) -> int:
        """Bytes of the whole, 0 where that is not known."""
        return self.attempt.bytes_total if self.attempt else 0


class LocalDownloads:
    """The downloads of this hive that are on the disk. Methods raise OSError where the store refuses."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hive = settings.hive_dir
        #: Whether there is a Redis that may have a record of them: a server that starts is told of their ends.
        self._may_be_known = settings.redis_url is not None or (settings.home_dir / "redis").exists()
        self.intents = IntentLog(settings)

    def list(self) -> list[NotedDownload]:
        """All that have not ended, the newest first."""
        noted = (self.get(download_id) for download_id in self.intents.ids())
        found = [entry for entry in noted if entry and not entry.has_ended]
        return sorted(found, key=lambda entry: entry.intent.created_ms, reverse=True)

    def get(self, download_id: str) -> NotedDownload | None:
        """One of them; None where it has ended or never was."""
        intent = self.intents.read(download_id)
        if intent is None:
            return None
        pid = running_pid(self._hive, self.intents, intent.dedup_key)
        return NotedDownload(intent, self.intents.read_attempt(download_id), pid)

    def begin(self, spec: DownloadSpec) -> LocalRun | None:
        """Take a request in hand, with what an earlier one like it has left; None where another process has it.

        Raises:
            OSError: the store cannot be written.
        """
        key = dedup_key(spec.ref, spec.include, spec.exclude, spec.sha256)
        lock = FileLock(self._hive, _lock_name(self.intents, key))
        if not lock.acquire(str(os.getpid())):
            return None
        try:
            earlier = self._find(key)
            intent = msgspec.structs.replace(_intent(spec, key), **({"id": earlier.id} if earlier else {}))
            if earlier is not None:
                intent = msgspec.structs.replace(intent, created_ms=earlier.created_ms)
            self.intents.write(intent)
            return LocalRun(self, intent, lock, is_known=earlier is not None and self._may_be_known)
        except BaseException:
            lock.release()
            raise

    def running(self, spec: DownloadSpec) -> NotedDownload | None:
        """The download of this request that another process has in hand."""
        key = dedup_key(spec.ref, spec.include, spec.exclude, spec.sha256)
        intent = self._find(key)
        entry = self.get(intent.id) if intent else None
        return entry if entry and entry.pid else None

    def stop(self, entry: NotedDownload) -> None:
        """Ask the process that runs it to stop, keeping what is there; nothing happens where nobody does."""
        if entry.pid is not None and entry.pid != os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(entry.pid, signal.SIGTERM)

    def pause(self, entry: NotedDownload) -> None:
        """Set it aside: nobody goes on with it unasked."""
        if not entry.intent.paused:
            self.intents.write(msgspec.structs.replace(entry.intent, paused=True, local=True))
        self.stop(entry)

    def cancel(self, entry: NotedDownload, *, purge: bool) -> int:
        """End it. Gives the bytes that were freed, where `purge` wants what arrived to be removed."""
        self.intents.write(msgspec.structs.replace(entry.intent, cancelled=True, purge=purge, local=True))
        if entry.pid is not None:
            self.stop(entry)  # and that process does the rest
            return 0
        return self.close(entry.intent.id)

    def close(self, download_id: str, *, completed: bool = False) -> int:
        """Forget a download that has ended, well or not; its partial files go where that is wished. Gives the bytes
        that freed.
        """
        intent, freed = self.intents.read(download_id), 0
        if intent is not None and intent.purge:
            attempt = self.intents.read_attempt(download_id)
            names = set(attempt.partials if attempt else ()) - self.intents.partials_of_others(download_id)
            freed = self._purge(download_id, names)
        if intent is not None and self._may_be_known:
            ended = msgspec.structs.replace(intent, paused=True, cancelled=True, local=True, completed=completed)
            self.intents.write(ended)
        else:
            self.intents.remove(download_id)
        return freed

    def _purge(self, download_id: str, shared: set[str]) -> int:
        freed = 0
        for place in partial_places(self._settings):
            with open_folder(place.root, *place.names, missing_ok=True) as folder:
                if folder is None:
                    continue
                freed += sum(_remove(folder, name) for name in os.listdir(folder) if f".{download_id}." in name)
                locks = PartialLocks(place, local_realm(download_id))
                for name in sorted(shared):
                    if locks.acquire(name):
                        with noting_removal(self._settings.hive_dir, folder, name):
                            freed += sum(_remove(folder, name + ending) for ending in PARTIAL_ENDINGS)
                        locks.release(name)
        return freed

    def _find(self, key: str) -> Intent | None:
        return next((intent for intent in self._all() if intent.dedup_key == key and not intent.cancelled), None)

    def _all(self) -> Iterator[Intent]:
        for download_id in self.intents.ids():
            if (intent := self.intents.read(download_id)) is not None:
                yield intent


class LocalRun:
    """A download that this process has in hand, until `end` or `set_aside`."""

    def __init__(self, downloads: LocalDownloads, intent: Intent, lock: FileLock, *, is_known: bool = False) -> None:
        self.id = intent.id
        #: Whether a server may have a record of it, which is not to end because this process cannot bring it.
        self.is_known = is_known
        self._downloads = downloads
        self._lock = lock
        earlier = downloads.intents.read_attempt(intent.id)
        self._attempt = Attempt(
            attempt=earlier.attempt if earlier else 1,
            fence=earlier.fence if earlier else 0,
            worker=f"pid {os.getpid()}",
            held=False,
            bytes_done=earlier.bytes_done if earlier else 0,
            bytes_total=earlier.bytes_total if earlier else 0,
            partials=earlier.partials if earlier else (),
        )

    @property
    def bytes_done(self) -> int:
        """Bytes that had arrived when that was last noted."""
        return self._attempt.bytes_done

    @property
    def cancelled(self) -> bool:
        """Whether another command wants it to end, and not to be resumed."""
        intent = self._downloads.intents.read(self.id)
        return intent is None or intent.cancelled

    def note(self, *, bytes_done: int, bytes_total: int, partials: tuple[str, ...] | None = None) -> None:
        """Write down how far it is, and which partial files it writes. Raises OSError."""
        self._attempt = msgspec.structs.replace(
            self._attempt,
            bytes_done=bytes_done,
            bytes_total=bytes_total,
            partials=self._attempt.partials if partials is None else partials,
        )
        self._downloads.intents.write_attempt(self.id, self._attempt)

    def end(self, *, completed: bool = False) -> None:
        """It has ended, well or not: forget it. Raises OSError."""
        try:
            self._downloads.close(self.id, completed=completed)
        finally:
            self._lock.release()

    def set_aside(self) -> None:
        """Leave it for a later command."""
        self._lock.release()


def local_realm(download_id: str) -> str:
    """Whose its locks on partial files are: it shares no leases with anybody, so with nobody a realm."""
    return f"local {download_id}"


def running_pid(hive: Path, intents: IntentLog, key: str) -> int | None:
    """The process of this machine that has the request with this key in hand; None where none has."""
    note = holder_of(hive, _lock_name(intents, key))
    return int(note) if note and note.isdecimal() else None


def _lock_name(intents: IntentLog, key: str) -> str:
    return f"download-{intents.realm}-{key[:_KEY_CHARS]}"


def _intent(spec: DownloadSpec, key: str) -> Intent:
    return Intent(
        id=str(uuid.uuid4()),
        dedup_key=key,
        ref=spec.ref.display,
        request=request_of(spec),
        priority=spec.priority,
        created_ms=int(time.time() * 1000),
        paused=True,
        local=True,
    )


def _remove(folder: int, name: str) -> int:
    size = size_of(folder, name) or 0
    return size if remove_file(folder, name) else 0
