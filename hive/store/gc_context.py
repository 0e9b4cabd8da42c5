"""What the parts of one collection share: what is in use, what counts as old, and the tally of what was removed.

The store knows neither Redis nor the queue. So what downloads that have not ended need is handed in as one set
(`InUse`), by a function that can be asked again right before a removal.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from hive.settings import Settings
from hive.store.cancellation import check_stop
from hive.store.dirfd import size_of
from hive.store.layout import TEMPORARY
from hive.wire.maintenance import Collected, CollectionLine, GarbageKind, Kept, Removed

#: Seconds for which everything stays, whatever was asked for: the time between a file and the link to it.
GRACE_S: Final = 600.0
#: The same for what another tool writes: a download of its that waits for the network writes nothing.
INCOMPLETE_GRACE_S: Final = 86_400.0

OnCollectionLine = Callable[[CollectionLine], None]
#: Holds the lease of a partial file; gives False where somebody else does.
HoldLease = Callable[[str], AbstractContextManager[bool]]


class InUse(NamedTuple):
    """What must stay: everything unlinked in `repos`, the folders `urls` below `files`, the partial files `partials`
    and those that carry one of `ids`; and all partial files written after `unlisted_since_s`, since when a download
    lives whose files nobody has listed.
    """

    ids: frozenset[str] = frozenset()
    repos: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    partials: frozenset[str] = frozenset()
    unlisted_since_s: float = float("inf")


class InUseError(OSError):
    """Somebody uses it after all."""


class GcContext:
    """One collection. `look` says what downloads need at this moment; `hold_lease` is None where there is no Redis."""

    def __init__(
        self,
        settings: Settings,
        say: OnCollectionLine,
        stop: threading.Event,
        look: Callable[[], InUse],
        hold_lease: HoldLease | None = None,
        *,
        older_than_s: float | None = None,
        dry_run: bool = False,
    ) -> None:
        self.settings = settings
        self.hub = settings.hub_dir
        self.hive = settings.hive_dir
        self.look = look
        self.dry_run = dry_run
        self.removed = 0
        self._say = say
        self._stop = stop
        self._hold_lease = hold_lease
        self._min_age_s = max(settings.partial_ttl_s if older_than_s is None else older_than_s, GRACE_S)
        self._began_s = time.monotonic()
        self._bytes = self._kept = 0

    def lease(self, name: str) -> AbstractContextManager[bool]:
        """Hold the lease of a partial file; gives False where somebody else does."""
        return self._hold_lease(name) if self._hold_lease else contextlib.nullcontext(True)

    @contextlib.contextmanager
    def reporting(self, kind: GarbageKind, path: str, n_bytes: int) -> Iterator[None]:
        """Say that what the block does was done, or why not. What is gone already is not said."""
        try:
            yield
        except FileNotFoundError:
            return
        except OSError as error:
            self.keep(kind, path, error)
            return
        self.removed += 1
        self._bytes += n_bytes
        self._say(Removed(kind=kind, path=path, bytes=n_bytes))

    def keep(self, kind: GarbageKind, path: str, error: OSError) -> None:
        """Say that something stays, and why."""
        self._kept += 1
        in_use = isinstance(error, InUseError)
        message = "It is in use." if in_use else f"It cannot be removed: {error.strerror}."
        self._say(Kept(kind=kind, path=path, message=message, in_use=in_use))

    def unlink(self, folder: int, name: str) -> None:
        """Remove a file, unless this is a dry run. Raises OSError."""
        if not self.dry_run:
            os.unlink(name, dir_fd=folder)

    def remove_temporaries(self, folder: int, path: str) -> None:
        """What broken-off writes of hive left in this folder, which is called `path`."""
        for name in os.listdir(folder):
            if TEMPORARY.fullmatch(name) and self.is_old(modified_s(folder, name)):
                with self.reporting("temporary", f"{path}/{name}", size_of(folder, name) or 0):
                    self.unlink(folder, name)

    def is_old(self, modified: float, kind: GarbageKind = "partial") -> bool:
        """Whether what was last written at this moment (unix seconds) may go."""
        least_s = max(self._min_age_s, INCOMPLETE_GRACE_S) if kind == "incomplete" else self._min_age_s
        return time.time() - modified >= least_s

    def check_stop(self) -> None:
        """Raise Stopped where nobody listens any more."""
        check_stop(self._stop)

    def end(self) -> Collected:
        """Say what it came to, and give that."""
        seconds = round(time.monotonic() - self._began_s, 3)
        end = Collected(dry_run=self.dry_run, removed=self.removed, bytes=self._bytes, kept=self._kept, seconds=seconds)
        self._say(end)
        return end


def modified_s(folder: int, name: str) -> float:
    """When a file was last written, unix seconds; now where it has gone, so that nobody takes it for old."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return time.time()
