"""One randomised trial: the life of a download, played by workers and zombies, and all who watch it.

A trial knows what it told Redis, so it knows what a client may see: events of this download and of no other, never a
word of a zombie, and one of the ends that were accepted. An end that says the id is unknown, or a 404, is right only
where Redis lost the record; the trial then makes it again, with a greater fence, as the disk and the workers would.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid

from hive.downloads.events import requeued_event
from hive.downloads.record import Claim, Record
from hive.errors import DownloadNotFound
from hive.wire.events import Complete, Downloading, Event, Version
from tests.soak.subscriber import Subscriber
from tests.soak.world import World
from tests.support.downloads import complete, downloading, new

#: Seconds after the end, or after Redis has come back, within which everyone must have seen it. Nobody who has missed
#: it sees it later, so this only has to be longer than a busy machine takes.
END_WITHIN_S = 60.0
#: Mean seconds between two steps of a worker.
STEP_S = 0.02
#: Characters of the messages where clients lag: a few fill the buffers on both sides, and the server must wait.
LONG_MESSAGE_CHARS = 12_000
#: What a zombie says; nobody may ever hear it.
ZOMBIE = "a zombie speaks"


class Trial:
    """A download and its clients."""

    def __init__(self, number: int, world: World, urls: list[str], rng: random.Random) -> None:
        self.number = number
        self.world = world
        self.urls = urls
        self.rng = rng
        self.id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        #: How often the record was made; more than once means that Redis had lost it.
        self.creations = 0
        self.ended = asyncio.Event()
        self.ends: dict[Version, str] = {}
        self.wrong: list[str] = []
        #: The end that stands in Redis, and when it was seen there.
        self.end: Version | None = None
        self.ended_s = 0.0
        self._epoch = -1
        self._claim: Claim | None = None
        self._zombies: list[Claim] = []
        self._owners = self._seq = self._done = 0
        self._steps_left = rng.randrange(1, 12)
        self.subscribers = [Subscriber(self) for _ in range(rng.randrange(1, 7))]
        lagging = any(subscriber.lags for subscriber in self.subscribers)
        self._message = "x" * LONG_MESSAGE_CHARS if lagging and rng.random() < 0.6 else None

    async def run(self) -> list[str]:
        """Play it; gives what was wrong."""
        await self._create()
        watching = [asyncio.create_task(subscriber.run()) for subscriber in self.subscribers]
        try:
            await self._work_to_the_end()
            await self._see_out(set(watching))
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        self._judge()
        return [f"trial {self.number}: {problem}" for problem in self.wrong]

    def check(self, version: Version, event: Event) -> str | None:
        """What is wrong with an event that a client got, or None."""
        if isinstance(event, Downloading):
            if event.message == ZOMBIE:
                return f"a zombie was heard: {event!r}"
            return None if event.bytes_total in (0, self.number) else f"an event of another download: {event!r}"
        if isinstance(event, Complete):
            return None if self.ends.get(version) == event.local_path else f"an end that was none: {version} {event!r}"
        if event.code == DownloadNotFound.code:
            return None  # the client knows whether that may be: see `lost_since`
        return f"an end that nobody made: {version} {event!r}"

    def lost_since(self, creations: int) -> bool:
        """Whether Redis has lost the record since there were so many creations of it."""
        return self.creations > creations or self._epoch < self.world.epoch_of_loss

    # -- the workers -------------------------------------------------------------------------------------------------

    async def _create(self) -> None:
        made = new(f"trial-{self.number}-{self.id}", event=downloading(0, 0, "queued"))
        await self.world.call(self.world.downloads.tracker.create, made, self.id)
        self.creations += 1
        self._claim = None

    async def _work_to_the_end(self) -> None:
        while True:
            epoch = self.world.epoch
            record = await self.world.call(self.world.downloads.tracker.read, self.id)
            if record is None:
                await self._create()
                continue
            self._epoch = epoch
            if record.is_terminal:
                self.end, self.ended_s = Version(record.fence, record.seq), time.monotonic()
                self.ended.set()
                return
            if record.state == "queued":
                await self._take(record)
            elif self._claim is None or self._claim.fence != record.fence:
                await self._release(record)
            else:
                await self._work(record)

    async def _work(self, record: Record) -> None:
        """Steps of the worker that holds it, until it is refused, gives up, or is done."""
        assert self._claim is not None
        claim, held = self._claim, True
        while held:
            await asyncio.sleep(self.rng.expovariate(1 / STEP_S))
            self._steps_left -= 1
            self._seq += 1
            if self._zombies and self.rng.random() < 0.4:
                held, _ = await asyncio.gather(
                    self._step(claim, self._seq), self._haunt(self.rng.choice(self._zombies))
                )
            else:
                held = await self._step(claim, self._seq)
            if held and self._steps_left > 0 and self.rng.random() < 0.15:
                await self._release(record)
                return

    async def _step(self, claim: Claim, seq: int) -> bool:
        """Publish, or finish where no steps are left. False when there is nothing more to do with this claim."""
        downloads = self.world.downloads
        if self._steps_left > 0:
            self._done += self.rng.randrange(1000)
            event = downloading(self._done, self.number, message=self._message)
            return (await self.world.call(downloads.claims.publish, claim, seq, event)).held
        path = f"/store/{self.id}/{seq}"
        self.ends[Version(claim.fence, seq)] = path
        await self.world.call(downloads.claims.finish, claim, seq, "complete", complete(path), path)
        return False

    async def _take(self, record: Record) -> None:
        self._owners += 1
        owner = f"{self.number}-{self._owners}"
        event = downloading(self._done, self.number, "resolving")
        claim = await self.world.call(self.world.downloads.claims.claim, record, owner, owner, event)
        if claim is not None:
            self._claim, self._seq = claim, 1

    async def _release(self, record: Record) -> None:
        """Its worker is given up, and may come back as a zombie."""
        event = requeued_event(record, None)
        done = await self.world.call(self.world.downloads.claims.release, record, event, counts=False)
        if done is not None and self._claim is not None:
            self._zombies.append(self._claim)
            self._claim = None
            self.world.counts["retries"] += 1

    async def _haunt(self, claim: Claim) -> None:
        """A worker that was given up goes on as if it were not."""
        downloads, seq = self.world.downloads, self._seq + self.rng.randrange(100)
        if self.rng.random() < 0.5:
            path = f"/zombie/{self.id}"
            obeyed = await self.world.call(downloads.claims.finish, claim, seq, "complete", complete(path), path)
        else:
            event = downloading(self._done, self.number, message=ZOMBIE)
            obeyed = (await self.world.call(downloads.claims.publish, claim, seq, event)).held
        self.world.counts["zombies"] += 1
        if obeyed:
            self.wrong.append(f"a zombie was obeyed: {claim}")

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _see_out(self, watching: set[asyncio.Task[None]]) -> None:
        """Everyone sees the end in time. Where Redis is restarted meanwhile, the time begins anew, and so may the
        work.
        """
        epoch, began_s = self.world.epoch, time.monotonic()
        while watching:
            done, watching = await asyncio.wait(watching, timeout=0.05)
            for task in done:
                task.result()
            if self.world.away or epoch != self.world.epoch:
                epoch, began_s = self.world.epoch, time.monotonic()
            if self._epoch != self.world.epoch:
                await self._work_to_the_end()
            if time.monotonic() - began_s > END_WITHIN_S:
                self.wrong.append(f"{len(watching)} clients did not see the end within {END_WITHIN_S:.0f} s")
                return

    def _judge(self) -> None:
        for subscriber in self.subscribers:
            self.wrong += subscriber.judge()
        seen = [subscriber.witness for subscriber in self.subscribers]
        ends = {witness.terminal for witness in seen if isinstance(witness.last, Complete)}
        if len(ends) > 1 and self.creations == 1:
            self.wrong.append(f"clients saw different ends: {ends}")
