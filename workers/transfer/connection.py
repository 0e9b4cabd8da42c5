"""One connection at work: takes a piece, asks for it, writes what comes, tries again, takes the next."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from workers.transfer.backoff import Attempts
from workers.transfer.stall import StallDetector
from workers.transfer.state.disk import translated, write_all
from workers.transfer.state.part_map import Piece
from workers.transfer.transport import Busy, Narrowable, RangesRefused, Stream, Throttled, Transient, Unusable

if TYPE_CHECKING:
    from workers.transfer.coordinator import Coordinator


class Connection:
    """Runs in a thread of its own, or in the caller's for small files."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._attempts = Attempts(coordinator.limits)
        #: Bytes of the whole file at the last failure.
        self._moved_before = 0
        #: The answer that is being read; others may abort it.
        self.stream: Stream | None = None
        #: Why nothing moves, while waiting for another try.
        self.waiting: str | None = None

    def run(self) -> None:
        """Until no piece is left, or the coordinator stops. Raises what ends the download."""
        coordinator = self._coordinator
        while (piece := coordinator.next_piece()) is not None:
            try:
                while not piece.done and not coordinator.stopping:
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
        except Transient as failure:
            if coordinator.stopping:
                return
            if isinstance(failure, Busy):
                coordinator.throttled()
            if (
                coordinator.moved - self._moved_before
                >= coordinator.limits.stall_s * coordinator.limits.min_bytes_per_s
            ):
                self._attempts.reset()
            self._moved_before = coordinator.moved
            if not coordinator.resumable and piece.at > 0:
                # Nothing says that a second answer would be of the same content.
                raise RangesRefused from None
            self._wait(str(failure), self._attempts.failed(str(failure)))

    def _request(self, piece: Piece) -> None:
        coordinator = self._coordinator
        stream = coordinator.open(piece)
        try:
            self.stream = stream
            with coordinator.control.waking(stream.abort):
                if not coordinator.stopping:
                    coordinator.accept(stream, piece)
                    self._read(stream, piece)
        finally:
            self.stream = None
            stream.close()

    def _read(self, stream: Stream, piece: Piece) -> None:
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
        coordinator.wrote(len(data))

    def _wait(self, reason: str, seconds: float) -> None:
        self.waiting = reason
        try:
            self._coordinator.rest(seconds)
        finally:
            self.waiting = None
