"""Speaker: how far a download in this process is, told to whoever shows it and noted in the intent log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from hive.downloads.local import LocalRun
from hive.wire.events import ActiveStatus, Downloading, Event
from workers.tally import Tally
from workers.transfer import Control

log = logging.getLogger("workers.local.progress")

#: Seconds between two events in which only figures change, and between two notes of how far it is.
SHOW_INTERVAL_S: Final = 0.1
NOTE_INTERVAL_S: Final = 1.0


class Speaker:
    """Tells how far the download is, in a thread: the transfer must not wait for a terminal, or a disk."""

    def __init__(self, show: Callable[[Event], None], run: LocalRun, control: Control) -> None:
        #: What `show` raised, a closed pipe for example.
        self.broken: BaseException | None = None
        self._show = show
        self._run = run
        self._control = control
        self._tally = Tally(bytes_floor=run.bytes_done)
        self._condition = threading.Condition()
        self._changed = self._urgent = True
        self._stopping = False
        self._noted_s = 0.0
        self._thread = threading.Thread(target=self._speak, name="speaker", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()
        self._note(self.snapshot())

    def status(self, status: ActiveStatus, message: str | None = None) -> None:
        """A change of status is shown at once."""
        with self._condition:
            if self._tally.status(status, message):
                self._changed = self._urgent = True
                self._condition.notify()

    def plan(self, *, bytes_total: int, files_total: int, files_done: int, bytes_done: int) -> None:
        """What there is to do."""
        with self._condition:
            self._tally.plan(
                bytes_total=bytes_total, files_total=files_total, files_done=files_done, bytes_done=bytes_done
            )
            self._changed = True

    def file(self, path: str, bytes_done: int, bytes_total: int) -> None:
        """One file got further."""
        with self._condition:
            self._tally.file(path, bytes_done, bytes_total)
            self._changed = True

    def file_done(self, path: str, size: int, refetched: int = 0) -> None:
        """One file is published."""
        with self._condition:
            self._tally.file_done(path, size, refetched)
            self._changed = True

    def snapshot(self) -> Downloading:
        """Where it is now."""
        with self._condition:
            return self._tally.event()

    def _speak(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._urgent, timeout=SHOW_INTERVAL_S)
                if self._stopping:
                    return
                event = self._tally.event() if self._changed else None
                self._changed = self._urgent = False
            if event is None:
                continue
            try:
                self._show(event)
                self._note(event)
            except BaseException as error:
                self.broken = error
                self._control.cancel("nobody reads the progress")
                return

    def _note(self, event: Downloading) -> None:
        now_s = time.monotonic()
        if self._stopping or now_s - self._noted_s >= NOTE_INTERVAL_S:
            self._noted_s = now_s
            try:
                self._run.note(bytes_done=event.bytes_downloaded, bytes_total=event.bytes_total)
            except OSError as error:
                log.warning("the intent log cannot be written; going on", extra={"fields": {"reason": str(error)}})
