"""Watchdog of the store: looks whether it is still there, and does not wait for a filesystem that hangs.

Problem: a worker whose mount is gone, broken or hanging cannot bring anything, while another could: it must not take
downloads, and must give back the one that it has. Whoever looks may hang with the filesystem, and cannot be stopped:
so a thread looks, others ask how long it has been at it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from hive.settings import Settings
from hive.store.root_guard import GUARD
from hive.store.store_id import missing

#: Seconds between two looks while a download runs.
LOOK_INTERVAL_S: Final = 2.0
#: Seconds for which a filesystem may say nothing: a server of files that fails over needs a minute, and clients wait.
SILENCE_S: Final = 90.0
#: Seconds for which whoever asks before a download waits for an answer.
ASK_S: Final = 2.0
#: Seconds after which a transfer that was told to stop, and cannot, is left to hang.
STUCK_S: Final = 10.0


class StoreLook:
    """Asks whether the store is there, one look at a time.

    `learn` is called before each look for as long as this process keeps to no store: nobody may have named it when the
    process began. It may block.
    """

    def __init__(self, settings: Settings, learn: Callable[[], object] | None = None) -> None:
        self._settings = settings
        self._learn = learn
        self._thread: threading.Thread | None = None
        self._began_s = 0.0
        self._problem: str | None = None

    def problem(self, timeout_s: float = ASK_S) -> str | None:
        """Why nothing can be brought there, None where it is there; waits so long for an answer."""
        if self._thread is None or not self._thread.is_alive():
            self._began_s = time.monotonic()
            self._thread = threading.Thread(target=self._look, name="store-look", daemon=True)
            self._thread.start()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return self._problem
        return f"The filesystem of the store does not answer: {self._settings.hive_dir}."

    @property
    def silent_s(self) -> float:
        """Seconds for which the present look has had no answer; 0 where there is one."""
        return time.monotonic() - self._began_s if self._thread is not None and self._thread.is_alive() else 0.0

    def _look(self) -> None:
        if self._learn is not None and GUARD.store_id is None:
            self._learn()
        found = missing(self._settings)
        self._problem = None if found is None else found.message


class StoreWatch:
    """Looks while a download runs. `lost` is called once, with the reason; `stuck` where `stop` has not come then."""

    def __init__(self, settings: Settings, lost: Callable[[str], None], stuck: Callable[[], None]) -> None:
        self._look = StoreLook(settings)
        self._lost, self._stuck = lost, stuck
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_INTERVAL_S):
            problem = self._look.problem()
            if problem is None or 0 < self._look.silent_s < SILENCE_S:
                continue
            self._lost(problem)
            if not self._stopping.wait(STUCK_S):
                self._stuck()
            return
