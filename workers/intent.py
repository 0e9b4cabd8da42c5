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
from hive.downloads.restore import is_held_by, restore
from hive.errors import StoreMissing
from hive.secrets import SECRET_TTL_S
from hive.wire import keys
from hive.wire.events import Downloading
from workers.claim import ClaimedDownload

log = logging.getLogger("workers.intent")


class AttemptIntent:
    """The intent log's side of one claimed download. Only `keep` raises, and only redis-py's errors."""

    def __init__(self, taken: ClaimedDownload) -> None:
        record = self._record = taken.record
        self._settings = taken.settings
        self._redis = taken.downloads.client
        self._tracker = taken.downloads.tracker
        self._intents = IntentLog(taken.settings)
        #: The sealed credentials of the request, which Redis loses together with the record.
        self.secret: bytes | None = None
        self._attempt = Attempt(
            attempt=record.attempt, fence=taken.claim.fence, worker=taken.worker, bytes_done=record.bytes_done
        )

    def begin(self) -> None:
        """Note the attempt, and the request where the HTTP process died before it could."""
        with _noted():
            if self._intents.read(self._record.id) is None:
                self._intents.write(intent_of(self._record))
            earlier = self._intents.read_attempt(self._record.id)
            if earlier is not None:
                self._attempt = msgspec.structs.replace(
                    self._attempt, partials=earlier.partials, bytes_total=earlier.bytes_total
                )
            self._intents.write_attempt(self._record.id, self._attempt)

    def plan(self, partials: Sequence[str], bytes_total: int) -> None:
        """Note the partial files that it will write."""
        self._attempt = msgspec.structs.replace(self._attempt, partials=tuple(partials), bytes_total=bytes_total)
        with _noted():
            self._intents.write_attempt(self._record.id, self._attempt)

    def let_go(self, figures: Downloading) -> None:
        """Note that this worker has given it back, or set it aside, and how far it is."""
        self._attempt = msgspec.structs.replace(
            self._attempt, held=False, bytes_done=figures.bytes_downloaded, bytes_total=figures.bytes_total
        )
        with _noted():
            self._intents.write_attempt(self._record.id, self._attempt)

    def keep(self) -> bool:
        """Make the record again if Redis has lost it. False where the download has ended or is somebody else's.

        A process that slept through the end of its download finds no file of it in the intent log, and one that slept
        through an attempt of another worker finds that one's.
        """
        record = self._tracker.read(self._record.id)
        with _noted():
            intent, attempt = self._intents.read(self._record.id), self._intents.read_attempt(self._record.id)
            ours = attempt is not None and attempt.fence == self._attempt.fence
            if record is None and ours and intent is not None and not intent.cancelled:
                restore(self._redis, intent, attempt, self._settings.lease_s)
                if self.secret is not None:
                    self._redis.set(keys.secret(self._record.id), self.secret, ex=SECRET_TTL_S)
                record = self._tracker.read(self._record.id)
        return is_held_by(record, self._attempt.fence)

    def close(self) -> None:
        """This worker has ended the download."""
        with _noted(), contextlib.suppress(RedisError):
            close(self._settings, self._redis, self._intents, self._record.id)


@contextlib.contextmanager
def _noted() -> Iterator[None]:
    try:
        yield
    except (OSError, StoreMissing) as error:
        log.warning("the intent log cannot be written; going on", extra={"fields": {"reason": str(error)}})
