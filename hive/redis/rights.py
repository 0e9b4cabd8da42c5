"""The rights that hive's user needs in Redis (ACL), command by command, and what of them is missing.

Problem: a user with too few rights works until the first pause, webhook or dead worker, and fails in the middle of it;
so people give `+@all`. The easy way, a documented line, is wrong after the next release. So the rights are this table:
deploy/redis/users.acl is made of it, tests run everything that hive does under it and allow no more in it than was
used, and a process that starts asks Redis for each.

ACL DRYRUN would tell, but needs a right that nobody should have. Inside MULTI Redis checks the rights of a command when
it is queued, and a connection that is closed takes all of them with it: nothing is done, in three round trips.
"""

from __future__ import annotations

from typing import Any, Final

from redis.exceptions import ResponseError

from hive.redis.client import RedisClient
from hive.redis.errors import UNKNOWN_COMMAND, code_of
from hive.wire import keys

#: Keys that hive reads and writes, and those of RQ.
KEY_PATTERNS: Final = ("hive:*", "rq:*")
_KEY: Final = "hive:probe:rights"
_RQ_KEY: Final = "rq:queue:hive"

#: What for -> each command with arguments that it takes.
CALLS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "connections, readiness": (("PING",), ("CLIENT", "SETNAME", "hive"), ("CLIENT", "INFO")),
    "transactions of RQ": (("WATCH", _KEY), ("UNWATCH",), ("MULTI",), ("EXEC",)),
    "scripts": (("EVALSHA", "0" * 40, "0"), ("SCRIPT", "LOAD", "return 1")),
    "time of leases": (("TIME",),),
    "keys of any kind": (
        ("DEL", _KEY),
        ("EXISTS", _KEY),
        ("EXPIRE", _KEY, "1"),
        ("PERSIST", _KEY),
        ("PEXPIRE", _KEY, "1"),
        ("PTTL", _KEY),
        ("TTL", _KEY),
        ("TYPE", _KEY),
    ),
    "strings: marks, limits, leases of files, sealed credentials": (("GET", _KEY), ("MGET", _KEY), ("SET", _KEY, "1")),
    "hashes: records, workers, replicas, webhooks, counters": (
        ("HDEL", _KEY, "f"),
        ("HEXISTS", _KEY, "f"),
        ("HGET", _KEY, "f"),
        ("HGETALL", _KEY),
        ("HINCRBY", _KEY, "f", "1"),
        ("HINCRBYFLOAT", _KEY, "f", "1"),
        ("HKEYS", _KEY),
        ("HMGET", _KEY, "f"),
        ("HSET", _KEY, "f", "1"),
        ("HSETNX", _KEY, "f", "1"),
        ("HVALS", _KEY),
    ),
    "lists: the queue, questions for resolvers": (
        ("BLMOVE", _RQ_KEY, _RQ_KEY, "LEFT", "RIGHT", "1"),
        ("BLPOP", _KEY, "1"),
        ("LLEN", _RQ_KEY),
        ("LRANGE", _KEY, "0", "1"),
        ("LREM", _KEY, "1", "v"),
        ("LTRIM", _KEY, "0", "1"),
        ("RPUSH", _KEY, "v"),
    ),
    "sets: paused downloads, owners, members": (
        ("SADD", _KEY, "v"),
        ("SCARD", _KEY),
        ("SMEMBERS", _KEY),
        ("SREM", _KEY, "v"),
    ),
    "sorted sets: indexes, leases, the order of the queue": (
        ("ZADD", _KEY, "1", "v"),
        ("ZCARD", _KEY),
        ("ZCOUNT", _KEY, "0", "1"),
        ("ZRANGE", _KEY, "0", "1"),
        ("ZRANGEBYSCORE", _KEY, "0", "1"),
        ("ZRANK", _KEY, "v"),
        ("ZREM", _KEY, "v"),
        ("ZREMRANGEBYSCORE", _KEY, "0", "1"),
        ("ZREVRANGEBYSCORE", _KEY, "1", "0"),
        ("ZSCAN", _KEY, "0"),
        ("ZSCORE", _KEY, "v"),
    ),
    "results of RQ's jobs": (("XADD", _KEY, "*", "f", "v"),),
}
#: What hive does without; it sees less then.
INFO: Final = "+info"
#: What makes a connection. Who lacks them has none.
CONNECTING: Final = ("+auth", "+hello", "+select")
#: What a Redis Cluster says of keys that it has elsewhere.
CLUSTER_CODES: Final = frozenset({"CLUSTERDOWN", "MOVED", "CROSSSLOT", "TRYAGAIN"})
#: What cannot be queued in a transaction, and does nothing outside of one.
_OUTSIDE: Final = ("WATCH", "UNWATCH", "EXEC", "MULTI")


def channel_pattern(database: int) -> str:
    """The pattern of a database's channels: Redis lets a user subscribe to a pattern only where that very pattern is
    among the user's.
    """
    return keys.DOWNLOAD_CHANNELS.pattern(database)


def rules(database: int = 0) -> list[str]:
    """All rules of the user, as ACL SETUSER takes them, but for the password."""
    commands = [rule_of(call) for calls in CALLS.values() for call in calls]
    patterns = [f"~{pattern}" for pattern in KEY_PATTERNS]
    channels = ["resetchannels", f"&{channel_pattern(database)}", "-@all"]
    return ["resetkeys", *patterns, *channels, *CONNECTING, INFO, *commands, "+publish", "+psubscribe"]


def rule_of(call: tuple[str, ...]) -> str:
    """`+command`, or `+command|subcommand`."""
    return f"+{call[0]}|{call[1]}".lower() if call[0] in ("CLIENT", "SCRIPT") else f"+{call[0]}".lower()


def missing(client: RedisClient, database: int) -> tuple[list[str], list[str]]:
    """The rules that this user lacks, of those that hive cannot do without, and the commands that the server does not
    have (renamed, disabled, too new for it), each once. Does nothing to what is in Redis. Raises redis-py's errors when
    Redis is away, or refuses for another reason.
    """
    channel = channel_pattern(database)
    calls = [call for calls in CALLS.values() for call in calls]
    outside = [call for call in calls if call[0] in _OUTSIDE and call[0] != "MULTI"]
    inside = [call for call in calls if call[0] not in _OUTSIDE]
    inside += [("PUBLISH", channel.replace("*", "probe:rights"), ""), ("PSUBSCRIBE", channel)]
    connection = client.connection_pool.get_connection()
    try:
        answers = _send(connection, outside)
        (began,) = _send(connection, [("MULTI",)])
        if isinstance(began, ResponseError) and code_of(began) != "NOPERM" and not _is_unknown(began):
            raise began
        if isinstance(began, ResponseError):  # without it the others would be done
            outside, answers, inside = [*outside, ("MULTI",)], [*answers, began], []
        answers += _send(connection, inside)
    finally:
        connection.disconnect()
        client.connection_pool.release(connection)
    for answer in answers:
        if isinstance(answer, ResponseError) and code_of(answer) in CLUSTER_CODES:
            raise answer
    answered = list(zip([*outside, *inside], answers, strict=True))
    rules_missing = (_missing(call, answer, channel) for call, answer in answered)
    absent = (rule_of(call)[1:].replace("|", " ").upper() for call, answer in answered if _is_unknown(answer))
    return [*dict.fromkeys(rule for rule in rules_missing if rule)], [*dict.fromkeys(absent)]


def _is_unknown(answer: Any) -> bool:
    return isinstance(answer, ResponseError) and UNKNOWN_COMMAND in str(answer).lower()


def _missing(call: tuple[str, ...], answer: Any, channel: str) -> str | None:
    """The rule that this refusal is for."""
    # Whatever refuses an EXEC says that the transaction is off.
    codes = ("NOPERM", "EXECABORT") if call == ("EXEC",) else ("NOPERM",)
    if not isinstance(answer, ResponseError) or code_of(answer) not in codes:
        return None
    text = str(answer).lower()
    if "to run the" in text:
        return rule_of(call)
    if "channel" in text:
        return f"&{channel}"
    return f"~{KEY_PATTERNS[1 if _RQ_KEY in call else 0]}"


def _send(connection: Any, calls: list[tuple[str, ...]]) -> list[Any]:
    """The answers, errors among them."""
    if calls:
        connection.send_packed_command(connection.pack_commands(calls))
    return [_read(connection) for _ in calls]


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
