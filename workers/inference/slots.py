"""The slots of a worker: how many requests it answers at once, which those are, and how to stop one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from hive.errors import Conflict
from hive.serving_errors import AllSlotsBusy

log = logging.getLogger("workers.inference.slots")

#: What is said of a request that was cancelled.
CANCELLED: Final = ("CANCELLED", "The request was cancelled.")


class Job(Protocol):
    """A request that has a slot."""

    id: str

    def stop(self, code: str, message: str) -> None:
        """End it now, and tell its client why. It lets go of its slot itself."""


class Slots:
    """Who has a slot. `on_change` is called whenever somebody takes one or lets go."""

    def __init__(self, total: int, on_change: Callable[[], None]) -> None:
        self.total = total
        self._on_change = on_change
        self._jobs: dict[str, Job] = {}
        self._all_free = asyncio.Event()
        self._all_free.set()

    @property
    def busy(self) -> int:
        """How many are taken."""
        return len(self._jobs)

    def take(self, job: Job) -> None:
        """Give the request a slot.

        Raises:
            AllSlotsBusy: there is none.
            Conflict: another request has this id.
        """
        if job.id in self._jobs:
            raise Conflict(f"A request with the job_id {job.id!r} is being answered.", job_id=job.id)
        if self.busy >= self.total:
            raise AllSlotsBusy(slots_total=self.total, slots_busy=self.busy, retry_after_s=1)
        self._jobs[job.id] = job
        self._all_free.clear()
        self._on_change()

    def release(self, job: Job) -> None:
        """The request is over."""
        if self._jobs.get(job.id) is job:
            del self._jobs[job.id]
            if not self._jobs:
                self._all_free.set()
            self._on_change()

    def cancel(self, job_id: str) -> bool:
        """Stop the request of this id; False where there is none."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.stop(*CANCELLED)
        return job is not None

    async def all_free(self) -> None:
        """Return when nobody has a slot."""
        await self._all_free.wait()

    def stop_all(self, code: str, message: str) -> None:
        """Stop every request."""
        for job in list(self._jobs.values()):
            job.stop(code, message)
