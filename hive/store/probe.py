"""Feature probe: what the store's filesystem can do, found out by trying, before any byte is fetched.

Problem: "writable", "renames", "has links" are assumed by whoever writes files, and found out when the first one is
refused, after hours. The easy way, a table of filesystems, knows neither network shares nor options of a mount. So a
small file makes the way that a model's file makes: written where partial files lie, renamed into the cache, linked,
removed. That takes some twenty system calls, so it is done at the start of a process and again for each download.

What cannot be done without is a refusal (`StoreNotWritable`, `DiskFull`); what can be done in another way is a limit,
which is said once and kept to.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from hive.call_within import NoAnswerError, call_within
from hive.disk_errors import disk_error
from hive.errors import HiveError, StoreMissing
from hive.settings import Settings
from hive.store.dirfd import copy_file, naming, open_folder, remove_file
from hive.store.filesystem import Place, StoreLimits, partial_place
from hive.store.store_id import missing

log = logging.getLogger("hive.store.probe")

T = TypeVar("T")

#: Seconds to wait for a filesystem, and for which an answer counts.
ANSWER_TIMEOUT_S: Final = 2.0
FRESH_S: Final = 5.0
#: Seconds for which a process that starts waits for it, and then goes on: it looks again before it does anything.
START_TIMEOUT_S: Final = 10.0

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: A name that a filesystem without case, or one that rewrites Unicode, shows in another form.
_SPELLED: Final = "Probe-\u00e9"


def probe(settings: Settings) -> StoreLimits:
    """Write, rename and remove a small file in the store, and say what else can be done there.

    Raises:
        StoreNotWritable, DiskFull: nothing can be brought there; with the system's sentence and the path.
    """
    try:
        with _tried(partial_place(settings), settings) as (hub, name):
            return _limits(hub, name)
    except OSError as error:
        raise disk_error(error, settings.hub_dir) from error


def report(settings: Settings) -> None:
    """Probe the store when a process starts, and say what came of it: what cannot be written, or what is different."""
    fields: dict[str, object] = {"hub": str(settings.hub_dir)}
    try:
        limits = answer_within(START_TIMEOUT_S, settings.hub_dir, lambda: probe(settings))
    except HiveError as error:
        log.error("the store cannot be used", extra={"fields": {**fields, "code": error.code, "reason": error.message}})
        return
    if different := limits.sentences():
        log.warning("the store's filesystem has limits", extra={"fields": {**fields, "limits": " ".join(different)}})


def answer_within(seconds: float, path: Path, look: Callable[[], T]) -> T:
    """What the look at `path` gives. It is left behind in its thread where the filesystem does not answer.

    Raises:
        StoreMissing: there is no answer in this time.
    """
    try:
        return call_within(seconds, look, name="store-look")
    except NoAnswerError:
        raise _silent(path) from None


def _silent(path: Path) -> StoreMissing:
    return StoreMissing(f"The filesystem of the store does not answer: {path}.", path=str(path))


@contextlib.contextmanager
def _tried(partials: Place, settings: Settings) -> Iterator[tuple[int, str]]:
    """The cache and the name of a file in it, which came there as a model's file does."""
    name = f".probe.{secrets.token_hex(8)}.tmp"
    with (
        open_folder(settings.hub_dir, create=True) as hub,
        open_folder(partials.root, *partials.names, create=True) as partial,
    ):
        try:
            for _ in range(2):  # the second time over the first
                with naming(partial):
                    file = os.open(name, _FLAGS, 0o600, dir_fd=partial)
                    try:
                        os.write(file, b"probe\n")
                        os.fsync(file)
                    finally:
                        os.close(file)
                try:
                    os.rename(name, name, src_dir_fd=partial, dst_dir_fd=hub)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    copy_file(partial, name, hub, name)  # as what comes there then is
                    remove_file(partial, name)
            yield hub, name
        finally:
            for folder in (partial, hub):
                with contextlib.suppress(OSError):
                    remove_file(folder, name)


def _limits(hub: int, name: str) -> StoreLimits:
    spelled = f".{_spelled()}{name}"
    with contextlib.suppress(OSError):
        os.close(os.open(spelled, _FLAGS, 0o600, dir_fd=hub))
    try:
        names = os.listdir(hub)
        return StoreLimits(
            symlinks=_can(lambda: os.symlink("nowhere", f".l{name}", dir_fd=hub), hub, f".l{name}"),
            hardlinks=_can(lambda: os.link(name, f".h{name}", src_dir_fd=hub, dst_dir_fd=hub), hub, f".h{name}"),
            locks=_has_locks(hub, name),
            case_sensitive=not _is_there(hub, spelled.swapcase()),
            unicode_kept=spelled in names,
            max_name_bytes=os.fstatvfs(hub).f_namemax or 255,
        )
    finally:
        with contextlib.suppress(OSError):
            remove_file(hub, spelled)


def _can(make: Callable[[], None], hub: int, name: str) -> bool:
    try:
        make()
    except OSError:
        return False
    remove_file(hub, name)
    return True


def _has_locks(hub: int, name: str) -> bool:
    file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=hub)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def _spelled() -> str:
    """A name with capitals, and a letter that some disks spell anew, where the locale's encoding has it."""
    try:
        os.fsencode(_SPELLED)
    except UnicodeEncodeError:
        return ascii(_SPELLED).strip("'").replace("\\", "")
    return _SPELLED


def _is_there(hub: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        os.stat(name, dir_fd=hub, follow_symlinks=False)
        return True
    return False


class StoreHealth:
    """Whether anything can be brought to the store, asked so that a filesystem that hangs keeps nobody waiting."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        #: Why this store is not that of the other servers; whoever compares them says so.
        self.objection: str | None = None
        #: Whether it has been compared with theirs since this process began.
        self.compared = False
        self._asking: asyncio.Future[HiveError | None] | None = None
        self._asked_s = float("-inf")

    async def refusal(self) -> HiveError | None:
        """Why not, or None. An answer counts for some seconds."""
        if self.objection is not None:
            return StoreMissing(self.objection, path=str(self._settings.hive_dir))
        now_s = time.monotonic()
        if self._asking is None or (self._asking.done() and now_s - self._asked_s > FRESH_S):
            self._asking, self._asked_s = asyncio.ensure_future(asyncio.to_thread(self._ask)), now_s
        done, _ = await asyncio.wait([self._asking], timeout=ANSWER_TIMEOUT_S)
        if done:
            return self._asking.result()
        return _silent(self._settings.hub_dir)

    def _ask(self) -> HiveError | None:
        if (gone := missing(self._settings)) is not None:
            return gone
        try:
            probe(self._settings)
        except HiveError as error:
            return error
        return None
