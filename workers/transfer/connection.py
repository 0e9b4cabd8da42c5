"""One connection at work: takes a piece, asks for it, writes what comes, tries again, takes the next."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Protocol

from hive.errors import DownloadError, SourceChanged
from workers.transfer.backoff import Attempts
from workers.transfer.control import Control
from workers.transfer.limits import Limits
from workers.transfer.stall import StallDetector
from workers.transfer.state.disk import translated, write_all
from workers.transfer.state.part_map import PartMap, Piece
from workers.transfer.transport import (
    Busy,
    ByteStream,
    Declined,
    NameUnknown,
    Narrowable,
    RangesRefused,
    Silent,
    Throttled,
    Transient,
    Unusable,
)

#: Seconds that the last connection waits at most before it asks again after a refusal.
REFUSED_WAIT_MAX_S = 5.0

#: Requests in a row without a byte (a reset, a 5xx) after which a connection is left out while others read.
UNANSWERED_MAX = 2


#: Times that a name which DNS does not know is asked for within its grace.
NAME_TRIES = 3


class Coordination(Protocol):
    """What a connection asks of the coordinator of its file, and tells it. Safe to call from any thread."""

    fd: int
    parts: PartMap
    control: Control
    limits: Limits
    #: Bytes that all connections have brought.
    moved: int

    @property
    def stopping(self) -> bool:
        """Whether connections should leave."""

    @property
    def resumable(self) -> bool:
        """Whether a second request is sure to be for the same content as the first."""

    @property
    def limited(self) -> bool:
        """Whether the caller's limit holds the connections back."""

    @property
    def bytes_missing(self) -> int:
        """Bytes that are still to be written, as far as is known."""

    def next_piece(self, connection: PartFetcher) -> Piece | None:
        """The next piece for this connection, or None: then it leaves."""

    def open(self, piece: Piece, connection: PartFetcher) -> ByteStream:
        """Ask for the rest of a piece, on behalf of this connection."""

    def accept(self, stream: ByteStream, piece: Piece) -> None:
        """Agree to an answer before its first byte is written."""

    def ends_at(self, at: int) -> bool:
        """Whether a whole stream that ended at `at` was complete."""

    def wrote(self, n_bytes: int) -> None:
        """Bytes are on disk."""

    def await_share(self, bandwidth: Callable[[int], float | None], n_bytes: int) -> float:
        """Wait for the caller's limit; gives the seconds it took."""

    def attend(self) -> None:
        """Look around, where no other thread does."""

    def rest(self, seconds: float) -> None:
        """Wait, but not longer than until the coordinator stops."""

    def throttled(self) -> None:
        """The server wants fewer connections."""

    def spares(self, connection: PartFetcher, *, reading: bool = False) -> bool:
        """Whether the file does without this connection."""

    def give_up(self, failure: Unusable) -> None:
        """A transport does not bring this file."""


class PartFetcher:
    """Runs in a thread of its own, or in the caller's for small files."""

    def __init__(self, coordinator: Coordination) -> None:
        self._coordinator = coordinator
        self._attempts = Attempts(coordinator.limits)
        #: Bytes of the whole file at the last failure.
        self._moved_before = 0
        #: The answer that is being read; others may abort it.
        self.stream: ByteStream | None = None
        #: Why nothing moves, while waiting for another try.
        self.waiting: str | None = None
        #: Whether it is on its way out: the server does not want so many.
        self.leaving = False
        #: When its server's name was first unknown.
        self._nameless_s: float | None = None
        #: Requests in a row that brought not one byte, the present one included.
        self._unanswered = 0
        #: Whether its latest request with an end brought bytes, or the present one does.
        self.brings = False

    def run(self) -> None:
        """Until no piece is left, or the coordinator stops. Raises what ends the download."""
        coordinator = self._coordinator
        while not self.leaving and (piece := coordinator.next_piece(self)) is not None:
            try:
                while not (piece.done or coordinator.stopping or self.leaving):
                    self._try(piece)
            finally:
                coordinator.parts.give_back(piece)

    def _try(self, piece: Piece) -> None:
        """One request. A failure that may pass is waited out here."""
        coordinator = self._coordinator
        try:
            self._request(piece)
        except Throttled as refusal:
            coordinator.throttled()
            self._wait(str(refusal), refusal.seconds or coordinator.limits.backoff_min_s)
        except Unusable as failure:
            coordinator.give_up(failure)
            self._attempts.reset()
        except Declined as refusal:
            if not coordinator.spares(self):
                self._ask_again(refusal)
        except (RangesRefused, SourceChanged):
            if not coordinator.spares(self):
                raise
        except Transient as failure:
            self._failed(failure, piece)

    def _ask_again(self, refusal: Declined) -> None:
        """The last connection is refused: wait for a location that is not, or raise what the refusal means.

        A signed link may be refused although it is fresh (a clock that is behind, a key that has not spread), and a
        server that has brought bytes may be out of sorts.
        """
        coordinator = self._coordinator
        if refusal.final or not (refusal.curable or coordinator.moved) or coordinator.control.cancelled:
            raise refusal.error from None
        self._reset_if_moved()
        try:
            wait_s = self._attempts.failed(str(refusal))
        except DownloadError:
            raise refusal.error from None
        self._wait(str(refusal), min(wait_s, REFUSED_WAIT_MAX_S))

    def _failed(self, failure: Transient, piece: Piece) -> None:
        """Wait for another try, leave it to the others, or raise what ends the download."""
        coordinator = self._coordinator
        if coordinator.stopping:
            return
        self.brings = self.brings and not self._unanswered
        if isinstance(failure, Busy):
            coordinator.throttled()
        # Silence has cost more time than any other failure, so it is not asked for twice.
        most = 1 if isinstance(failure, Silent) else UNANSWERED_MAX
        if self._unanswered >= most and coordinator.spares(self, reading=True):
            return
        if isinstance(failure, NameUnknown):
            self._wait_for_name(failure)
            return
        self._reset_if_moved()
        if not coordinator.resumable and piece.at > 0:
            # Nothing says that a second answer would be of the same content.
            raise RangesRefused from None
        self._wait(str(failure), self._attempts.failed(str(failure)))

    def _wait_for_name(self, failure: NameUnknown) -> None:
        """A network that comes up knows no names for a moment; then there is no such host. Raises DownloadError.

        One that brought bytes before is waited for as for any other server.
        """
        coordinator = self._coordinator
        now_s = time.monotonic()
        if self._nameless_s is None or coordinator.moved:
            self._nameless_s = now_s
        if now_s - self._nameless_s >= coordinator.limits.name_grace_s:
            why = f"{failure}: DNS does not know the name"
            raise DownloadError(f"The server cannot be reached: {why}. Check the address, and the network.") from None
        if coordinator.moved:
            self._wait(str(failure), self._attempts.failed(str(failure)))
        else:
            self._wait(str(failure), coordinator.limits.name_grace_s / NAME_TRIES)

    def _reset_if_moved(self) -> None:
        """Attempts start over when the file moved."""
        coordinator = self._coordinator
        if coordinator.moved - self._moved_before >= coordinator.limits.stall_s * coordinator.limits.min_bytes_per_s:
            self._attempts.reset()
        self._moved_before = coordinator.moved

    def _request(self, piece: Piece) -> None:
        coordinator = self._coordinator
        self._unanswered += 1
        stream = coordinator.open(piece, self)
        try:
            self.stream = stream
            with coordinator.control.waking(stream.abort):
                if not coordinator.stopping:
                    coordinator.accept(stream, piece)
                    self._read(stream, piece)
        finally:
            self.stream = None
            stream.close()

    def _read(self, stream: ByteStream, piece: Piece) -> None:
        """Write the stream where it belongs, until the piece is done or the stream is."""
        coordinator = self._coordinator
        progress = StallDetector(coordinator.limits.stall_s, coordinator.limits)
        for chunk in stream.chunks():
            waited_s = self._allowance(len(chunk))
            if coordinator.stopping:
                return
            self._write(chunk, piece)
            if piece.done or waited_s > coordinator.limits.pause_keeps_connection_s:
                return
            progress.add(len(chunk))
            progress.excuse(waited_s)
            if progress.stalled:
                raise Transient("the server sends next to nothing")
        coordinator.control.check()
        if not stream.whole or not coordinator.ends_at(piece.at):
            raise Transient("the answer ended early")

    def _allowance(self, n_bytes: int) -> float:
        """Wait until `n_bytes` may be written; gives the seconds it took. Raises the error of `control.cancel`."""
        coordinator = self._coordinator
        control = coordinator.control
        waited_s = 0.0
        if control.bandwidth is not None:
            waited_s = coordinator.await_share(control.bandwidth, n_bytes)
            if coordinator.limited and isinstance(self.stream, Narrowable):
                self.stream.narrow()
            # A limit of the caller's is no reason to close the connection.
            waited_s = min(waited_s, coordinator.limits.pause_keeps_connection_s)
        if control.waiting:
            coordinator.attend()
        return waited_s + control.gate()

    def _write(self, chunk: memoryview, piece: Piece) -> None:
        coordinator = self._coordinator
        data = chunk[: coordinator.parts.claim(piece, len(chunk))]
        with translated(needed=coordinator.bytes_missing):
            write_all(coordinator.fd, data, piece.at)
        coordinator.parts.advance(piece, len(data), zlib.crc32(data, piece.crc))
        self._unanswered = 0
        self.brings = True
        coordinator.wrote(len(data))

    def _wait(self, reason: str, seconds: float) -> None:
        self.waiting = reason
        try:
            self._coordinator.rest(seconds)
        finally:
            self.waiting = None
