"""Redis has lost its data: the downloads that were under way come back from the intent log, under their ids.

Problem: FLUSHALL, a server without persistence, a failover that lost the last second: records vanish, and with them
the queue, the leases, and what thousands of clients watch. The easy way, to let people ask again, gives them new ids,
and their streams an error. So every HTTP process looks whether Redis has the mark that was left there, once a
second, and whether each file of the intent log has its record, every few seconds: where none is, the record is made
again. The script does nothing where there is one, so any number of processes may do the same at once, and a client
that asks for a lost id meanwhile brings it back by asking.

A download that a worker had in hand comes back as running, under the fence of that worker: if it is alive it goes on
without having noticed, or makes the record itself when it was faster (workers/intent.py). If it died too, its lease
runs out and the reaper hands the download on. One that waited waits again (the reaper also puts in the tickets that
are missing in the queue), a paused one is paused, a cancelled one ends. What lay in Redis alone is gone: tokens,
queries of URLs, counters.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from hive.downloads import scripts
from hive.downloads.claims import Claims
from hive.downloads.cleanup import close
from hive.downloads.events import DELETED_MESSAGE, cancelled_event, on_disk_event, restored_event
from hive.downloads.intents import Attempt, Intent, IntentLog
from hive.downloads.local import running_pid
from hive.downloads.record import Record
from hive.downloads.tracker import DownloadTracker
from hive.net.redis_url import RedisAddress
from hive.redis.client import RedisClient, connect, database_of
from hive.redis.errors import is_of_another_type
from hive.redis.lua import Script
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.wire import events, keys
from hive.wire.refs import parse_ref

log = logging.getLogger("hive.downloads.restore")

#: Seconds between two looks at the mark, and between two at every file of the intent log.
LOOK_INTERVAL_S: Final = 1.0
CHECK_INTERVAL_S: Final = 10.0
#: Records that are looked at in one round trip.
BATCH: Final = 500


class Restore:
    """Keeps records and intents equal. Blocking, since it works on the disk, and therefore not in the thread that talks
    to Redis: it has a connection of its own for as long as it needs one. Safe from several threads.
    """

    def __init__(self, settings: Settings, redis: RedisAddress | str, intents: IntentLog) -> None:
        self._settings = settings
        self._redis = connect(redis)
        self._tracker = DownloadTracker.of(self._redis, settings)
        self._claims = Claims.of(self._redis, settings)
        self._intents = intents
        self._mark: bytes | None = None
        self._next_check_s = 0.0

    def is_due(self, mark: bytes | None) -> bool:
        """Whether it is time to `look`, now that Redis has this mark."""
        return mark is None or mark != self._mark or time.monotonic() >= self._next_check_s

    def look(self, mark: bytes | None) -> None:
        """Compare the intent log with the records, and leave a mark where there is none. Raises redis-py's errors and
        OSError.
        """
        with self._connected():
            self._check()
            if mark is None:
                # Only now: a process that dies before leaves the mark missing, and another one begins again.
                self._redis.set(keys.EPOCH, uuid.uuid4().hex, nx=True)
                mark = self._redis.get(keys.EPOCH)
        self._mark = mark
        self._next_check_s = time.monotonic() + CHECK_INTERVAL_S

    def _check(self) -> None:
        """Bring back what Redis has lost, and forget what has ended. The first time also do what commands wanted while
        no server ran.
        """
        self._intents.sign_what_was_left()
        ids, is_first = self._intents.ids(), self._mark is None
        lost = 0
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            for download_id, state in zip(batch, self._states(batch), strict=True):
                if state in events.TERMINAL:
                    close(self._settings, self._redis, self._intents, download_id)
                elif state is not None and is_first:
                    self._catch_up(download_id)
                elif state is None and (intent := self._intents.read(download_id)) is not None:
                    lost += self._restore(intent) and not intent.paused
                elif state is None:
                    self._intents.remove(download_id)  # what a worker wrote that had not seen the end
        if lost:
            log.warning("Redis had lost downloads that were under way; they go on", extra={"fields": {"count": lost}})

    def bring_back(self, download_id: str) -> bool:
        """Make the record of a download again that the intent log knows and Redis does not. Whether it is there. Raises
        redis-py's errors and OSError.
        """
        self._intents.sign_what_was_left()
        intent = self._intents.read(download_id)
        if intent is None:
            return False
        with self._connected():
            self._restore(intent)
            return self._tracker.read(download_id) is not None

    def close(self, download_id: str) -> None:
        """Forget a download that has ended, and remove its partial files where that is wished. Raises redis-py's errors
        and OSError.
        """
        with self._connected():
            close(self._settings, self._redis, self._intents, download_id)

    def stop(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _restore(self, intent: Intent) -> bool:
        """Make the record, and do what follows from it; False where Redis has one, or where a command has the download
        in hand, which ends with that.
        """
        if intent.local and intent.cancelled:
            self._intents.remove(intent.id)
            return False
        if running_pid(self._settings.hive_dir, self._intents, intent.dedup_key) is not None:
            return False
        if not restore(self._redis, intent, self._intents.read_attempt(intent.id), self._settings.lease_s):
            return False
        if intent.cancelled and (record := self._tracker.read(intent.id)) is not None:
            self._claims.finish_unclaimed(record, "cancelled", cancelled_event(record))
            close(self._settings, self._redis, self._intents, intent.id)
        return True

    def _catch_up(self, download_id: str) -> None:
        """Pause or end a download that a command has paused or ended on the disk."""
        intent, record = self._intents.read(download_id), self._tracker.read(download_id)
        if intent is None or record is None or not intent.local:
            return
        if intent.cancelled and self._claims.finish_unclaimed(record, *self._end_of(intent, record)):
            close(self._settings, self._redis, self._intents, download_id)
        elif intent.cancelled or (intent.paused and record.state != "paused"):
            self._tracker.request_control(record, "cancel" if intent.cancelled else "pause")

    def _end_of(self, intent: Intent, record: Record) -> tuple[events.State, events.Event]:
        """How a download ended that a command ended."""
        if not intent.completed:
            return "cancelled", cancelled_event(record)
        wanted, catalog = intent.request, ModelCatalog(self._settings)
        ref = parse_ref(wanted.ref)
        found = catalog.find(ref, wanted.include, wanted.exclude, wanted.sha256, wanted.name)
        found = found or catalog.find_unlisted(ref, wanted.include, wanted.exclude)
        if found is None:
            return "cancelled", cancelled_event(record, DELETED_MESSAGE)
        return "complete", on_disk_event(found.local_path, found.size, len(found.files), found.note)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """A server has two connections to Redis, and this one only while something is to be done."""
        try:
            yield
        finally:
            self._redis.connection_pool.disconnect(inuse_connections=False)

    def _states(self, ids: list[str]) -> list[str | None]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for download_id in ids:
                pipeline.hget(keys.record(download_id), "state")
            found = pipeline.execute(raise_on_error=False)
        for state in found:
            if isinstance(state, Exception) and not is_of_another_type(state):
                raise state
        # What is no record is there all the same; whoever reads it next sets it aside.
        texts = ["unreadable" if isinstance(state, Exception) else state for state in found]
        return [state.decode("utf-8", "replace") if isinstance(state, bytes) else state for state in texts]


def restore(client: RedisClient, intent: Intent, last: Attempt | None, lease_s: float) -> bool:
    """Make the record of this download, whatever runs it; False where Redis has one. Raises redis-py's errors."""
    state: Literal["queued", "running", "paused"] = "queued"
    if intent.paused or intent.cancelled:
        state = "paused"
    elif last is not None and last.held:
        state = "running"
    attempt = 1 if last is None else last.attempt if state == "running" else last.attempt + 1
    status: events.ActiveStatus = "retrying" if state == "running" else state
    event = restored_event(
        status, attempt, intent.priority, last.bytes_done if last else 0, last.bytes_total if last else 0
    )
    fields = {
        "status": status,
        "ref": intent.ref,
        "identity": intent.dedup_key,
        "request": msgspec.json.encode(intent.request),
        "attempt": attempt,
        "worker": last.worker if last and state == "running" else "",
        "retry_of": intent.retry_of,
        "request_id": intent.request_id,
        "bytes_done": event.bytes_downloaded,
        # Nobody knows what this attempt brought before: its death is not held against the download.
        "bytes_at_claim": -1,
    }
    if intent.owner_lines:
        fields["owners"] = intent.owner_lines
    made = Script(client, scripts.RESTORE)(
        (part for pair in fields.items() for part in pair),
        record=keys.record(intent.id),
        channel=keys.events(intent.id, database_of(client)),
        flight=keys.single_flight(intent.dedup_key),
        downloads=keys.DOWNLOADS,
        pending=keys.PENDING,
        leases=keys.LEASES,
        id=intent.id,
        state=state,
        fence=last.fence if last else 0,
        created_ms=intent.created_ms,
        lease_ms=int(lease_s * 1000),
        priority=intent.priority,
        event=events.encode(event),
    )
    if made:
        ids = {"download_id": intent.id, "attempt": attempt, "request_id": intent.request_id}
        log.info("brought back", extra={"fields": {**ids, "state": state, "model_ref": intent.ref}})
    return bool(made)


def is_held_by(record: Record | None, fence: int) -> bool:
    """Whether this is the record of a download that the worker with this fence runs."""
    return record is not None and record.state == "running" and record.fence == fence
