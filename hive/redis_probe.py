"""What Redis is, and what it lets hive do, found out by asking when a process starts.

Problem: a user of Redis without a right, an eviction policy that throws records away, a cluster: each shows itself
hours later, as an error of whatever needed it first. So every kind of thing that hive does with Redis is done once at
the start, harmlessly, and what is refused is named together. A Redis that is away is no reason to stop: hive waits for
it. Only a cluster is, since it never becomes what hive needs.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any, Final

from hive.net.redis_url import RedisAddress
from hive.redis_client import RedisClient, RedisError, connect, database_of
from hive.redis_errors import code_of, describe
from hive.redis_versions import holes
from hive.settings import Settings, SettingsError
from hive.wire import keys

log = logging.getLogger("hive.redis_probe")

#: The oldest Redis that hive was tried with.
OLDEST: Final = (6, 2)
#: Milliseconds for which the key that is written to try that stays.
_PROBE_MS: Final = 1_000
_CLUSTER_CODES: Final = frozenset({"CLUSTERDOWN", "MOVED", "CROSSSLOT", "TRYAGAIN"})
_CLUSTER: Final = (
    "REDIS_URL cannot be used: it is a Redis Cluster. hive needs one server that has all keys (a single Redis or "
    "Valkey, or the primary behind a Sentinel)."
)
#: Refusals that nothing but a change of settings ends, so that nothing else need be asked.
_AT_THE_DOOR: Final = frozenset({"NOAUTH", "WRONGPASS", "DENIED", "DB", "MAXCLIENTS"})


def report(settings: Settings, *, tells_holes: bool = True) -> None:
    """Ask, and say in the log what is missing or odd; nothing where Redis is away. One process in a service tells of
    known holes of this version: `tells_holes`.

    Raises:
        SettingsError: it is a cluster, or has known holes and HIVE_REDIS_HOLES is `refuse`.
    """
    assert settings.redis_url is not None
    address = str(settings.redis_address)
    with connect(settings.redis_url, retries=0) as client:
        try:
            missing = list(_refused(client))
            info = _info(client)
        except RedisError as error:
            if code_of(error) in _CLUSTER_CODES:
                raise SettingsError(_CLUSTER) from None
            fields = {"redis": address, "reason": describe(error)}
            if code_of(error) in _AT_THE_DOOR:
                log.error("Redis cannot be used", extra={"fields": fields})
            elif code_of(error):
                log.warning("Redis refuses for now; waiting for it", extra={"fields": fields})
            else:
                log.warning("Redis is away; waiting for it", extra={"fields": fields})
            return
    if missing:
        fields = {"redis": address, "missing": "; ".join(missing), "hint": "docs/settings.md has the rights"}
        log.error("the user of Redis may not do all that hive needs", extra={"fields": fields})
    if info is None:
        log.warning("INFO is refused: hive does not see when Redis restarts", extra={"fields": {"redis": address}})
        return
    if info.get("redis_mode") == "cluster":
        raise SettingsError(_CLUSTER)
    for sentence in oddities(info):
        log.warning("Redis is not set up as hive needs it", extra={"fields": {"redis": address, "reason": sentence}})
    if settings.redis_holes != "ignore":
        _look_for_holes(settings, info, tells=tells_holes)


def _look_for_holes(settings: Settings, info: dict[str, Any], *, tells: bool) -> None:
    address = settings.redis_address
    assert address is not None
    found = holes(info, is_private=_is_private(address), is_tls=address.tls is not None)
    if found and settings.redis_holes == "refuse":
        raise SettingsError(f"REDIS_URL cannot be used: {found}")
    if found and tells:
        log.warning("Redis has known holes", extra={"fields": {"redis": str(address), "reason": found}})


def _is_private(address: RedisAddress) -> bool:
    """Whether nobody but this user can connect: a socket that is this user's alone, as the one of `hive up`."""
    try:
        found = os.stat(address.path) if address.path is not None else None
    except OSError:
        return False
    return found is not None and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def oddities(info: dict[str, Any]) -> Iterator[str]:
    """What in the answer to INFO will lead to trouble, in sentences."""
    version = str(info.get("valkey_version") or info.get("redis_version") or "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers and numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield f"It is version {version}; hive was tried with {oldest} and later."
    policy = str(info.get("maxmemory_policy") or "noeviction")
    if policy != "noeviction":
        yield f"maxmemory-policy is {policy}, which throws records away when memory is short. Set noeviction."
    if info.get("role") == "slave":
        yield "It is a replica and takes no writes. Name the primary in REDIS_URL."


def _refused(client: RedisClient) -> Iterator[str]:
    """What this user may not do, of all that hive does. Raises redis-py's errors when Redis is away."""
    token, database = secrets.token_hex(4), database_of(client)
    # Redis lets a user subscribe to a pattern only where that very pattern is among the user's.
    pattern = keys.events_pattern(database)
    needs: dict[str, Callable[[], Any]] = {
        "read keys (~hive:*)": lambda: client.get(keys.EPOCH),
        "write keys (~hive:*)": lambda: client.set(f"hive:probe:{token}", 1, px=_PROBE_MS),
        "use RQ's keys (~rq:*)": lambda: client.llen("rq:queue:hive"),
        "run scripts (+eval, +evalsha, +script|load, and +time inside)": lambda: client.eval(
            "return redis.call('TIME')", 0
        ),
        "publish (&hive:*)": lambda: client.publish(keys.probe(token, database), b""),
        f"subscribe (&{pattern})": lambda: _subscribe(client, pattern),
    }
    for need, ask in needs.items():
        try:
            ask()
        except RedisError as error:
            if code_of(error) != "NOPERM":
                raise
            yield need


def _subscribe(client: RedisClient, pattern: str) -> None:
    with client.pubsub() as pubsub:
        pubsub.psubscribe(pattern)
        pubsub.get_message(timeout=1.0)


def _info(client: RedisClient) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.info()
    except RedisError as error:
        if code_of(error) not in ("NOPERM", "REFUSED"):
            raise
        return None
    return found
