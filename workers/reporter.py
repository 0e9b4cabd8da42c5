"""Reporter: the one place of a work-horse that speaks for its download, in one thread: progress, lease, and the word of
control.

Problem: a transfer makes thousands of progress reports a second, the lease must be renewed whatever the transfer
does, and a Redis that is silent for a minute must not stop the bytes nor lose the end. The easy way, publishing from
the progress callback, blocks the transfer in Redis. So the callbacks only leave the newest figures here, and this
thread publishes them: at most five times a second, at once when the status changes, and at least with every renewal
of the lease.

The guard: bytes may be written only while the lease is known to hold. When a renewal has not been confirmed in time
the transfer is held, and goes on when it is; when the claim is lost the transfer is stopped, and this process has no
more to say.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import redis

from hive.downloads.claims import Claims
from hive.downloads.record import Ack, AttemptBytes, Claim
from hive.redis.errors import describe
from hive.wire.events import ActiveStatus, Downloading, Event, State
from hive.wire.jobs import Priority
from workers.tally import Tally

log = logging.getLogger("workers.reporter")

#: Seconds between two progress events, and between two in which only figures repeat.
MIN_INTERVAL_S = 0.2
HEARTBEAT_S = 5.0
#: What a download may be asked for from outside.
CONTROL_REQUESTS = ("cancel", "pause", "yield")
#: Renewals in one lease time.
RENEWALS_PER_LEASE = 3
#: Seconds before a failed publish or end is tried again.
REDIS_RETRY_S = 0.3
#: Seconds that the end is tried for while Redis is away, before this process gives up and leaves it to the reaper.
FINISH_PATIENCE_S = 3600.0
#: The same when the process was asked to stop: the reaper will do, and nothing is lost but a few seconds.
HURRIED_PATIENCE_S = 2.0


class TransferControl(Protocol):
    """What the reporter does to the transfer."""

    def cancel(self) -> None:
        """Stop, keeping what is there for a later download."""

    def fence(self) -> None:
        """Stop, and touch nothing more: the files belong to somebody else by now."""

    def confirm(self, until_s: float) -> None:
        """Write on until this moment (monotonic), and not past it before the next word."""

    def hold(self) -> None:
        """Write nothing until released."""

    def release(self) -> None:
        """Go on."""


class Leases(Protocol):
    """What is renewed together with the download's own lease."""

    def renew(self) -> bool:
        """False when one of them was lost."""


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a reporter speaks for. `bytes_floor`: bytes that were shown before, which progress never falls below."""

    claims: Claims
    claim: Claim
    attempt: int
    lease_s: float
    bytes_floor: int = 0
    priority: Priority = "normal"


class Reporter:
    """Speaks for one claimed download until `finish` or `stop`."""

    def __init__(
        self,
        subject: Reported,
        transfer: TransferControl,
        *,
        files: Leases | None = None,
        received: Callable[[], int] = int,
        keep: Callable[[], bool] = bool,
        too_slow: Callable[[Downloading, int], bool] = lambda event, received: False,
    ) -> None:
        """`received` gives the bytes that have come over the network in this attempt; `keep` makes the record again
        where Redis has lost it, and is False where the claim is somebody else's; `too_slow` says, of the present
        figures and the bytes received, whether the worker is to be given back.
        """
        #: The claim is somebody else's; a file is; a person wants the end, or a pause.
        self.lost = False
        self.files_lost = False
        self.cancelled = False
        self.paused = False
        #: An urgent download wants this worker.
        self.yielding = False
        #: It crawls while others wait.
        self.slow = False
        self._too_slow = too_slow
        self._claims = subject.claims
        self._claim = subject.claim
        self._lease_s = subject.lease_s
        self._transfer = transfer
        self._received = received
        self._keep = keep
        self._leases = files
        self._tally = Tally(attempt=subject.attempt, bytes_floor=subject.bytes_floor, priority=subject.priority)
        self._seq = 1
        self._condition = threading.Condition()
        self._urgent = self._changed = self._stopping = False
        self._confirmed_s = time.monotonic()
        self._published_s = 0.0
        self._held = self._hurried = False
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> Reporter:
        """Begin to speak."""
        self._transfer.confirm(self._confirmed_s + self._lease_s)
        self._thread.start()
        return self

    # -- called by the download, from any thread ---------------------------------------------------------------------

    def status(self, status: ActiveStatus, message: str | None = None) -> None:
        """A change of status goes out at once."""
        with self._condition:
            if self._tally.status(status, message):
                self._wake(urgent=True)

    def plan(self, *, bytes_total: int, files_total: int, files_done: int, bytes_done: int) -> None:
        """What there is to do, and how much of it was on disk already."""
        with self._condition:
            self._tally.plan(
                bytes_total=bytes_total, files_total=files_total, files_done=files_done, bytes_done=bytes_done
            )
            self._wake(urgent=True)

    def file(self, path: str, bytes_done: int, bytes_total: int) -> None:
        """One file got further. Bytes count when written."""
        with self._condition:
            self._tally.file(path, bytes_done, bytes_total)
            self._wake()

    def file_done(self, path: str, size: int, refetched: int = 0) -> None:
        """One file is verified and published."""
        with self._condition:
            self._tally.file_done(path, size, refetched)
            self._wake()

    def shorten_patience(self) -> None:
        """The process is to stop: do not wait long for a Redis that is away."""
        self._hurried = True

    def snapshot(self) -> Downloading:
        """The event that says where the download is now."""
        with self._condition:
            return self._tally.event()

    def attempt_bytes(self) -> AttemptBytes:
        """The bytes of this attempt so far."""
        return AttemptBytes(self._received(), self._tally.figures.bytes_refetched)

    def stop(self) -> None:
        """Say nothing more."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    def finish(self, state: State, event: Event, local_path: str = "") -> bool:
        """Say the end, however long Redis is away (an hour at most). False when the claim was lost: the end is
        somebody else's.
        """
        self.stop()
        self._seq += 1
        attempt_bytes = self.attempt_bytes()

        def end() -> bool:
            return self._claims.finish(self._claim, self._seq, state, event, local_path, attempt_bytes)

        return self.retry_while_redis_is_away(lambda: end() or (self._keep() and end())) is True

    def retry_while_redis_is_away(self, call: Callable[[], object]) -> object:
        """The result of a call to Redis, tried again while Redis is away; None when patience ends."""
        began_s = time.monotonic()
        while not self.lost and time.monotonic() < began_s + (
            HURRIED_PATIENCE_S if self._hurried else FINISH_PATIENCE_S
        ):
            try:
                return call()
            except redis.exceptions.RedisError as error:
                log.warning(
                    "Redis does not take the end of the download; trying again",
                    extra={"fields": {"reason": describe(error)}, "repeats": True},
                )
                time.sleep(REDIS_RETRY_S)
        return None

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._speak_until_stopped()
        except Exception:
            # A mistake of ours. Nobody renews the lease from here on, so nothing may be written either.
            log.exception("the reporter failed; stopping the transfer")
            self.lost = True
            self._transfer.fence()

    def _speak_until_stopped(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._due(), timeout=self._next_wait_s())
                if self._stopping:
                    return
                speak, self._urgent, self._changed = self._due(), False, False
                event = self._tally.event()
            self._speak(event if speak or self._heartbeat_due() else None)

    def _due(self) -> bool:
        return self._urgent or (self._changed and time.monotonic() - self._published_s >= MIN_INTERVAL_S)

    def _heartbeat_due(self) -> bool:
        return time.monotonic() - self._published_s >= HEARTBEAT_S

    def _next_wait_s(self) -> float:
        """Until the next renewal, or sooner where there is something to say."""
        return MIN_INTERVAL_S if self._changed else self._lease_s / RENEWALS_PER_LEASE

    def _speak(self, event: Downloading | None) -> None:
        """Publish, or only renew; then do what the answer asks for."""
        asked_s = time.monotonic()
        try:
            if event is None:
                ack = self._claims.renew(self._claim)
            else:
                self._seq += 1
                ack = self._claims.publish(self._claim, self._seq, event, self.attempt_bytes(), self._tally.found)
                self._published_s = asked_s
            if not ack.held and self._keep():
                ack = self._claims.renew(self._claim)
                self._published_s = 0.0
            files_held = self._leases is None or self._leases.renew()
        except redis.exceptions.RedisError as error:
            self._unconfirmed(error, time.monotonic() - asked_s)
            return
        if ack.held and not files_held:
            self.files_lost = True
            self._transfer.fence()
            return
        self._confirmed(ack, asked_s)

    def _confirmed(self, ack: Ack, asked_s: float) -> None:
        self._confirmed_s = asked_s
        if ack.held:
            self._transfer.confirm(asked_s + self._lease_s)
        else:
            self.lost = True
            self._transfer.fence()
            return
        if ack.control in CONTROL_REQUESTS and not (self.cancelled or self.paused or self.yielding):
            self.cancelled, self.paused, self.yielding = (ack.control == word for word in CONTROL_REQUESTS)
            self._transfer.cancel()
        elif not self.slow and self._too_slow(self.snapshot(), self._received()):
            self.slow = True
            self._transfer.cancel()
        if self._held:
            self._held = False
            self._transfer.release()

    def _unconfirmed(self, error: Exception, tried_s: float) -> None:
        """Hold the transfer when the lease may have run out by the end of the next try, which may take as long as this
        one.
        """
        margin_s = max(self._lease_s / RENEWALS_PER_LEASE, tried_s + REDIS_RETRY_S)
        if not self._held and time.monotonic() - self._confirmed_s >= self._lease_s - margin_s:
            log.warning("the lease is unconfirmed; holding the transfer", extra={"fields": {"reason": describe(error)}})
            self._held = True
            self._transfer.hold()
        with self._condition:
            self._changed = True
            self._condition.wait_for(lambda: self._stopping, timeout=REDIS_RETRY_S)

    def _wake(self, *, urgent: bool = False) -> None:
        self._changed = True
        if urgent:
            self._urgent = True
        if urgent or self._due():
            self._condition.notify()
