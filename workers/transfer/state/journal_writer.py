"""Keeps the journal: a record at least every second or 4 MiB, a sync at least every 10 seconds or 1 GiB.

Two threads, since an fdatasync takes seconds on a busy disk, and a kill in that time must not cost more than one
record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hive.disk_errors import disk_error
from workers.transfer import threads
from workers.transfer.control import Control
from workers.transfer.limits import Limits
from workers.transfer.state.disk import sync_data
from workers.transfer.state.journal import Journal
from workers.transfer.state.part_map import PartMap


class JournalWriter:
    """Writes the journal of a running fetch until `stop`."""

    def __init__(self, fd: int, journal: Journal, parts: PartMap, control: Control, limits: Limits) -> None:
        self._fd = fd
        self._journal = journal
        self._parts = parts
        self._control = control
        self._limits = limits
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._recorded = self._synced = parts.written
        self._lock = threading.Lock()
        self._compact_at_bytes = journal.n_bytes + limits.journal_max_bytes
        #: What went wrong in a thread.
        self.error: Exception | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(turn,), name=f"transfer-{name}", daemon=True)
            for name, turn in (("journal", self._record_turn), ("sync", self._sync_turn))
        ]

    def start(self) -> None:
        """Begin. Raises ResourcesExhausted where there is no thread for it."""
        for thread in self._threads:
            threads.start(thread)

    def wrote(self) -> None:
        """Bytes were written: look whether a record is due. Called after every write, so it is cheap."""
        if self._parts.written - self._recorded >= self._limits.journal_every_bytes:
            self._wake.set()

    def stop(self) -> None:
        """End the threads, and wait for them."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            threads.join(thread)
        self._journal.close()

    def record(self) -> None:
        """Bring the journal up to date; raises OSError."""
        with self._lock:
            self._recorded = self._parts.written
            self._journal.append(self._parts.changes())

    def sync(self) -> None:
        """Make everything so far durable; raises OSError."""
        self.record()
        self._synced = self._parts.written
        mark, durable = self._journal.mark(), self._parts.extents()
        sync_data(self._fd)
        if self._journal.n_bytes < self._compact_at_bytes:
            self._journal.synced(mark)
            return
        with self._lock:
            self._journal.compact(self._parts.extents(), durable)
            self._compact_at_bytes = self._journal.n_bytes + self._limits.journal_max_bytes

    def _run(self, turn: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                turn()
        except OSError as error:
            self.error = disk_error(error)
        except Exception as error:
            self.error = error

    def _record_turn(self) -> None:
        self._wake.wait(self._limits.journal_every_s)
        self._wake.clear()
        if not self.forbidden:
            self.record()

    def _sync_turn(self) -> None:
        began = time.monotonic()
        while time.monotonic() - began < self._limits.sync_every_s:
            if self._stop.wait(self._limits.tick_s):
                return
            if self._parts.written - self._synced >= self._limits.sync_every_bytes:
                break
        if self._parts.written != self._synced and not self.forbidden:
            self.sync()

    @property
    def forbidden(self) -> bool:
        """Whether nothing may be written now: the files are, or may be, somebody else's."""
        return self._control.fenced or self._control.waiting == "held"
