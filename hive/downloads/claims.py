"""Claims: what changes hands. A worker claims a download, publishes and renews, and gives it back or ends it.

Problem: a worker that was frozen for a minute wakes up and does not know that its download is somebody else's by now.
Asking first does not help: the answer may be old when it writes. So a claim is a fence (see `scripts`), and each script
compares the fence that the caller shows with the stored one in the same step as its change. The same proof serves those
who hold nothing: whoever puts a download back into the queue, or ends it from outside, shows the fence of the record
that it has read, and is refused when the download changed hands since.

All methods are blocking calls of one round trip, raise redis-py's errors, and are safe to repeat.
"""

from __future__ import annotations

from typing import Final, Literal

from hive.downloads import scripts
from hive.downloads.names import text_names
from hive.downloads.record import NO_BYTES, Ack, AttemptBytes, Claim, Record
from hive.redis.client import RedisClient, database_of
from hive.redis.lua import Script
from hive.setting_ranges import MAX_LEASE_S
from hive.settings import Settings
from hive.wire import events, keys
from hive.wire.events import Event, State

#: The `seq` of an end from outside, which takes a new fence.
_FROM_OUTSIDE: Final = ""


class FleetFull(Exception):
    """As many downloads run as may; the next one is claimed when one has ended."""


class Claims:
    """Changes who holds a download, over one blocking Redis client."""

    def __init__(self, client: RedisClient, *, ended_ttl_s: int, lease_s: float, max_running: int = 0) -> None:
        """`max_running`: downloads at once in the whole fleet, 0 for no limit, until somebody sets another number."""
        self._redis = client
        self._database = database_of(client)
        self._ended_ttl_s = ended_ttl_s
        self._lease_ms = int(lease_s * 1000)
        self._max_running = max_running
        self._claim, self._publish = Script(client, scripts.CLAIM), Script(client, scripts.PUBLISH)
        self._quota = Script(client, scripts.QUOTA)
        self._renew, self._release = Script(client, scripts.RENEW), Script(client, scripts.RELEASE)
        self._finish, self._expired = Script(client, scripts.FINISH), Script(client, scripts.EXPIRED)

    @classmethod
    def of(cls, client: RedisClient, settings: Settings) -> Claims:
        """Those that keep to the settings."""
        return cls(client, ended_ttl_s=settings.ended_ttl_s, lease_s=settings.lease_s, max_running=settings.max_running)

    def claim(self, record: Record, owner: str, worker: str, event: Event) -> Claim | None:
        """Take hold of a queued download; None when it is not queued (ended, claimed, or queued again as a later
        attempt).

        Raises:
            FleetFull: as many downloads run as may.
        """
        fence = self._claim(
            record=keys.record(record.id),
            channel=keys.events(record.id, self._database),
            pending=keys.PENDING,
            leases=keys.LEASES,
            running_limit=keys.RUNNING_LIMIT,
            id=record.id,
            attempt=record.attempt,
            owner=owner,
            lease_ms=self._lease_ms,
            worker=worker,
            event=events.encode(event),
            max_running=self._max_running,
        )
        if fence == b"full":
            raise FleetFull
        return Claim(record.id, record.dedup_key, int(fence)) if fence else None

    def publish(
        self,
        claim: Claim,
        seq: int,
        event: events.Downloading,
        attempt_bytes: AttemptBytes = NO_BYTES,
        found: int | None = None,
    ) -> Ack:
        """Make this the latest event, tell the channel, and renew the lease. `found`: bytes that were on disk already,
        once they are known.
        """
        held, control = self._publish(
            record=keys.record(claim.id),
            channel=keys.events(claim.id, self._database),
            leases=keys.LEASES,
            id=claim.id,
            fence=claim.fence,
            seq=seq,
            event=events.encode(event),
            lease_ms=self._lease_ms,
            status=event.status or "downloading",
            bytes_done=event.bytes_downloaded,
            received=attempt_bytes.received,
            refetched=attempt_bytes.refetched,
            found="" if found is None else found,
        )
        return Ack(bool(held), control.decode())

    def renew(self, claim: Claim) -> Ack:
        """Renew the lease."""
        held, control = self._renew(
            record=keys.record(claim.id),
            leases=keys.LEASES,
            id=claim.id,
            fence=claim.fence,
            lease_ms=self._lease_ms,
        )
        return Ack(bool(held), control.decode())

    def take_quota(self, claim: Claim, expected: int, least: int, most_bytes: int) -> tuple[bool, int]:
        """Whether the first owner's bytes of the day have room for what this attempt receives, and for how much of it,
        which is kept for it; or how many are left. `expected`: bytes of the attempt in all, 0 where nothing is known
        yet; `least`: as many will do; `most_bytes`: of a day.
        """
        fits, n_bytes = self._quota(
            record=keys.record(claim.id),
            leases=keys.LEASES,
            id=claim.id,
            fence=claim.fence,
            expected=expected,
            least=least,
            most_bytes=most_bytes,
        )
        return bool(fits), int(n_bytes)

    def release(
        self,
        record: Record,
        event: Event,
        *,
        counts: bool,
        fence: int | None = None,
        expired_only: bool = False,
        to: Literal["queued", "paused"] = "queued",
        attempt_bytes: AttemptBytes = NO_BYTES,
        behind: bool = False,
    ) -> int | None:
        """Put a download (back) into the queue, or aside; gives the number of its next attempt, or None when it changed
        hands.

        `counts` makes an attempt that brought no byte count against the limit: a death does, an orderly stop does not.
        `behind` gives it a place as if it were asked for now, instead of the one that it had.
        """
        attempt = record.attempt + 1
        done = self._release(
            record=keys.record(record.id),
            channel=keys.events(record.id, self._database),
            pending=keys.PENDING,
            leases=keys.LEASES,
            id=record.id,
            fence=fence or record.fence,
            attempt=attempt,
            counts=int(counts),
            expired_only=int(expired_only),
            event=events.encode(event),
            to=to,
            received=attempt_bytes.received,
            refetched=attempt_bytes.refetched,
            behind=int(behind),
        )
        return attempt if done else None

    def finish(
        self,
        claim: Claim,
        seq: int,
        state: State,
        event: Event,
        local_path: str = "",
        attempt_bytes: AttemptBytes = NO_BYTES,
    ) -> bool:
        """End the download that this worker holds. False when the claim is lost: somebody else has or will end it."""
        return self._end(claim, seq, state, event, local_path=local_path, attempt_bytes=attempt_bytes)

    def finish_unclaimed(self, record: Record, state: State, event: Event, *, expired_only: bool = False) -> bool:
        """End a download that no worker holds. False when it changed hands since `record` was read, or is held after
        all.
        """
        as_read = Claim(record.id, record.dedup_key, record.fence)
        local_path = event.local_path if isinstance(event, events.Complete) else ""
        return self._end(as_read, _FROM_OUTSIDE, state, event, local_path=local_path, expired_only=expired_only)

    def expired_leases(self, limit: int = 100) -> list[str]:
        """Ids of running downloads whose lease has run out, by Redis' own clock."""
        found = self._expired(
            leases=keys.LEASES, lease_ms=self._lease_ms, lease_max_ms=int(MAX_LEASE_S * 1000), limit=limit
        )
        return text_names(self._redis, keys.LEASES, found)

    def forget_lease(self, download_id: str) -> None:
        """Drop a lease whose download has ended or is gone."""
        self._redis.zrem(keys.LEASES, download_id)

    def _end(
        self,
        claim: Claim,
        seq: int | str,
        state: State,
        event: Event,
        *,
        local_path: str = "",
        attempt_bytes: AttemptBytes = NO_BYTES,
        expired_only: bool = False,
    ) -> bool:
        code = event.code if isinstance(event, events.Error) else None
        total = event.bytes_total if isinstance(event, events.Complete) else None
        done = self._finish(
            record=keys.record(claim.id),
            channel=keys.events(claim.id, self._database),
            pending=keys.PENDING,
            leases=keys.LEASES,
            flight=keys.single_flight(claim.dedup_key),
            secret=keys.secret(claim.id),
            id=claim.id,
            fence=claim.fence,
            seq=seq,
            state=state,
            event=events.encode(event),
            ended_ttl_s=self._ended_ttl_s,
            local_path=local_path,
            expired_only=int(expired_only),
            code=code or "",
            received=attempt_bytes.received,
            refetched=attempt_bytes.refetched,
            total="" if total is None else total,
        )
        return bool(done)
