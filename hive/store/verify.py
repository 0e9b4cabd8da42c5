"""Scrub: reads everything that the store claims to hold, and says what is not as it should be.

It runs in a thread of its own and says what it finds as it goes, through `say`; whoever listens may set `stop`.
Contents are hashed a few at a time, each once, however many files and commits share it. After each repository the wrong
ones may be repaired (`hive.store.repair`), so that a run that is broken off has repaired what it has seen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final

from hive.errors import ModelNotOnDisk
from hive.settings import Settings
from hive.store.cancellation import check_stop
from hive.store.checksum import Finding, check_content
from hive.store.inventory import Content, InventoryItem, Target, inventory
from hive.wire.maintenance import Problem, Progress, Refetch, VerificationLine, Verified

#: Contents that are hashed at a time: a disk that reads faster than one core hashes is used, and a core is left.
HASHERS: Final = 2
#: Contents that wait for a hasher: enough to keep them busy with small files.
MAX_WAITING: Final = 64
#: Seconds between two lines that say how far it is.
PROGRESS_INTERVAL_S: Final = 2.0
#: Ids of downloads that the end names; each had its own line before.
MAX_NAMED_DOWNLOADS: Final = 1000

OnVerificationLine = Callable[[VerificationLine], None]
#: Repairs the problems of an item; gives what was asked for.
Repair = Callable[[InventoryItem, Sequence[Problem]], Iterable[Refetch]]


class Verification:
    """One run over `targets`. `named` says that a person named them, so that each must be here."""

    def __init__(
        self,
        settings: Settings,
        targets: Sequence[Target],
        say: OnVerificationLine,
        stop: threading.Event,
        *,
        named: bool = False,
        repair: Repair | None = None,
    ) -> None:
        self._settings = settings
        self._targets = targets
        self._named = named
        self._say = say
        self._stop = stop
        self._repair_item = repair
        self._lock = threading.Lock()
        self._model = ""
        self._models = self._files = self._files_total = 0
        self._bytes = self._bytes_total = 0
        self._problems = 0
        self._downloads: list[str] = []
        self._next_progress_s = 0.0

    def run(self) -> Verified:
        """Look at everything. Says lines, the last one included, and gives that too.

        Raises:
            Stopped: `stop` was set.
            ModelNotOnDisk: nothing of a named target is here.
            HiveError: what was wrong could not be fetched again, because Redis is away.
        """
        began_s = time.monotonic()
        for target in self._targets:
            self._count(target)
        self._tell()
        with ThreadPoolExecutor(HASHERS, thread_name_prefix="verify") as hashers:
            try:
                for target in self._targets:
                    self._verify(target, hashers)
            except BaseException:
                self._stop.set()
                raise
        end = Verified(
            models=self._models,
            files=self._files,
            bytes=self._bytes,
            problems=self._problems,
            downloads=tuple(self._downloads[:MAX_NAMED_DOWNLOADS]),
            seconds=round(time.monotonic() - began_s, 3),
        )
        self._say(end)
        return end

    def _count(self, target: Target) -> None:
        """How much there is to read: so that people can be told how far it is."""
        seen: set[object] = set()
        anything = False
        for item in inventory(self._settings, target):
            self._check_stop()
            anything = anything or bool(item.contents or item.problems)
            for content in item.contents:
                if content.key not in seen:
                    seen.add(content.key)
                    self._files_total += 1
                    self._bytes_total += content.n_bytes
        if self._named and not anything:
            raise ModelNotOnDisk

    def _verify(self, target: Target, hashers: ThreadPoolExecutor) -> None:
        verdicts: dict[object, Finding | None] = {}
        broken: list[tuple[InventoryItem, list[Problem]]] = []
        for item in inventory(self._settings, target):
            self._models += 1
            self._model = item.model
            for note in item.notes:
                self._say(note)
            for problem in item.problems:
                self._report(problem)
            self._examine([c for c in item.contents if c.key not in verdicts], verdicts, hashers)
            wrong = [*item.problems, *self._judge(item, verdicts)]
            if wrong:
                broken.append((item, wrong))
        for item, wrong in broken if self._repair_item else ():
            self._refetch(item, wrong)

    def _examine(
        self, contents: Sequence[Content], verdicts: dict[object, Finding | None], hashers: ThreadPoolExecutor
    ) -> None:
        waiting: dict[Future[Finding | None], Content] = {}
        queue = iter(contents)
        more = True
        while more or waiting:
            while more and len(waiting) < MAX_WAITING:
                if (content := next(queue, None)) is None:
                    more = False
                else:
                    waiting[hashers.submit(check_content, content, self._stop, self._on_bytes)] = content
            done, _ = wait(waiting, PROGRESS_INTERVAL_S, FIRST_COMPLETED)
            for future in done:
                verdicts[waiting.pop(future).key] = future.result()
                self._files += 1
            self._check_stop()
            if time.monotonic() >= self._next_progress_s:
                self._tell()

    def _judge(self, item: InventoryItem, verdicts: dict[object, Finding | None]) -> list[Problem]:
        """The problems of this item's files, reported."""
        found = []
        for content in item.contents:
            if finding := verdicts[content.key]:
                for path in content.paths:
                    found.append(Problem(item.model, path, *finding))
                    self._report(found[-1])
        return found

    def _report(self, problem: Problem) -> None:
        self._problems += 1
        self._say(problem)

    def _refetch(self, item: InventoryItem, wrong: Sequence[Problem]) -> None:
        assert self._repair_item is not None
        for line in self._repair_item(item, wrong):
            if line.download_id is not None:
                self._downloads.append(line.download_id)
            self._say(line)

    def _on_bytes(self, count: int) -> None:
        with self._lock:
            self._bytes += count

    def _check_stop(self) -> None:
        check_stop(self._stop)

    def _tell(self) -> None:
        self._next_progress_s = time.monotonic() + PROGRESS_INTERVAL_S
        self._say(
            Progress(
                model=self._model,
                files_done=self._files,
                files_total=max(self._files, self._files_total),
                bytes_done=self._bytes,
                bytes_total=max(self._bytes, self._bytes_total),
            )
        )
