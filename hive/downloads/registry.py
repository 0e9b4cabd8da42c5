"""Heartbeat registry: who is alive, and what each says of itself. Workers have one, HTTP processes another.

Problem: a process that is killed says no good-bye, and nobody may ask all processes whether they live. So each keeps a
hash of its own in Redis that expires unless it is written again, and a set has the names, so that nobody scans all
keys. Hash and expiry are written in one step: a hash that lost its expiry would stay for ever. A reader believes
nothing that it reads: an entry of another version, or one that is broken, is passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from hive.downloads import scripts
from hive.downloads.names import text_names
from hive.redis.client import RedisClient
from hive.redis.errors import is_of_another_type
from hive.redis.lua import Script
from hive.wire import keys

log = logging.getLogger("hive.downloads.registry")

#: Seconds that a silent worker stays listed. Workers speak every 5 s.
WORKER_TTL_S = 20
#: What is read in place of a key that is no hash: nothing that a member says.
_NO_MEMBER: Final[Mapping[bytes, bytes]] = {b"": b""}


class Member(Protocol):
    """What a registry keeps: a msgspec struct with a name."""

    @property
    def name(self) -> str:
        """No two have the same."""


M = TypeVar("M", bound=Member)


class HeartbeatRegistry(Generic[M]):
    """The members of one kind, over one blocking Redis client; raises redis-py's errors."""

    def __init__(
        self, client: RedisClient, kind: type[M], *, names: str, key: Callable[[str], str], ttl_s: int
    ) -> None:
        """`names`: the key of the set of names; `key` gives that of a member's hash; `ttl_s`: after so many seconds of
        silence a member is gone.
        """
        self._redis = client
        self._kind = kind
        self._names = names
        self._key = key
        self._ttl_s = ttl_s
        self._update = Script(client, scripts.UPDATE_MEMBER)

    def beat(self, member: M) -> None:
        """Say that this member is alive, in one step."""
        with self._redis.pipeline(transaction=True) as pipeline:
            self.add_beat(pipeline, member)
            pipeline.execute()

    def add_beat(self, pipeline: RedisClient, member: M) -> None:
        """The same, into a transaction that has other work too: three commands."""
        pipeline.hset(self._key(member.name), mapping=msgspec.structs.asdict(member))  # type: ignore[arg-type]
        pipeline.expire(self._key(member.name), self._ttl_s)
        pipeline.sadd(self._names, member.name)

    def update(self, name: str, fields: Mapping[str, str]) -> None:
        """Say at once what has changed, which the next heartbeat would say in some seconds."""
        self._update((part for pair in fields.items() for part in pair), member=self._key(name))

    def leave(self, name: str) -> None:
        """Say that this member has ended."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(self._key(name))
            pipeline.srem(self._names, name)
            pipeline.execute()

    def alive(self) -> list[M]:
        """The members alive, by name; forgets those that fell silent."""
        names = sorted(text_names(self._redis, self._names, self._redis.smembers(self._names), is_set=True))
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                self.add_read(pipeline, name)
                pipeline.pttl(self._key(name))
            rows = pipeline.execute(raise_on_error=False)
        for row in rows:
            if isinstance(row, Exception) and not is_of_another_type(row):
                raise row
        for name, left_ms in zip(names, rows[1::2], strict=True):
            if left_ms > self._ttl_s * 1000:  # longer than any heartbeat: Redis' clock was set back
                self._redis.expire(self._key(name), self._ttl_s)
        return self.members(names, [_NO_MEMBER if isinstance(row, Exception) else row for row in rows[::2]])

    def add_read(self, pipeline: RedisClient, name: str) -> None:
        """Read a member's hash, in a pipeline that has other work too: one command."""
        pipeline.hgetall(self._key(name))

    def members(self, names: Iterable[str], hashes: Iterable[Mapping[bytes, bytes]]) -> list[M]:
        """The members in these hashes, which were read in the order of the names; forgets those that fell silent."""
        found = dict(zip(names, hashes, strict=True))
        gone = [name for name, fields in found.items() if not fields]
        if gone:
            self._redis.srem(self._names, *gone)
        read = {name: self.read(fields) for name, fields in found.items() if fields}
        self._end([name for name, member in read.items() if member is None])
        return [member for member in read.values() if member is not None]

    def read(self, fields: Mapping[bytes, bytes]) -> M | None:
        """The member in a hash as Redis gives it; None where it is broken, or of another version of hive."""
        try:
            return msgspec.convert({k.decode(): v.decode() for k, v in fields.items()}, self._kind, strict=False)
        except (msgspec.ValidationError, UnicodeDecodeError):
            return None

    def _end(self, broken: Iterable[str]) -> None:
        """See that what nobody can read goes some day: one that is written again keeps its own expiry."""
        for name in broken:
            log.debug("a heartbeat cannot be read; passed over", extra={"fields": {"name": name}})
            if self._redis.ttl(self._key(name)) == -1:
                self._redis.expire(self._key(name), self._ttl_s)


class WorkerInfo(msgspec.Struct, kw_only=True, frozen=True):
    """One worker process. Times are unix seconds."""

    name: str
    host: str
    pid: int
    version: str
    state: str = "idle"
    download_id: str = ""
    started_at: float = 0.0
    seen_at: float = 0.0


def worker_registry(client: RedisClient) -> HeartbeatRegistry[WorkerInfo]:
    """The workers."""
    return HeartbeatRegistry(client, WorkerInfo, names=keys.WORKERS, key=keys.worker, ttl_s=WORKER_TTL_S)
