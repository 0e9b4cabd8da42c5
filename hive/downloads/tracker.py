"""DownloadTracker: the record of every download, the only code that reads or changes it.

Progress is state, not a log: a late subscriber needs the latest event and nothing else, and the terminal event is
simply the last one. So a hash per download holds the latest event and what the controls need; each change goes
through one script of `scripts.py`, which also publishes it. The HTTP process creates, reads, lists and cancels; a
worker claims, publishes, renews, releases and finishes.

All methods are blocking calls of a round trip or two, raise redis-py's errors, and are safe to repeat.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from hive.downloads import scripts
from hive.downloads.admission import Admission
from hive.downloads.record import Ack, Claim, New, Page, Record, State, Traffic, read_record
from hive.redis_client import RedisClient
from hive.settings import Settings
from hive.wire import events, keys
from hive.wire.events import Event, Message, Version
from hive.wire.jobs import Priority

Outcome = Literal["created", "joined", "known", "full"]

#: How many listed ids are looked at for one page when a filter hides most of them.
MAX_SCANNED = 20_000
#: Ids read in one pipeline.
PAGE = 200
#: How many running downloads are looked at for one that may make room.
MAX_RUNNING_SCANNED = 2000


#: What nobody has counted.
NO_TRAFFIC = Traffic()


class FleetFull(Exception):
    """As many downloads run as may; the next one is claimed when one has ended."""


class DownloadTracker(Admission):
    """Reads and changes the records, over one blocking Redis client."""

    def __init__(
        self, client: RedisClient, *, ended_ttl_s: int, max_queued: int, lease_s: float, max_running: int = 0
    ) -> None:
        """`max_running`: downloads at once in the whole fleet, 0 for no limit, until somebody sets another number."""
        super().__init__(client, max_running)
        self._ended_ttl_s = ended_ttl_s
        self._max_queued = max_queued
        self._lease_ms = int(lease_s * 1000)
        register = client.register_script
        self._create, self._claim, self._publish = map(register, (scripts.CREATE, scripts.CLAIM, scripts.PUBLISH))
        self._renew, self._release, self._finish = map(register, (scripts.RENEW, scripts.RELEASE, scripts.FINISH))
        self._control, self._priority = map(register, (scripts.CONTROL, scripts.PRIORITY))

    @classmethod
    def of(cls, client: RedisClient, settings: Settings) -> DownloadTracker:
        """One that keeps to the settings."""
        return cls(
            client,
            ended_ttl_s=settings.ended_ttl_s,
            max_queued=settings.max_queued,
            lease_s=settings.lease_s,
            max_running=settings.max_running,
        )

    # -- the HTTP process --------------------------------------------------------------------------------------------

    def create(self, new: New, download_id: str | None = None) -> tuple[str, Outcome]:
        """The id of the new download, or of the one that this request joins; and which of the two it is."""
        download_id = download_id or str(uuid.uuid4())
        terminal = events.is_terminal(new.event)
        fields = {
            "state": "complete" if terminal else "queued",
            "status": "complete" if terminal else "queued",
            "ref": new.ref,
            "identity": new.dedup_key,
            "request": msgspec.json.encode(new.request),
            "attempt": 1,
            "retry_of": new.retry_of,
            "request_id": new.request_id,
        }
        found = self._create(
            keys=[
                keys.record(download_id),
                keys.events(download_id),
                keys.single_flight(new.dedup_key),
                keys.DOWNLOADS,
                keys.PENDING,
                keys.secret(download_id),
            ],
            args=[
                download_id,
                int(terminal),
                events.encode(new.event),
                self._ended_ttl_s,
                self._max_queued,
                new.secret,
                new.secret_ttl_s,
                new.local_path,
                new.priority,
                *(part for pair in fields.items() for part in pair),
            ],
        )
        return found[0].decode(), found[1].decode()

    def read(self, download_id: str) -> Record | None:
        """The record, or None where the id is unknown or forgotten."""
        return read_record(self._redis.hgetall(keys.record(download_id)))

    def read_messages(self, download_ids: Iterable[str]) -> list[Message | None]:
        """The latest event of each, framed for its stream, in one round trip; None where the id is unknown."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for download_id in download_ids:
                pipeline.hmget(keys.record(download_id), "fence", "seq", "terminal", "event")
            rows = pipeline.execute()
        return [
            Message(Version(int(fence), int(seq)), terminal == b"1", event) if event is not None else None
            for fence, seq, terminal, event in rows
        ]

    def page(self, *, limit: int, cursor: tuple[int, str] | None = None, keep: frozenset[str] | None = None) -> Page:
        """Downloads, newest first, from behind `cursor`; only those whose status is in `keep`, where given."""
        found: list[Record] = []
        last: tuple[int, str] | None = None
        for scanned, (created, record) in enumerate(self._newest_first(cursor)):
            if keep is None or record.status in keep:
                if len(found) == limit:
                    return Page(found, last)
                found.append(record)
            last = (created, record.id)
            if scanned >= MAX_SCANNED:
                return Page(found, last)
        return Page(found, None)

    def expired_leases(self, limit: int = 100) -> list[str]:
        """Ids of running downloads whose lease has run out, by Redis' own clock."""
        seconds, micros = self._redis.time()
        now_ms = seconds * 1000 + micros // 1000
        return [i.decode() for i in self._redis.zrangebyscore(keys.LEASES, "-inf", now_ms, start=0, num=limit)]

    def forget_lease(self, download_id: str) -> None:
        """Drop a lease whose download has ended or is gone."""
        self._redis.zrem(keys.LEASES, download_id)

    def forget_expired(self, limit: int) -> None:
        """Look at so many of the oldest in the list, and forget those whose records have expired."""
        ids = self._redis.zrange(keys.DOWNLOADS, 0, limit - 1)
        with self._redis.pipeline(transaction=False) as pipeline:
            for download_id in ids:
                pipeline.exists(keys.record(download_id.decode()))
            there = pipeline.execute()
        gone = [download_id for download_id, found in zip(ids, there, strict=True) if not found]
        if gone:
            self._redis.zrem(keys.DOWNLOADS, *gone)

    def make_room(self, download_id: str, patience_s: float) -> bool:
        """Ask the worker of the youngest running download of low priority to give it back, for the sake of this one;
        False where there is none, or one was asked less than `patience_s` ago.
        """
        if not self._redis.set(keys.urgent(download_id), 1, nx=True, px=int(patience_s * 1000)):
            return False
        running = [i.decode() for i in self._redis.zrange(keys.LEASES, 0, MAX_RUNNING_SCANNED - 1)]
        records = [record for _, record in self._present([(0, i) for i in running])]
        low = [r for r in records if r.priority == "low" and r.state == "running" and not r.control]
        low.sort(key=lambda record: record.claimed_ms, reverse=True)
        return any(self.request_control(record, "yield") for record in low)

    def set_priority(self, record: Record, priority: Priority) -> bool:
        """Change how soon a download gets a worker; False when it has ended, or changed hands since `record` was
        read.
        """
        event = record.last_event
        if isinstance(event, events.Downloading):
            event = msgspec.structs.replace(event, priority=events.shown(priority))
        return bool(
            self._priority(
                keys=[keys.record(record.id), keys.events(record.id), keys.PENDING],
                args=[record.id, record.fence, priority, events.encode(event)],
            )
        )

    def request_control(self, record: Record, word: str) -> bool:
        """Leave `cancel`, `pause` or `yield` for the worker. False when the download changed hands since `record` was
        read, and for `yield` where there is a word already.
        """
        return bool(self._control(keys=[keys.record(record.id)], args=[word, record.fence]))

    def finish_unclaimed(self, record: Record, state: State, event: Event, *, expired_only: bool = False) -> bool:
        """End a download that no worker holds. False when it changed hands since `record` was read, or is held after
        all.
        """
        return self._end(record.id, record.dedup_key, record.fence, "", state, event, expired_only=expired_only)

    # -- a worker ----------------------------------------------------------------------------------------------------

    def claim(self, record: Record, owner: str, worker: str, event: Event) -> Claim | None:
        """Take hold of a queued download; None when it is not queued (ended, claimed, or queued again as a later
        attempt).

        Raises:
            FleetFull: as many downloads run as may.
        """
        fence = self._claim(
            keys=[keys.record(record.id), keys.events(record.id), keys.PENDING, keys.LEASES, keys.RUNNING_LIMIT],
            args=[
                record.id,
                record.attempt,
                owner,
                self._lease_ms,
                worker,
                events.encode(event),
                self._max_running,
            ],
        )
        if fence == b"full":
            raise FleetFull
        return Claim(record.id, record.dedup_key, int(fence)) if fence else None

    def publish(
        self,
        claim: Claim,
        seq: int,
        event: events.Downloading,
        traffic: Traffic = NO_TRAFFIC,
        found: int | None = None,
    ) -> Ack:
        """Make this the latest event, tell the channel, and renew the lease. `found`: bytes that were on disk already,
        once they are known.
        """
        held, control = self._publish(
            keys=[keys.record(claim.id), keys.events(claim.id), keys.LEASES],
            args=[
                claim.id,
                claim.fence,
                seq,
                events.encode(event),
                self._lease_ms,
                event.status or "downloading",
                event.bytes_downloaded,
                *traffic,
                "" if found is None else found,
            ],
        )
        return Ack(bool(held), control.decode())

    def renew(self, claim: Claim) -> Ack:
        """Renew the lease."""
        held, control = self._renew(
            keys=[keys.record(claim.id), keys.LEASES], args=[claim.id, claim.fence, self._lease_ms]
        )
        return Ack(bool(held), control.decode())

    def release(
        self,
        record: Record,
        event: Event,
        *,
        counts: bool,
        fence: int | None = None,
        expired_only: bool = False,
        to: Literal["queued", "paused"] = "queued",
        traffic: Traffic = NO_TRAFFIC,
    ) -> int | None:
        """Put a download (back) into the queue, or aside; gives the number of its next attempt, or None when it changed
        hands.

        `counts` makes an attempt that brought no byte count against the limit: a death does, an orderly stop does not.
        """
        attempt = record.attempt + 1
        done = self._release(
            keys=[keys.record(record.id), keys.events(record.id), keys.PENDING, keys.LEASES],
            args=[
                record.id,
                fence or record.fence,
                attempt,
                int(counts),
                int(expired_only),
                events.encode(event),
                to,
                *traffic,
            ],
        )
        return attempt if done else None

    def finish(
        self,
        claim: Claim,
        seq: int,
        state: State,
        event: Event,
        local_path: str = "",
        traffic: Traffic = NO_TRAFFIC,
    ) -> bool:
        """End the download that this worker holds. False when the claim is lost: somebody else has or will end it."""
        return self._end(claim.id, claim.dedup_key, claim.fence, seq, state, event, local_path, traffic)

    def read_secret(self, download_id: str) -> bytes | None:
        """The sealed credentials of a download, or None."""
        sealed: bytes | None = self._redis.get(keys.secret(download_id))
        return sealed

    # -- inside ------------------------------------------------------------------------------------------------------

    def _end(
        self,
        download_id: str,
        dedup_key: str,
        fence: int,
        seq: int | str,
        state: State,
        event: Event,
        local_path: str = "",
        traffic: Traffic = NO_TRAFFIC,
        *,
        expired_only: bool = False,
    ) -> bool:
        code = event.code if isinstance(event, events.Error) else None
        total = event.bytes_total if isinstance(event, events.Complete) else None
        return bool(
            self._finish(
                keys=[
                    keys.record(download_id),
                    keys.events(download_id),
                    keys.PENDING,
                    keys.LEASES,
                    keys.single_flight(dedup_key),
                    keys.secret(download_id),
                ],
                args=[
                    download_id,
                    fence,
                    seq,
                    state,
                    events.encode(event),
                    self._ended_ttl_s,
                    local_path,
                    int(expired_only),
                    code or "",
                    *traffic,
                    "" if total is None else total,
                ],
            )
        )

    def _newest_first(self, cursor: tuple[int, str] | None) -> Iterator[tuple[int, Record]]:
        """Every listed record behind the cursor; forgets the ids whose records have expired."""
        top: int | str = cursor[0] if cursor else "+inf"
        seen_at_top: set[str] = set()
        while True:
            rows = self._redis.zrevrangebyscore(
                keys.DOWNLOADS, top, "-inf", start=len(seen_at_top), num=PAGE, withscores=True
            )
            if not rows:
                return
            ids = [(int(score), member.decode()) for member, score in rows]
            ids = [row for row in ids if cursor is None or row < cursor]
            yield from self._present(ids)
            low = int(rows[-1][1])
            seen_at_top = {m.decode() for m, score in rows if int(score) == low} | (
                seen_at_top if low == top else set()
            )
            top = low

    def _present(self, ids: list[tuple[int, str]]) -> Iterator[tuple[int, Record]]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for _, download_id in ids:
                pipeline.hgetall(keys.record(download_id))
            hashes = pipeline.execute()
        gone = [download_id for (_, download_id), fields in zip(ids, hashes, strict=True) if not fields]
        for (created, _), fields in zip(ids, hashes, strict=True):
            if record := read_record(fields):
                yield created, record
        if gone:
            self._redis.zrem(keys.DOWNLOADS, *gone)
