"""What a worker notes in the intent log of the download it holds, and how it keeps it when Redis has lost the record.

Trouble with these notes is no reason to stop a download: they are logged, and the download goes on without.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import msgspec
from redis.exceptions import RedisError

from hive.downloads.cleanup import close
from hive.downloads.intents import Attempt, IntentLog, intent_of
from hive.downloads.record import Claim, Record
from hive.downloads.restore import is_held_by, restore
from hive.downloads.tracker import DownloadTracker
from hive.redis_client import RedisClient
from hive.secrets import SECRET_TTL_S
from hive.settings import Settings
from hive.wire import keys
from hive.wire.events import Downloading

log = logging.getLogger("workers.intent")


class Holding:
    """The intent log's side of one claimed download. Only `keep` raises, and only redis-py's errors."""

    def __init__(
        self,
        settings: Settings,
        client: RedisClient,
        tracker: DownloadTracker,
        record: Record,
        claim: Claim,
        worker: str,
    ) -> None:
        self._settings = settings
        self._redis = client
        self._tracker = tracker
        self._record = record
        self._intents = IntentLog(settings)
        #: The sealed credentials of the request, which Redis loses together with the record.
        self.secret: bytes | None = None
        self._hold = Attempt(attempt=record.attempt, fence=claim.fence, worker=worker, bytes_done=record.bytes_done)

    def begin(self) -> None:
        """Note the hold, and the request where the HTTP process died before it could."""
        with _noted():
            if self._intents.read(self._record.id) is None:
                self._intents.write(intent_of(self._record))
            earlier = self._intents.read_hold(self._record.id)
            if earlier is not None:
                self._hold = msgspec.structs.replace(
                    self._hold, partials=earlier.partials, bytes_total=earlier.bytes_total
                )
            self._intents.write_hold(self._record.id, self._hold)

    def plan(self, partials: Sequence[str], bytes_total: int) -> None:
        """Note the partial files that it will write."""
        self._hold = msgspec.structs.replace(self._hold, partials=tuple(partials), bytes_total=bytes_total)
        with _noted():
            self._intents.write_hold(self._record.id, self._hold)

    def let_go(self, figures: Downloading) -> None:
        """Note that this worker has given it back, or set it aside, and how far it is."""
        self._hold = msgspec.structs.replace(
            self._hold, held=False, bytes_done=figures.bytes_downloaded, bytes_total=figures.bytes_total
        )
        with _noted():
            self._intents.write_hold(self._record.id, self._hold)

    def keep(self) -> bool:
        """Make the record again if Redis has lost it. False where the download has ended or is somebody else's.

        A process that slept through the end of its download finds no file of it in the intent log, and one that slept
        through an attempt of another worker finds that one's.
        """
        record = self._tracker.read(self._record.id)
        with _noted():
            entry, hold = self._intents.read(self._record.id), self._intents.read_hold(self._record.id)
            ours = hold is not None and hold.fence == self._hold.fence
            if record is None and ours and entry is not None and not entry.cancelled:
                restore(self._redis, entry, hold, self._settings.lease_s)
                if self.secret is not None:
                    self._redis.set(keys.secret(self._record.id), self.secret, ex=SECRET_TTL_S)
                record = self._tracker.read(self._record.id)
        return is_held_by(record, self._hold.fence)

    def close(self) -> None:
        """This worker has ended the download."""
        with _noted(), contextlib.suppress(RedisError):
            close(self._settings, self._redis, self._intents, self._record.id)


@contextlib.contextmanager
def _noted() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("the intent log cannot be written; going on", extra={"fields": {"reason": str(error)}})
