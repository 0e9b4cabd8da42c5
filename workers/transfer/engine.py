"""`fetch`: one file, from wherever it lies, to a verified and synced partial file.

The story: see what an earlier run left, fetch what is missing, compare the digest, mend what is wrong, sync. Publishing
is the caller's (`finish`).
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from hive.disk_errors import with_path
from hive.errors import ChecksumMismatch, DiskFull, DownloadError, NotAModel, SourceChanged, StoreNotWritable
from hive.net.egress import Network
from workers.transfer.control import Control
from workers.transfer.coordinator import Coordinator, Transports
from workers.transfer.http.pool import HostPool
from workers.transfer.http.transport import HttpTransport
from workers.transfer.limits import Limits
from workers.transfer.progress import OnProgress, Reports, Snapshot, Status
from workers.transfer.source import INSPECTED_BYTES, Fetched, Served, Source
from workers.transfer.state.disk import open_data, reserve, sync_data, translated
from workers.transfer.state.hasher import FrontierHash
from workers.transfer.state.journal import Identity, Journal, boot_id, recover
from workers.transfer.state.journal_writer import JournalWriter
from workers.transfer.state.part_map import Extent, PartMap
from workers.transfer.state.partial import data_path, journal_path, set_aside
from workers.transfer.transport import ByteStream, ContentChanged, ExpectedContent, Presented, RangesRefused, Transport

#: Times that the content may turn out to be another one; the last time it is fetched in one stream.
MOST_CHANGES = 2

#: Rounds of mending single parts before the whole file is fetched once more.
MAX_REPAIR_ROUNDS = 3


def fetch(
    source: Source,
    partial: Path,
    *,
    control: Control | None = None,
    network: Network | None = None,
    on_progress: OnProgress | None = None,
    limits: Limits | None = None,
    shared: HostPool | None = None,
    transports: Sequence[Transport] = (),
) -> Fetched:
    """Fetch `source` to `<partial>.part`, resuming from what is there, and verify it.

    Several may run in as many threads.

    `shared` brings connections to share with other fetches (and its own network); without it the fetch has a pool of
    its own. No thread outlives the call. `transports`: other ways to the same bytes, tried before HTTP. `on_progress`
    is called from this thread.

    Raises Cancelled (or the error given to `control.cancel`), DiskFull, StoreNotWritable, ChecksumMismatch,
    SourceChanged, NotAModel, LengthUnknown, DownloadTimeout, DownloadError, ModelAccessDenied, ModelNotFound,
    RevisionNotFound, FileNotFound, UnsafeUrl. The journal stays, except after ChecksumMismatch, where the file is set
    aside as `<partial>.bad`, and after NotAModel, where nothing stays.
    """
    limits = limits or Limits()
    control = control or Control()
    with contextlib.ExitStack() as stack:
        pool = shared or stack.enter_context(HostPool(network or Network(), limits))
        return _Fetch(source, partial, control, pool, on_progress, limits, transports).run()


class _Fetch:
    """The state of one call of `fetch`."""

    def __init__(
        self,
        source: Source,
        partial: Path,
        control: Control,
        pool: HostPool,
        on_progress: OnProgress | None,
        limits: Limits,
        transports: Sequence[Transport],
    ) -> None:
        self._source = source
        self._partial = partial
        self._control = control
        self._limits = limits
        self._reports = Reports(on_progress, limits)
        self._transports = Transports([*transports, HttpTransport(source, pool, limits)])
        self._small = source.size is not None and source.size < limits.small_file_bytes
        self._solo = False
        self._fd = -1
        self._parts = PartMap(source.size)
        self._known = ExpectedContent(source.size)
        self._etag: str | None = None
        self._served: Served | None = None
        self._inspected = source.inspect is None
        self._journal_writer: JournalWriter | None = None
        self._durable: list[Extent] = []
        self._hash = self._new_hash()
        self._received = 0
        #: Bytes that were on disk when the map was made, and such bytes that were given up since.
        self._base = self._given_up = 0
        self._changes = self._restarts = self._repair_rounds = 0
        self._second_whole = False

    def run(self) -> Fetched:
        """See fetch."""
        began = time.monotonic()
        if self._source.digest is not None:
            self._source.digest.checked()
        self._control.check()
        with translated():
            self._fd = open_data(data_path(self._partial))
        self._hash = self._new_hash()
        try:
            self._resume()
            self._receive()
            while not self._verified():
                self._mend()
                self._receive()
            with translated():
                self._settle_on_disk()
                self._inspect_whole()
            return self._result(time.monotonic() - began)
        except (DiskFull, StoreNotWritable) as error:
            if os.fstat(self._fd).st_blocks:
                self._discard_useless()
            raise with_path(error, data_path(self._partial)) from error
        except BaseException as error:
            self._discard_useless(wrong=isinstance(error, NotAModel))
            raise
        finally:
            self._close()

    # Fetching.

    def _resume(self) -> None:
        """Take over what an earlier run has written; what of it is not believed is given up."""
        if self._small:
            return
        with translated():
            n_bytes, journal = os.fstat(self._fd).st_size, journal_path(self._partial)
            is_new = not n_bytes and not os.path.lexists(journal)
            found = recover(journal, n_bytes, boot_id())
        if is_new:
            return
        if found is None or not self._same_content(found.identity):
            self._tell_given_up()
            return
        if found.told_more:
            self._tell_given_up()
        extents = found.extents
        if self._source.digest is None and sum(e.end - e.start for e in extents) == found.identity.size:
            # One request must be made all the same, to hear whether the content is still that one.
            extents = extents[:-1]
        self._new_map(PartMap(found.identity.size, extents), found.durable)
        self._known = ExpectedContent(found.identity.size, "" if self._source.digest else found.identity.validator)

    def _same_content(self, identity: Identity) -> bool:
        if self._source.size not in (None, identity.size):
            return False
        if self._source.digest is not None:
            return identity.digest == str(self._source.digest)
        return not identity.digest and bool(identity.validator)

    def _receive(self) -> None:
        """Fetch until no byte is missing, from the start again where that is the only way."""
        while not self._parts.complete:
            try:
                self._transfer_round()
            except RangesRefused:
                self._restarts += 1
                if self._restarts > self._limits.attempts_max:
                    raise DownloadError("The server allows no resuming, and breaks off each time.") from None
                self._start_over(solo=True)
            except ContentChanged:
                self._changes += 1
                if self._changes > MOST_CHANGES:
                    raise SourceChanged from None
                # Servers of one name may have an ETag each, for one content: a single answer is of one in any case.
                self._start_over(solo=self._changes > 1)

    def _transfer_round(self) -> None:
        coordinator = Coordinator(
            self._fd,
            self._parts,
            self._transports,
            self._control,
            self._limits,
            known=self._known,
            pinned=self._source.digest is not None,
            solo=self._solo,
            on_settled=self._settled,
            on_wrote=self._wrote,
            on_look=self._report,
        )
        if self._small:
            coordinator.run_inline()
            return
        self._hash.start()
        coordinator.run()

    def _settled(self, stream: ByteStream) -> None:
        """The first answer is good: make room, and begin the journal."""
        self._etag = stream.etag
        self._served = stream.served if isinstance(stream, Presented) else None
        size = self._parts.size
        if size is None:
            return
        with translated(needed=size):
            if size:
                reserve(self._fd, size, self._limits)
            if (
                not self._small
                and self._journal_writer is None
                and (self._source.digest is not None or stream.validator)
            ):
                self._begin_journal(size, stream.validator)
            elif self._journal_writer is None:
                # What an older journal says of the data file is about to be overwritten.
                journal_path(self._partial).unlink(missing_ok=True)

    def _begin_journal(self, size: int, validator: str) -> None:
        identity = Identity(size, str(self._source.digest or ""), validator)
        journal = Journal(journal_path(self._partial), identity, boot_id(), self._parts.extents(), self._durable)
        self._journal_writer = JournalWriter(self._fd, journal, self._parts, self._control, self._limits)
        self._journal_writer.start()

    def _wrote(self, n_bytes: int) -> None:
        self._received += n_bytes
        if not self._inspected and self._parts.frontier >= INSPECTED_BYTES:
            self._inspect_head()
        if self._journal_writer is not None:
            self._journal_writer.wrote()

    def _start_over(self, *, solo: bool) -> None:
        """Forget everything on disk; the bytes stay there and are overwritten."""
        self._tell_given_up()
        self._stop_journal_writer()
        with translated():
            journal_path(self._partial).unlink(missing_ok=True)
        self._given_up += self._base
        self._new_map(PartMap(self._source.size), [])
        self._known = ExpectedContent(self._source.size)
        self._solo = solo

    def _new_map(self, parts: PartMap, durable: list[Extent]) -> None:
        self._hash.stop()
        self._parts, self._durable = parts, durable
        self._base = parts.written
        self._hash = self._new_hash()

    def _new_hash(self) -> FrontierHash:
        algorithm = self._source.digest.algorithm if self._source.digest else "sha256"
        return FrontierHash(self._fd, self._parts, algorithm, self._limits.hash_block_bytes)

    # Verifying.

    def _verified(self) -> bool:
        """Whether the digest is the one asked for; true also when none was."""
        if self._small:
            with translated():
                self._hash.catch_up()
        else:
            self._hash.start()
            while not self._hash.wait(self._limits.tick_s):
                self._control.check()
                self._report("verifying", None, 0)
            self._raise_from_helpers()
        return self._source.digest is None or self._hash.hexdigest() == self._source.digest.hex

    def _mend(self) -> None:
        """Give up what is wrong on disk, so that it is fetched again.

        Raises ChecksumMismatch when nothing is left to try.

        A part whose CRC is not the one it arrived with was spoiled here, and it alone is fetched again. If all are as
        they arrived, the source sent wrong bytes: then everything once more, over the other transport, in one stream.
        """
        self._tell_given_up()
        self._repair_rounds += 1
        bad = self._spoiled() if self._repair_rounds <= MAX_REPAIR_ROUNDS else []
        if bad:
            self._stop_journal_writer()
            self._hash.stop()
            self._parts.forget(bad)
            self._hash = self._new_hash()
            if not self._small:
                # At once: a kill must find neither the bad parts in a journal nor the good ones without.
                with translated():
                    sync_data(self._fd)
                    self._durable = self._parts.extents()
                    self._begin_journal(self._parts.size or 0, "")
        elif not self._second_whole:
            self._second_whole = True
            self._transports.fail_over()
            self._start_over(solo=True)
        else:
            self._stop_journal_writer()
            with translated():
                set_aside(self._partial)
            raise ChecksumMismatch

    def _tell_given_up(self) -> None:
        """Before it is so: a kill must not come between."""
        if self._source.on_give_up is not None:
            self._source.on_give_up()

    def _spoiled(self) -> list[Extent]:
        """The extents whose bytes on disk are not those that arrived."""
        bad = []
        buffer = memoryview(bytearray(self._limits.hash_block_bytes))
        for extent in self._parts.extents():
            crc, at = 0, extent.start
            while at < extent.end:
                self._control.check()
                self._report("verifying", "the digest is wrong; looking for the bad part", 0)
                with translated():
                    n_bytes = os.preadv(self._fd, [buffer[: extent.end - at]], at)
                if n_bytes == 0:
                    break
                crc = zlib.crc32(buffer[:n_bytes], crc)
                at += n_bytes
            if crc != extent.crc or at != extent.end:
                bad.append(extent)
        return bad

    # Looking inside, where no digest vouches for the content.

    def _inspect_head(self) -> None:
        """Raises what `Source.inspect` does."""
        if self._source.inspect is not None and self._served is not None:
            with translated():
                head = os.pread(self._fd, INSPECTED_BYTES, 0)
            self._source.inspect(self._served, head)
        # Not before: where the last byte came along with these, nobody hears this error, and it is looked at once more.
        self._inspected = True

    def _inspect_whole(self) -> None:
        """Raises what the source's functions do, and OSError."""
        if not self._inspected:
            self._inspect_head()
        if self._source.inspect_whole is not None and self._served is not None:
            self._source.inspect_whole(self._served, self._fd)

    # Ending.

    def _settle_on_disk(self) -> None:
        """Everything durable, and nothing behind the last byte; raises OSError."""
        size = self._parts.size or 0
        if os.fstat(self._fd).st_size > size:
            os.ftruncate(self._fd, size)
        if self._journal_writer is not None:
            self._journal_writer.sync()
        else:
            sync_data(self._fd)

    def _result(self, seconds: float) -> Fetched:
        return Fetched(
            path=data_path(self._partial),
            size=self._parts.size or 0,
            digest_hex=self._hash.hexdigest(),
            etag=self._etag,
            bytes_refetched=self._refetched,
            seconds=seconds,
            verified=self._source.digest is not None,
            served=self._served,
        )

    def _close(self) -> None:
        """End the helpers. What was written is recorded and synced, unless the files belong to somebody else by now."""
        self._hash.stop()
        journal_writer = self._journal_writer
        with contextlib.suppress(OSError):
            if journal_writer is not None and not journal_writer.forbidden and not self._parts.complete:
                journal_writer.sync()
        self._stop_journal_writer()
        os.close(self._fd)

    def _discard_useless(self, *, wrong: bool = False) -> None:
        """Remove what arrived where it is `wrong`, or nobody could go on from it: it would only take the room.

        Not where the files belong to somebody else by now.
        """
        if self._control.fenced:
            return
        with contextlib.suppress(OSError):
            if wrong:
                self._stop_journal_writer()
                journal_path(self._partial).unlink(missing_ok=True)
            if not journal_path(self._partial).exists():
                data_path(self._partial).unlink(missing_ok=True)

    def _stop_journal_writer(self) -> None:
        if self._journal_writer is not None:
            self._journal_writer.stop()
        self._journal_writer = None

    @property
    def _refetched(self) -> int:
        return max(0, self._received + self._given_up - (self._parts.written - self._base))

    def _report(self, status: Status, message: str | None, connections: int) -> None:
        self._raise_from_helpers()
        if self._reports.due(status):
            size = self._parts.size if self._parts.size is not None else self._source.size
            self._reports.tell(Snapshot(self._parts.written, size, self._refetched, connections, status, message))

    def _raise_from_helpers(self) -> None:
        """The errors of the threads that hash and keep the journal."""
        for helper in (self._hash, self._journal_writer):
            if helper is not None and helper.error is not None:
                raise helper.error
