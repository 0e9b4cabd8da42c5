"""DownloadTracker: the records of downloads, as those see them who ask for one, watch one, list and control them.

Progress is state, not a log: a late subscriber needs the latest event and nothing else, and the terminal event is
simply the last one. So a hash per download holds the latest event and what the controls need; each change goes
through one script (see `scripts`), which also publishes it. Who holds a download, and how it ends, is in `claims`;
which one is next, in `admission`.

All methods are blocking calls of a round trip or two, raise redis-py's errors, and are safe to repeat.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from hive.auth.principal import ANONYMOUS, Principal
from hive.downloads import scripts
from hive.downloads.names import text_names
from hive.downloads.record import (
    MAX_OWNERS,
    New,
    Record,
    RecordPage,
    TopicState,
    UnreadableRecord,
    check_event,
    owners_in,
    read_record,
)
from hive.redis.client import RedisClient, database_of
from hive.redis.errors import is_of_another_type, is_redis_error
from hive.redis.lua import Script
from hive.settings import MAX_RECORDS, Settings
from hive.wire import events, keys
from hive.wire.events import Message, State, Version
from hive.wire.jobs import Priority

log = logging.getLogger("hive.downloads.tracker")

#: States that people see as they are; all other statuses are those of a running one.
_STATES_AS_STATUSES = frozenset(get_args(State)) - {"running"}

Outcome = Literal["created", "joined", "known", "full", "crowded", "own_full", "own_crowded", "spent"]

Departure = Literal["left", "last", "gone"]

Side = Literal["before", "behind"]

#: Records that are looked at for one page; where a filter hides most of them the page is short, and has a cursor.
MAX_SCANNED = 1_000
#: Downloads that are put into the index by state in one step.
REINDEX_STEP = 500
#: How many of the oldest records are looked at for expired ones before a new one is refused for want of room.
FORGET_AT_ONCE = 1_000
#: Seconds that what is left of a record that nobody can read is kept.
UNREADABLE_KEPT_S = 7 * 86_400
#: The latest time that a list goes by, in ms: whole numbers end there in Redis. What somebody else has put behind it,
#: or before the year 1970, is not listed.
MAX_TIME_MS: Final = 2**53
#: Ids read in one pipeline.
PAGE = 200


class OwnerCaps(NamedTuple):
    """What one owner may have: downloads in the queue, records in all, bytes of a day (UTC); 0 for no limit."""

    queued: int = 0
    records: int = 0
    bytes_per_day: int = 0


NO_CAPS: Final = OwnerCaps()


class DownloadTracker:
    """Creates, reads and lists the records, over one blocking Redis client."""

    def __init__(
        self,
        client: RedisClient,
        *,
        ended_ttl_s: int,
        max_queued: int,
        max_records: int = MAX_RECORDS,
        caps: OwnerCaps = NO_CAPS,
    ) -> None:
        self._caps = caps
        self._redis = client
        self._database = database_of(client)
        self._ended_ttl_s = ended_ttl_s
        self._max_queued = max_queued
        self._max_records = max_records
        self._reindex = Script(client, scripts.REINDEX)
        self._create, self._control = Script(client, scripts.CREATE), Script(client, scripts.CONTROL)
        self._leave, self._lend = Script(client, scripts.LEAVE), Script(client, scripts.LEND)
        self._priority, self._move = Script(client, scripts.PRIORITY), Script(client, scripts.MOVE)
        self._set_aside = Script(client, scripts.SET_ASIDE)

    @classmethod
    def of(cls, client: RedisClient, settings: Settings) -> DownloadTracker:
        """One that keeps to the settings."""
        return cls(
            client,
            ended_ttl_s=settings.ended_ttl_s,
            max_queued=settings.max_queued,
            max_records=settings.max_records,
            caps=OwnerCaps(
                settings.max_queued_per_key, settings.max_records_per_key, settings.max_bytes_per_key_and_day
            ),
        )

    def create(self, new: New, download_id: str | None = None) -> tuple[str, Outcome]:
        """The id of the new download, or of the one that this request joins; and which of the two it is."""
        download_id = download_id or str(uuid.uuid4())
        terminal = events.is_terminal(new.event)
        state = "complete" if terminal else "queued"
        fields = {
            "state": state,
            "status": state,
            "ref": new.ref,
            "identity": new.dedup_key,
            "request": msgspec.json.encode(new.request),
            "attempt": 1,
            "retry_of": new.retry_of,
            "request_id": new.request_id,
        }
        found = self._made(new, download_id, terminal, fields)
        if found[1] in (b"crowded", b"own_crowded"):
            # Perhaps only in the list: records expire by themselves, and the list is tidied once a minute.
            self.forget_expired(
                FORGET_AT_ONCE, keys.DOWNLOADS if found[1] == b"crowded" else keys.owner_index(new.owner)
            )
            found = self._made(new, download_id, terminal, fields)
        outcome: Outcome = found[1].decode()  # type: ignore[assignment]
        return found[0].decode(), outcome

    def _made(self, new: New, download_id: str, terminal: bool, fields: dict[str, Any]) -> list[bytes]:
        found: list[bytes] = self._create(
            (part for pair in fields.items() for part in pair),
            record=keys.record(download_id),
            channel=keys.events(download_id, self._database),
            flight=keys.single_flight(new.dedup_key),
            downloads=keys.DOWNLOADS,
            pending=keys.PENDING,
            secret=keys.secret(download_id),
            id=download_id,
            terminal=int(terminal),
            event=events.encode(new.event),
            ended_ttl_s=self._ended_ttl_s,
            max_queued=self._max_queued,
            max_records=self._max_records,
            sealed=new.secret,
            sealed_ttl_s=new.secret_ttl_s,
            local_path=new.local_path,
            priority=new.priority,
            owner=new.owner,
            max_owners=MAX_OWNERS,
            told=keys.owners_prefix(self._database),
            owner_queued=self._caps.queued,
            owner_records=self._caps.records,
            owner_bytes=self._caps.bytes_per_day,
            permission=new.permission,
        )
        return found

    def read(self, download_id: str) -> Record | None:
        """The record, or None where the id is unknown or forgotten."""
        return self._read_all([download_id])[0]

    def read_states(self, download_ids: Iterable[str]) -> list[TopicState | None]:
        """The latest event of each, framed for its stream, and who may see it, in one round trip; None where the id is
        unknown.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for download_id in download_ids:
                pipeline.hmget(keys.record(download_id), "fence", "seq", "terminal", "event", "owners")
            return [_state(row) for row in _unless_away(pipeline.execute(raise_on_error=False))]

    def page(
        self,
        *,
        limit: int,
        cursor: tuple[int, str] | None = None,
        keep: frozenset[str] | None = None,
        principal: Principal = ANONYMOUS,
        text: str = "",
    ) -> RecordPage:
        """Downloads, newest first, from behind `cursor`; only those that `principal` may see, and whose status
        is in `keep`, where given, and that are called something with `text` in it, in any case.
        """
        found: list[Record] = []
        last: tuple[int, str] | None = None
        seen: set[str] = set()
        for scanned, (created, record) in enumerate(self._newest_first(self._lists_of(keep, principal), cursor), 1):
            wanted = (keep is None or record.status in keep) and record.is_called(text)
            if wanted and principal.sees(record.owners) and record.id not in seen:
                if len(found) == limit:
                    return RecordPage(found, last)
                seen.add(record.id)
                found.append(record)
            last = (created, record.id)
            if scanned >= MAX_SCANNED:
                return RecordPage(found, last)
        return RecordPage(found, None)

    def build_index(self, cursor: str = "0") -> str:
        """Look whether some of the listed downloads, from `cursor` on, are in the index by state; gives the next
        cursor, "0" at the end.
        """
        found: bytes = self._reindex(downloads=keys.DOWNLOADS, built=keys.INDEX_BUILT, cursor=cursor, step=REINDEX_STEP)
        return found.decode()

    def has_index(self) -> bool:
        """Whether the index by state knows every download."""
        return bool(self._redis.exists(keys.INDEX_BUILT))

    def forget_expired(self, limit: int, key: str = keys.DOWNLOADS) -> None:
        """Look at so many of the oldest in the list, or in this index, and forget those whose records have expired."""
        ids = text_names(self._redis, key, self._redis.zrange(key, 0, limit - 1))
        with self._redis.pipeline(transaction=False) as pipeline:
            for download_id in ids:
                pipeline.exists(keys.record(download_id))
            there = pipeline.execute()
        self._forget([download_id for download_id, found in zip(ids, there, strict=True) if not found])

    def set_priority(self, record: Record, priority: Priority) -> bool:
        """Change how soon a download gets a worker; False when it has ended, or changed hands since `record` was
        read.
        """
        return bool(
            self._priority(
                record=keys.record(record.id),
                channel=keys.events(record.id, self._database),
                pending=keys.PENDING,
                id=record.id,
                fence=record.fence,
                priority=priority,
                event=_with_priority(record, priority),
            )
        )

    def move(self, record: Record, other: Record, side: Side) -> bool | None:
        """Move a waiting download to before or behind another that waits, among its owner's (move.lua); it takes its
        priority. False when it has ended, or changed hands since `record` was read; None when one does not wait.
        """
        moved = self._move(
            record=keys.record(record.id),
            channel=keys.events(record.id, self._database),
            pending=keys.PENDING,
            id=record.id,
            fence=record.fence,
            other=other.id,
            side=side,
            event=_with_priority(record, other.priority),
        )
        return None if moved < 0 else bool(moved)

    def request_control(self, record: Record, word: str) -> bool:
        """Leave `cancel`, `pause` or `yield` for the worker. False when the download changed hands since `record` was
        read, and for `yield` where there is a word already.
        """
        return bool(self._control(record=keys.record(record.id), word=word, fence=record.fence))

    def leave(self, download_id: str, owner: str) -> Departure:
        """Take this owner's share out of a download: it goes on for the others (`left`). The last one is to end it
        (`last`), and nobody joins it from here on. `gone`: it has ended, or they have no share in it.
        """
        said: bytes = self._leave(
            record=keys.record(download_id),
            webhooks=keys.webhooks(download_id),
            id=download_id,
            owner=owner,
            mark=keys.owner_mark(owner),
            told=keys.owners_prefix(self._database),
        )
        return said.decode()  # type: ignore[return-value]

    def lend_secret(
        self, download_id: str, permission: str, sealed: bytes, ttl_s: int
    ) -> Literal["lent", "kept", "ended"]:
        """Give a download that was joined the credentials that it lacks. `kept`: it has some, or is fetched with
        another's. `ended`: it takes none any more.
        """
        said: bytes = self._lend(
            record=keys.record(download_id),
            secret=keys.secret(download_id),
            permission=permission,
            sealed=sealed,
            sealed_ttl_s=ttl_s,
        )
        return said.decode()  # type: ignore[return-value]

    def read_secret(self, download_id: str) -> bytes | None:
        """The sealed credentials of a download, or None."""
        sealed: bytes | None = self._redis.get(keys.secret(download_id))
        return sealed

    def _lists_of(self, keep: frozenset[str] | None, principal: Principal) -> list[str]:
        """The sorted sets in which downloads of these statuses are. Those of one owner are few (they are capped), and
        nobody else's may count among those that are looked at.
        """
        if not principal.sees_everything:
            return [keys.owner_index(principal.owner)]
        if keep is None or not self.has_index():
            return [keys.DOWNLOADS]
        states = {status if status in _STATES_AS_STATUSES else "running" for status in keep}
        return [keys.state_index(state) for state in sorted(states)]

    def _newest_first(self, lists: Sequence[str], cursor: tuple[int, str] | None) -> Iterator[tuple[int, Record]]:
        """Every record in these lists behind the cursor; forgets the ids whose records have expired."""
        ids = heapq.merge(*(self._ids_in(each, cursor) for each in lists), reverse=True)
        while rows := list(itertools.islice(ids, PAGE)):
            yield from self._present(rows)

    def _ids_in(self, key: str, cursor: tuple[int, str] | None) -> Iterator[tuple[int, str]]:
        """The ids in a sorted set by time, newest first, from behind the cursor, with their times."""
        top = cursor[0] if cursor else MAX_TIME_MS
        seen_at_top: set[str] = set()
        while True:
            rows = self._redis.zrevrangebyscore(key, top, 0, start=len(seen_at_top), num=PAGE, withscores=True)
            if not rows:
                return
            names = set(text_names(self._redis, key, (member for member, _ in rows)))
            ids = [(int(score), name) for member, score in rows if (name := member.decode("utf-8", "replace")) in names]
            yield from (row for row in ids if cursor is None or row < cursor)
            low = int(rows[-1][1])
            seen_at_top = {name for score, name in ids if score == low} | (seen_at_top if low == top else set())
            top = low

    def read_all(self, download_ids: Iterable[str]) -> list[Record]:
        """The records of those that are there, in one round trip."""
        return [record for _, record in self._present([(0, download_id) for download_id in download_ids])]

    def _present(self, ids: list[tuple[int, str]]) -> Iterator[tuple[int, Record]]:
        records = self._read_all([download_id for _, download_id in ids])
        gone = [download_id for (_, download_id), record in zip(ids, records, strict=True) if record is None]
        for (created, _), record in zip(ids, records, strict=True):
            if record is not None:
                yield created, record
        self._forget(gone)

    def _forget(self, download_ids: Sequence[str]) -> None:
        """Take downloads whose records are gone from the lists."""
        if download_ids:
            with self._redis.pipeline(transaction=False) as pipeline:
                for key in (keys.DOWNLOADS, *map(keys.state_index, get_args(State)), *self._owner_indexes()):
                    pipeline.zrem(key, *download_ids)
                pipeline.execute()

    def _owner_indexes(self) -> list[str]:
        """The indexes by owner: who shared a record that is gone, nobody knows any more."""
        owners = text_names(self._redis, keys.OWNERS, self._redis.smembers(keys.OWNERS), is_set=True)
        return [keys.owner_index(owner) for owner in owners]

    def _read_all(self, download_ids: Sequence[str]) -> list[Record | None]:
        """The records in one round trip. One that cannot be read counts as gone, and is set aside: it must stop neither
        a list nor the queue.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for download_id in download_ids:
                pipeline.hgetall(keys.record(download_id))
            hashes = _unless_away(pipeline.execute(raise_on_error=False))
        found: list[Record | None] = []
        for download_id, fields in zip(download_ids, hashes, strict=True):
            try:
                found.append(read_record(fields))
            except UnreadableRecord as error:
                self._put_aside(download_id, error)
                found.append(None)
        return found

    def _put_aside(self, download_id: str, error: UnreadableRecord) -> None:
        was_in_the_way = self._set_aside(
            record=keys.record(download_id),
            downloads=keys.DOWNLOADS,
            pending=keys.PENDING,
            leases=keys.LEASES,
            unreadable=keys.UNREADABLE,
            id=download_id,
            kept_s=UNREADABLE_KEPT_S,
        )
        if was_in_the_way:
            fields = {"download_id": download_id, "reason": str(error)}
            log.error("a record cannot be read; set aside", extra={"fields": fields})


def _state(row: list[bytes] | Exception) -> TopicState | None:
    """The latest event in these fields; None where there is none, or none that can be read (see `_read_all`)."""
    try:
        fence, seq, terminal, event, owners = row  # type: ignore[misc]
        if event is None:
            return None
        check_event(event)
        message = Message(Version(int(fence), int(seq)), terminal == b"1", event)
        return TopicState(message, owners_in((owners or b"").decode()))
    except (TypeError, ValueError):
        return None


def _unless_away(replies: list[Any]) -> list[Any]:
    """The replies of a pipeline, of which some may be errors. Raises that which says that Redis is away."""
    for reply in replies:
        if isinstance(reply, Exception) and is_redis_error(reply) and not is_of_another_type(reply):
            raise reply
    return replies


def _with_priority(record: Record, priority: Priority) -> bytes:
    """The latest event, with another priority."""
    event = record.last_event
    if isinstance(event, events.Downloading):
        event = msgspec.structs.replace(event, priority=events.shown(priority))
    return events.encode(event)
