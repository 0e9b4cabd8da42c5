"""A refusal of Redis is an outage with a name; only a wrong call of ours is an error of ours."""

from __future__ import annotations

import fakeredis
import pytest
import redis
from redis._parsers.base import BaseParser

from hive.redis.errors import describe, is_redis_error, unavailable

#: What servers answer -> what people read of it.
REFUSALS = {
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist on disk.": "MISCONF",
    "NOREPLICAS Not enough good replicas to write.": "NOREPLICAS",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": "BUSY",
    "UNKILLABLE Sorry the script already executed write commands against the dataset.": "UNKILLABLE",
    "READONLY You can't write against a read only replica.": "READONLY",
    "OOM command not allowed when used memory > 'maxmemory'.": "OOM",
    "OOM command not allowed when used memory > 'maxmemory'. script: 0ab, on @user_script:12.": "OOM",
    "ERR Error running script (call to f_0ab): @user_script:12: -OOM command not allowed when used memory": "OOM",
    "ERR Error running script (call to f_0ab): @user_script:3: -READONLY You can't write against": "READONLY",
    "ERR Error running script (call to f_0ab): @user_script: 12: -MISCONF Redis is configured to": "MISCONF",
    "LOADING Redis is loading the dataset in memory": "loading",
    "CLUSTERDOWN The cluster is down": "Cluster",
    "MOVED 3999 127.0.0.1:6381": "Cluster",
    "ASK 3999 127.0.0.1:6381": "Cluster",
    "CROSSSLOT Keys in request don't hash to the same slot": "Cluster",
    "TRYAGAIN Multiple keys request during rehashing of slot": "Cluster",
    "ERR SELECT is not allowed in cluster mode": "Cluster",
    "NOAUTH Authentication required.": "NOAUTH",
    "ERR Protocol error: unauthenticated multibulk length": "NOAUTH",
    "ERR Protocol error: unauthenticated bulk length": "NOAUTH",
    "WRONGPASS invalid username-password pair or user is disabled.": "WRONGPASS",
    "ERR invalid password": "WRONGPASS",
    "NOPERM this user has no permissions to run the 'info' command": "NOPERM",
    "NOPERM No permissions to access a channel used as an argument to PUBLISH": "NOPERM",
    "ERR Error running script: The user executing the script can't run this command or subcommand": "NOPERM",
    "ERR ACL failure in script: User hive has no permissions to run the 'time' command": "NOPERM",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "MASTERDOWN",
    "EXECABORT Transaction discarded because of previous errors.": "EXECABORT",
    "ERR max number of clients reached": "maxclients",
    "ERR DB index is out of range": "database",
    "ERR unknown command 'EVALSHA', with args beginning with:": "unknown command",
    "DENIED Redis is running in protected mode because": "protected mode",
    "NOSCRIPT No matching script. Please use EVAL.": "NOSCRIPT",
    "WRONGTYPE Operation against a key holding the wrong kind of value": "WRONGTYPE",
    "WRONGTYPE Operation against a key holding the wrong kind of value script: 0ab, on @user_script:12.": "WRONGTYPE",
    "SOMETHINGNEW that a later release says": "SOMETHINGNEW",
}
MISTAKES = (
    "ERR wrong number of arguments for 'zadd' command",
    "ERR value is not an integer or out of range",
    "ERR syntax error",
    "ERR Error running script (call to f_0ab): @user_script:1: user_script:1: attempt to index a nil value",
    "ERR Error compiling script (new function): user_script:1: '=' expected near '<eof>'",
)


def as_redis_py_raises_it(reply: str) -> Exception:
    error: Exception = BaseParser.parse_error(reply)  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize(("reply", "said"), REFUSALS.items())
def test_a_refusal_is_an_outage_that_says_why(reply: str, said: str) -> None:
    error = as_redis_py_raises_it(reply)
    assert is_redis_error(error)
    assert describe(error).startswith("Redis refuses: ")
    assert said in describe(error)
    assert "does not answer" not in describe(error)
    assert unavailable(error).status == 503


def test_a_refusal_inside_a_pipeline_is_one_too_and_the_command_is_not_shown() -> None:
    client = fakeredis.FakeRedis()
    with client.pipeline() as pipeline:
        pipeline.set("key", "a secret (of somebody)")
        error = as_redis_py_raises_it("MISCONF Redis is configured to save RDB snapshots")
        pipeline.annotate_exception(error, 1, ("SET", "key", "a secret (of somebody)"))  # type: ignore[no-untyped-call]
    assert "secret" in str(error)
    assert is_redis_error(error)
    assert "MISCONF" in describe(error)
    assert "secret" not in describe(error)


@pytest.mark.parametrize("reply", MISTAKES)
def test_a_wrong_call_is_a_mistake_of_ours(reply: str) -> None:
    assert not is_redis_error(as_redis_py_raises_it(reply))


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("Error 111 connecting to host:6379. Connection refused."),
        redis.TimeoutError("Timeout reading from socket"),
        redis.exceptions.MaxConnectionsError("Too many connections"),
    ],
)
def test_a_redis_that_is_away_does_not_answer(error: Exception) -> None:
    assert is_redis_error(error)
    assert describe(error).startswith("Redis does not answer (")
    assert str(error).rstrip(".") in describe(error)


@pytest.mark.parametrize(
    "error", [redis.DataError("x"), redis.WatchError("x"), redis.exceptions.LockError("x"), ValueError("x")]
)
def test_what_redis_has_not_said_is_no_outage(error: Exception) -> None:
    assert not is_redis_error(error)
