"""The coordinator of a file's connections.

It runs in the thread that called `fetch`: it starts connections, watches for stalls, reports, and ends everything on
the first error or cancel. No connection outlives it: each is woken by shutting its socket down and then waited for. A
small file has no threads at all, the caller's reads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from hive.errors import LengthUnknown, ResourcesExhausted
from workers.transfer import threads
from workers.transfer.concurrency import ConnectionCount
from workers.transfer.connection import PartFetcher
from workers.transfer.control import Control
from workers.transfer.limits import MIB, Limits
from workers.transfer.progress import Status
from workers.transfer.stall import StallDetector
from workers.transfer.state.disk import check_room
from workers.transfer.state.part_map import UNKNOWN_END, PartMap, Piece
from workers.transfer.transport import (
    ByteStream,
    ExpectedContent,
    HasLimits,
    Presented,
    RangesRefused,
    Remembering,
    Sparing,
    Transport,
    Unusable,
)

log = logging.getLogger("workers.transfer")

#: Bytes that must fit besides what is kept free, while nobody knows where the file ends.
ROOM_AHEAD_BYTES = 256 * MIB

#: Seconds after which the caller's limit is asked again: it may have been changed.
SHARE_LOOK_S = 0.5

#: Seconds without a wait after which the caller's limit is none.
LIMITED_S = 2.0

#: Seconds that connections get to finish in good order when the last byte is there, so that they can be kept.
GRACE_S = 1.0


class Coordinator:
    """Fetches what a map is missing. Made for one round; `run` once."""

    def __init__(
        self,
        fd: int,
        parts: PartMap,
        transports: Transports,
        control: Control,
        limits: Limits,
        *,
        known: ExpectedContent,
        pinned: bool,
        solo: bool,
        on_settled: Callable[[ByteStream], None],
        on_wrote: Callable[[int], None],
        on_look: Callable[[Status, str | None, int], None],
    ) -> None:
        """`pinned`: a digest says what the bytes must be. `solo`: one stream from the first byte, without ranges.

        `on_settled(stream)` is called once, before the first byte is read; `on_look(status, message, connections)`
        often, from the coordinator's thread.
        """
        self.fd = fd
        self.parts = parts
        self._caller = self.control = control
        self.limits = limits
        self.progress = StallDetector(limits.give_up_s, limits)
        self.moved = 0
        self._transports = transports
        self._known = known
        self._pinned = pinned
        self._solo = solo
        self._on_settled = on_settled
        self._on_wrote = on_wrote
        self._on_look = on_look
        self._settled = False
        self._all_idle = StallDetector(limits.stall_all_s, limits)
        self._count = ConnectionCount(limits)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._look_now = threading.Event()
        self._connections: dict[PartFetcher, threading.Thread | None] = {}
        self._error: BaseException | None = None
        #: What `on_wrote` raised: the last byte's too ends the fetch.
        self._objection: BaseException | None = None
        #: When a connection was last held back by the caller's limit.
        self._limited_s = -LIMITED_S
        self._inline = False

    # The coordinator's side.

    def run(self) -> None:
        """Until no byte is missing. Raises the first error of a connection, or the error of `control.cancel`."""
        with self._caller.child() as self.control, self.control.waking(self._halt):
            try:
                while not self.parts.complete:
                    self._run_turn()
                    self._look_now.wait(self.limits.tick_s)
                    self._look_now.clear()
            finally:
                self._stop_all()
        self._check_objection()

    def run_inline(self) -> None:
        """The same with one connection, in this thread."""
        self._inline = True
        connection = PartFetcher(self)
        self._connections[connection] = None
        with self._caller.child() as self.control, self.control.waking(self._halt):
            connection.run()
            self.control.check()
        self._check_objection()

    def attend(self) -> None:
        """Look around from a connection's loop, where there is no other thread to do so."""
        if self._inline:
            self._look()

    def _run_turn(self) -> None:
        self._caller.check()
        self._check_objection()
        if self._error is not None:
            raise self._error
        self._look()
        if self._settled and self.parts.size is None:  # before the first answer nobody has said how long it is
            self._check_undeclared()
            check_room(self.fd, ROOM_AHEAD_BYTES, self.limits)
        if self.control.waiting:
            return
        if self._settled and not self._solo and not self.limited:
            self._count.look(time.monotonic(), self.moved)
        # A bounded number a look: a connection may be gone, with an error, before the next one is made.
        limits = self._transports.limits(self.limits)
        for _ in range(self._connections_wanted - len(self._connections)):
            if self._error is None and self.parts.has_work(limits.steal_min_bytes):
                self._start_one()

    def _check_objection(self) -> None:
        if self._objection is not None:
            raise self._objection

    def _check_undeclared(self) -> None:
        """Raise LengthUnknown when more has come than a body may have whose server names no length."""
        most = self.limits.undeclared_max_bytes
        if self.parts.written > most:
            raise LengthUnknown(
                f"The server names no length, and has sent more than {most} bytes: hive stops there. "
                "Raise HIVE_MAX_UNDECLARED_BYTES for the workers if the file is so long."
            )

    def _start_one(self) -> None:
        connection = PartFetcher(self)
        thread = threading.Thread(target=self._run_one, args=(connection,), name="transfer-connection", daemon=True)
        with self._lock:
            self._connections[connection] = thread
        try:
            threads.start(thread)
        except ResourcesExhausted as error:
            if not self._does_without(connection):
                raise
            log.warning("another connection is left out", extra={"fields": {"reason": error.message}, "repeats": True})

    def _does_without(self, connection: PartFetcher) -> bool:
        """Whether there are others than this one, which could not begin: then it stays at those for a while."""
        with self._lock:
            del self._connections[connection]
            self._count.refused(time.monotonic(), len(self._connections))
            return bool(self._connections)

    def _look(self) -> None:
        """Watch for stalls, and report."""
        if self.control.waiting:
            self.progress.restart()
            self._all_idle.restart()
        connections = self._current_connections()
        reasons = [connection.waiting for connection in connections if connection.waiting]
        reason = reasons[-1] if reasons else None
        self.progress.check(reason)
        if self._all_idle.stalled:
            self._all_idle.restart()
            self._transports.give_way()
            self._abort(connections)
        n_open = sum(connection.stream is not None for connection in connections)
        if self.control.waiting:
            held = "waiting for the lease" if self.control.waiting == "held" else None
            self._on_look("paused", held, n_open)
        elif reason is not None and len(reasons) == len(connections):
            self._on_look("retrying", reason, n_open)
        else:
            self._on_look("downloading", None, n_open)

    def _run_one(self, connection: PartFetcher) -> None:
        try:
            connection.run()
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
        finally:
            with self._lock:
                del self._connections[connection]
            self._look_now.set()

    def _stop_all(self) -> None:
        if self.parts.complete:
            self._join(GRACE_S)
        # Ends whatever a connection may be blocked in: a gate, a connect, the wait for an answer, a read.
        self.control.cancel()
        self._join(None)

    def _join(self, timeout_s: float | None) -> None:
        with self._lock:
            running = list(self._connections.values())
        for thread in running:
            threads.join(thread, timeout_s)

    def _abort(self, connections: list[PartFetcher]) -> None:
        for connection in connections:
            stream = connection.stream
            if stream is not None:
                stream.abort()

    def _halt(self) -> None:
        self._stop.set()
        self._look_now.set()

    def _current_connections(self) -> list[PartFetcher]:
        with self._lock:
            return list(self._connections)

    # The connections' side.

    @property
    def stopping(self) -> bool:
        """Whether connections should leave."""
        return self._stop.is_set()

    @property
    def resumable(self) -> bool:
        """Whether a second request is sure to be for the same content as the first."""
        return self._pinned or bool(self._known.validator)

    @property
    def _connections_wanted(self) -> int:
        """How many connections are worth having over the transport in use."""
        return min(self._count.target, self._transports.limits(self.limits).connections_max)

    @property
    def bytes_missing(self) -> int:
        """Bytes that are still to be written, as far as is known."""
        return (self.parts.size or 0) - self.parts.written

    def next_piece(self, connection: PartFetcher) -> Piece | None:
        """The next piece for this connection, or None: then it leaves."""
        with self._lock:
            # Those that are on their way out, or have brought nothing, take no place from one that reads: of a server
            # that leaves some of them hanging, those that it serves would be given up.
            others = [other for other in self._connections if other is not connection]
            readers = sum(other.brings and not other.leaving for other in others)
            if self.stopping or (not self._inline and readers >= self._connections_wanted):
                connection.leaving = True
                return None
        limits = self._transports.limits(self.limits)
        part_bytes = UNKNOWN_END if self._solo or self._inline else limits.part_bytes(self.parts.size)
        return self.parts.take(part_bytes, limits.steal_min_bytes)

    def open(self, piece: Piece, connection: PartFetcher) -> ByteStream:
        """Ask for the rest of a piece; raises what Transport.open raises."""
        current = self._transports.current
        end = None if self._solo and piece.at == 0 else piece.end
        team = self._current_connections()
        # One that has brought bytes itself may have lost its socket to another, which has none yet.
        if isinstance(current, Sparing) and len(team) > 1 and any(member.brings for member in team):
            return current.open_spare(piece.at, end, self._known, self.control)
        return current.open(piece.at, end, self._known, self.control)

    def give_up(self, failure: Unusable) -> None:
        """A transport does not bring this file: the next one takes over, where it left off."""
        if self._transports.give_up(failure.transport):
            log.warning(
                "this transport does not bring the file; going on over another",
                extra={"fields": {"transport": failure.transport.name, "reason": str(failure)}},
            )

    def accept(self, stream: ByteStream, piece: Piece) -> None:
        """Agree to an answer before its first byte is written; raises RangesRefused when it does not fit."""
        with self._lock:
            if not self._settled:
                self._settle(stream, piece)
                self._known = ExpectedContent(self.parts.size, "" if self._pinned else stream.validator)
                self._on_settled(stream)
                self._settled = True

    def _settle(self, stream: ByteStream, piece: Piece) -> None:
        """Whether one stream or many, and how long the file is: the first answer decides."""
        if not stream.whole and (stream.total is None or not (self._pinned or stream.validator)):
            # Nobody says where the file ends, or that two answers are of the same content.
            raise RangesRefused
        if isinstance(stream, Presented) and not stream.delimited and self.parts.size is None and not self._pinned:
            raise LengthUnknown
        try:
            if stream.total is not None and self.parts.size is None:
                self.parts.set_size(stream.total)
            if stream.whole:
                self._solo = True
                self.parts.take_all(piece)
        except ValueError:
            raise RangesRefused from None

    def ends_at(self, at: int) -> bool:
        """Whether a whole stream that ended at `at` was complete; says so where nobody knew the size."""
        if self.parts.size is None:
            self.parts.set_size(at)
        return self.parts.size == at

    def wrote(self, n_bytes: int) -> None:
        """Bytes are on disk."""
        with self._lock:
            self.moved += n_bytes
            try:
                self._on_wrote(n_bytes)
            except BaseException as error:
                self._objection = self._objection or error
                self._look_now.set()
                raise
        self.progress.add(n_bytes)
        self._all_idle.add(n_bytes)
        self.attend()

    def await_share(self, bandwidth: Callable[[int], float | None], n_bytes: int) -> float:
        """Wait for the caller's limit, or until the coordinator stops; gives the seconds it took. This is no stall."""
        began_s = step_s = time.monotonic()
        wait_s = bandwidth(n_bytes)
        while wait_s and not self.stopping:
            self._limited_s = time.monotonic()
            self.rest(min(wait_s, SHARE_LOOK_S))
            now_s = time.monotonic()
            self._excuse(now_s - step_s)
            step_s = now_s
            wait_s = bandwidth(0)
        now_s = time.monotonic()
        self._excuse(now_s - step_s)
        return now_s - began_s

    @property
    def limited(self) -> bool:
        """Whether the caller's limit holds the connections of a large file back: then more of them gain nothing, and
        each brings a buffer full of bytes that were not allowed yet.
        """
        return not self._inline and time.monotonic() - self._limited_s < LIMITED_S

    def _excuse(self, seconds: float) -> None:
        self.progress.excuse(seconds)
        self._all_idle.excuse(seconds)

    def throttled(self) -> None:
        """The server wants fewer connections."""
        with self._lock:
            self._count.throttled(time.monotonic())

    def spares(self, connection: PartFetcher, *, reading: bool = False) -> bool:
        """Whether the file does without this connection, whose request was refused: bytes have come, so the server only
        wants fewer connections at a time, and others are left. It leaves then. `reading`: others must be at it now.
        """
        with self._lock:
            others = [other for other in self._connections if other is not connection and not other.leaving]
            if not self.moved or not (any(other.brings for other in others) if reading else others):
                return False
            connection.leaving = True
            self._count.refused(time.monotonic(), len(others))
            return True

    def rest(self, seconds: float) -> None:
        """Wait, but not longer than until the coordinator stops."""
        deadline_s = time.monotonic() + seconds
        while not self.stopping and (left_s := deadline_s - time.monotonic()) > 0:
            self.attend()
            self._stop.wait(min(left_s, self.limits.progress_interval_s))


class Transports:
    """The ways to get the file, the preferred one first."""

    def __init__(self, transports: list[Transport]) -> None:
        self._transports = transports
        self._at = 0
        self._lock = threading.Lock()

    @property
    def current(self) -> Transport:
        """The one in use."""
        with self._lock:
            return self._transports[self._at]

    def limits(self, usual: Limits) -> Limits:
        """The numbers that suit the one in use."""
        current = self.current
        return current.limits if isinstance(current, HasLimits) else usual

    def give_way(self) -> None:
        """The one in use has fallen silent: the next one, and whoever remembers such a thing is told."""
        current = self.current
        if isinstance(current, Remembering):
            current.fell_silent()
        self.fail_over()

    def fail_over(self) -> None:
        """Nothing moves: the next one, or the same with a fresh location."""
        with self._lock:
            self._at = (self._at + 1) % len(self._transports)
        self.current.refresh()

    def give_up(self, transport: Transport) -> bool:
        """Never use this one again for this file. False when that is known already, or it is the only one."""
        with self._lock:
            if transport not in self._transports or len(self._transports) == 1:
                return False
            current = self._transports[self._at]
            self._transports = [other for other in self._transports if other is not transport]
            self._at = self._transports.index(current) if current in self._transports else 0
            return True
