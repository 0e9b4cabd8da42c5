"""One client of a trial: when it comes, how it behaves, and what it must have seen."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

from hive.redis.client import ANSWER_TIMEOUT_S
from hive.wire.events import Error
from tests.support.witness import Connection, Witness, watch

if TYPE_CHECKING:
    from tests.soak.trial import Trial

#: When a client comes, by weight: before the first word of a worker, while it speaks, after the end.
MOMENTS = {"before": 4, "during": 4, "after": 2}
#: What it does, by weight: stay; leave and come back, to any replica; read late; leave for good.
HABITS = {"stay": 10, "come_and_go": 5, "lag": 3, "leave": 2}
#: Seconds within which a client comes that comes during a download.
DURING_S = 0.4
#: Seconds for which one that lags does not read, and for which one that comes and goes stays, at most.
LAG_S = 0.6
STAY_S = 0.2
#: Bytes of the receive buffer with which one that has lagged catches up.
CATCH_UP_BUFFER_BYTES = 1 << 20
#: Seconds until a client asks again that was told the id is unknown.
ASK_AGAIN_S = 0.02


class Subscriber:
    """A client of a trial."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.rng = trial.rng
        (self._moment,) = self.rng.choices(list(MOMENTS), list(MOMENTS.values()))
        (self._habit,) = self.rng.choices(list(HABITS), list(HABITS.values()))
        self.witness = Witness(trial.check)
        self._comings_left = self.rng.randrange(1, 5) if self._habit == "come_and_go" else 0
        self._gone = False
        self._wrong: list[str] = []

    @property
    def lags(self) -> bool:
        """Whether it does not read for a while."""
        return self._habit == "lag"

    async def run(self) -> None:
        """Watch until the end, over as many connections as it takes."""
        if self._moment == "during":
            await asyncio.sleep(self.rng.uniform(0, DURING_S))
        elif self._moment == "after":
            await self.trial.ended.wait()
        keep_id = True
        while self.witness.terminal is None and not self._gone:
            await self._visit(self.witness.last_event_id if keep_id else None)
            keep_id = self.rng.random() < 0.8
        if self.witness.terminal is not None and self.rng.random() < 0.3:
            await self._come_back_after_the_end()

    def judge(self) -> list[str]:
        """What was wrong."""
        wrong = self._wrong + self.witness.wrong
        if not self._gone and (self.witness.terminal is None or self.witness.done != 1):
            wrong.append(f"an end without [DONE], or none: {self.witness.terminal}, {self.witness.done} [DONE]")
        return [f"{problem} ({self._moment}, {self._habit})" for problem in wrong]

    async def _visit(self, last_event_id: str | None) -> None:
        """One connection, to its end or until the client leaves."""
        creations = self.trial.creations
        connection = await self._connect(self.witness, last_event_id)
        try:
            status = connection.answered.result()
            if status == 200:
                await self._stay(connection, creations)
                if isinstance(self.witness.last, Error) and not self.trial.lost_since(creations):
                    self._wrong.append(f"a known id was said to be unknown: {self.witness.last!r}")
            elif status == 404 and self.trial.lost_since(creations):
                self.trial.world.counts["unknown"] += 1
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                said = connection.why or f"{connection.head[:200]!r} {connection.body[:200]!r}"
                self._wrong.append(f"answered {status}: {said}")
                self._gone = True
        finally:
            connection.leave()

    async def _stay(self, connection: Connection, creations: int) -> None:
        self.trial.world.counts["joins"] += 1
        if self.lags and connection.transport is not None and not connection.transport.is_closing():
            connection.transport.pause_reading()
            await asyncio.sleep(self.rng.uniform(0, LAG_S))
            # Behind by now; from here on it takes what it can, however seldom its loop turns.
            plain = connection.transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CATCH_UP_BUFFER_BYTES)
            connection.transport.resume_reading()
        if self._comings_left or self._habit == "leave":
            self._comings_left -= 1
            await asyncio.wait({connection.over}, timeout=self.rng.uniform(0, STAY_S))
            if not connection.over.done():
                self._gone = self._habit == "leave"
                return
        arrived_s = time.monotonic()
        clean = await connection.over
        if clean and self.witness.terminal is None and self.trial.lost_since(creations):
            # It knows more than a replica that has seen the record's loss: it is sent to connect again.
            self.trial.world.counts["sent_away"] += 1
            await asyncio.sleep(ASK_AGAIN_S)
            return
        if not clean or self.witness.terminal is None:
            self._wrong.append(f"the stream was dropped, {'cleanly' if clean else 'cut'}, at {self.witness.last!r}")
        self._note_lag(arrived_s)

    def _note_lag(self, arrived_s: float) -> None:
        """How long after the end it was seen, where nothing stood in the way."""
        trial = self.trial
        if trial.ended_s and trial.world.quiet_since(trial.ended_s) and trial.creations == 1:
            lag_s = time.monotonic() - max(trial.ended_s, arrived_s)
            trial.world.slowest_end_s = max(trial.world.slowest_end_s, lag_s)

    async def _come_back_after_the_end(self) -> None:
        """As an EventSource does, which is then told to stop (204)."""
        began_s, creations, again = time.monotonic(), self.trial.creations, Witness(self.trial.check)
        connection = await self._connect(again, self.witness.last_event_id)
        connection.leave()
        status = connection.answered.result()
        self.trial.world.counts["stopped"] += status == 204
        excused = self.trial.lost_since(creations) or self.witness.terminal != self.trial.end
        # A server that has waited for Redis as long as it may lets the client wait, and cannot know what it has seen.
        excused = excused or (status == 200 and time.monotonic() - began_s >= ANSWER_TIMEOUT_S)
        if status != 204 and not excused and self.trial.world.quiet_since(began_s):
            self._wrong.append(f"one that has seen the end was answered {status}")

    async def _connect(self, witness: Witness, last_event_id: str | None) -> Connection:
        url = self.rng.choice(self.trial.urls)
        return await watch(url, self.trial.id, witness, last_event_id=last_event_id, tiny=self.lags)
