"""What Redis says when it does not do what it is asked: an outage, unless it is known to be our own mistake.

Problem: Redis has dozens of ways to refuse, each release knows new ones, and proxies and hosted services have their
own. A list of those that count as an outage is never complete: whatever it lacks was a 500 for people and the end of a
worker. So it is turned round: what redis-py raises is an outage, which passes or which whoever runs Redis ends; only
what tells of a wrong call is a mistake of hive's, and raised as one.

What people read names the reason and the way out: a Redis that refuses a password is not one that does not answer.
Each reason has a code, in parentheses at the end of it: Redis' own word, or one of hive's where there is no answer
(TLS_HOSTNAME, SENTINEL_AWAY). docs/redis.md lists them.
"""

from __future__ import annotations

import re
import ssl
from typing import Final

from redis import exceptions

from hive.errors import RedisUnavailable

#: Wrong use of redis-py.
_OWN_MISTAKES: Final = (
    exceptions.DataError,
    exceptions.WatchError,
    exceptions.LockError,
    exceptions.PubSubError,
    exceptions.InvalidPipelineStack,
)
#: How Redis answers a command that it does not have.
UNKNOWN_COMMAND: Final = "unknown command"
#: What Redis may answer with the code ERR that is no mistake of the caller, and has no code of its own below.
_REFUSALS_AS_ERR: Final = (UNKNOWN_COMMAND, "not allowed", "operation not permitted", "disabled")
#: What redis-py puts in front of a reply inside a pipeline: the command, with whatever was in it.
_IN_PIPELINE: Final = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
_CODE: Final = re.compile(r"-?([A-Z][A-Z]{2,})\b")
#: Codes of wrong calls.
_CODES_OF_MISTAKES: Final = frozenset({"ERR"})
#: What redis-py takes from the text, by its class; subclasses first.
_CODES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.AskError, "MOVED"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.NoScriptError, "NOSCRIPT"),
    (exceptions.ExecAbortError, "EXECABORT"),
)
_CLUSTER: Final = (
    "it is a Redis Cluster, which hive cannot use (CLUSTER). Name a single server, or its Sentinels with "
    "redis+sentinel://"
)
#: Code -> why, and what to do.
_REASONS: Final = {
    "LOADING": "it is still loading its data. It goes on by itself",
    "OOM": "its memory is full (OOM). Raise maxmemory, or give it a Redis of its own",
    "READONLY": "it is a replica and takes no writes (READONLY). It goes on after a failover; else name the primary in "
    "REDIS_URL, or its Sentinels with redis+sentinel://",
    "MISCONF": "it cannot save to its disk and takes no writes (MISCONF). Make room there; its log says more",
    "NOREPLICAS": "too few replicas are connected to it (NOREPLICAS). See min-replicas-to-write in its configuration",
    "BUSY": "a script has kept it busy for too long (BUSY). If it does not end: SCRIPT KILL",
    "UNBLOCKED": "it is no primary any more (UNBLOCKED). It goes on after a failover",
    "UNKILLABLE": "a script has kept it busy for too long (UNKILLABLE)",
    "MASTERDOWN": "it has lost its primary (MASTERDOWN). It goes on after a failover",
    "CLUSTERDOWN": _CLUSTER,
    "MOVED": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
    "TRYAGAIN": _CLUSTER,
    "NOAUTH": "it wants a password (NOAUTH). Put it into REDIS_URL: redis://:PASSWORD@host:6379/0",
    "WRONGPASS": "it does not take the user name or password of REDIS_URL or HIVE_REDIS_CREDENTIALS (WRONGPASS). "
    "redis-cli --user NAME --askpass ping tries them",
    "NOPERM": "its user may not do what hive needs (NOPERM). docs/redis.md has the rights",
    "DENIED": "it runs in protected mode and takes no connections from other machines (DENIED). Give it a password",
    "NOPROTO": "it does not speak the protocol that was asked for (NOPROTO)",
    "WRONGTYPE": "a key of hive's holds what hive has not written (WRONGTYPE). docs/redis.md says how to find it; give "
    "hive a Redis of its own",
    "EXECABORT": "it refused a part of a transaction (EXECABORT)",
    "NOSCRIPT": "it forgets scripts at once (NOSCRIPT)",
    "MAXCLIENTS": "it has as many clients as it takes (MAXCLIENTS). Raise maxclients, or look who holds connections "
    "open",
    "DB": "it has no database of the number in REDIS_URL (DB). Name a lower one, or raise databases",
}
#: The same for what is no answer of Redis: whole sentences, but for the stop.
_OTHER_REASONS: Final = {
    "TLS_UNTRUSTED": "The certificate of Redis is signed by nobody that is trusted (TLS_UNTRUSTED). Name its CA with "
    "HIVE_REDIS_CA_FILE, or ssl_ca_certs in REDIS_URL",
    "TLS_EXPIRED": "The certificate of Redis has expired, or is not valid yet (TLS_EXPIRED). Renew it, and look at the "
    "clocks",
    "TLS_HOSTNAME": "The certificate of Redis is for another host name than the one in REDIS_URL, or that a Sentinel "
    "names (TLS_HOSTNAME). Use a name that the certificate has",
    "TLS_INVALID": "The certificate of Redis is not valid (TLS_INVALID)",
    "TLS_CLIENT_CERTIFICATE": "Redis wants a client certificate (TLS_CLIENT_CERTIFICATE). Name one with "
    "HIVE_REDIS_CERT_FILE and HIVE_REDIS_KEY_FILE, or ssl_certfile and ssl_keyfile in REDIS_URL",
    "TLS_CLIENT_REFUSED": "Redis does not take the client certificate (TLS_CLIENT_REFUSED). It must be signed by a CA "
    "that Redis trusts, and be valid",
    "TLS_NOT_SPOKEN": "What listens there does not speak TLS as it is asked to (TLS_NOT_SPOKEN). Its TLS port is "
    "another one, or REDIS_URL begins with redis://; see rediss:// in docs/redis.md",
    "TLS_FILES": "A file of REDIS_URL or HIVE_REDIS_CA_FILE, HIVE_REDIS_CERT_FILE, HIVE_REDIS_KEY_FILE cannot be used "
    "(TLS_FILES)",
    "NOT_REDIS": "What listens there is no Redis (NOT_REDIS). Look at host and port in REDIS_URL",
    "SENTINEL": "What listens there is a Sentinel (SENTINEL). Begin REDIS_URL with redis+sentinel:// and name its "
    "primary: redis+sentinel://host:26379/mymaster/0",
    "NOT_SENTINEL": "What REDIS_URL names as a Sentinel is none (NOT_SENTINEL). Name the Sentinels' port, 26379 as a "
    "rule, or begin it with redis://",
    "SENTINEL_AWAY": "No Sentinel answers (SENTINEL_AWAY). Look at the addresses in REDIS_URL",
    "SENTINEL_AUTH": "The Sentinels do not take the user or password (SENTINEL_AUTH). Theirs are sentinel_username and "
    "sentinel_password in REDIS_URL, not those of Redis",
    "SENTINEL_UNKNOWN_PRIMARY": "No Sentinel knows a primary of that name (SENTINEL_UNKNOWN_PRIMARY). SENTINEL MASTERS "
    "lists the names",
    "SENTINEL_STALE": "The server that the Sentinel names is no primary (SENTINEL_STALE). It goes on when it is one",
}
#: OpenSSL's numbers of why a certificate is not trusted.
_EXPIRED: Final = frozenset({9, 10})
_OTHER_NAME: Final = frozenset({62, 64})
_NO_ISSUER: Final = frozenset({2, 7, 18, 19, 20, 21, 24, 26, 27})
#: Exceptions behind one another that are looked at.
_MAX_CAUSES: Final = 8


class ConnectError(exceptions.ConnectionError):
    """There is no connection, for a reason that has a code."""

    def __init__(self, code: str, text: str | None = None) -> None:
        """`text`: a sentence without its stop, where the code alone does not say all."""
        super().__init__(f"{text} ({code})" if text else _OTHER_REASONS[code])
        self.code = code


def is_redis_error(error: BaseException) -> bool:
    """Whether this says that Redis is away, silent, or for now unable or unwilling to work."""
    if not isinstance(error, exceptions.RedisError) or isinstance(error, _OWN_MISTAKES):
        return False
    if not isinstance(error, exceptions.ResponseError):
        return True
    return code_of(error) not in _CODES_OF_MISTAKES


def is_of_another_type(error: BaseException) -> bool:
    """Whether this says that a key is of another type than hive makes it. One such record is no outage."""
    return code_of(error) == "WRONGTYPE"


def code_of(error: BaseException) -> str:
    """The word with which Redis answered, `ERR` for a call that it does not understand, hive's own for a connection
    that is refused before that, '' where there is no answer.
    """
    if isinstance(error, exceptions.ConnectionError) and not isinstance(error, exceptions.AuthenticationError):
        if code := _code_of_tls(error):
            return code
        if isinstance(error, ConnectError):
            return error.code
    if isinstance(error, exceptions.InvalidResponse):
        return "NOT_REDIS"
    text = _said(error)
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    if isinstance(error, exceptions.AuthenticationError):
        return "NOAUTH" if "required" in text.lower() else "WRONGPASS"
    if "max number of clients" in text.lower():
        return "MAXCLIENTS"
    if not isinstance(error, exceptions.ResponseError):
        found = _CODE.match(text)
        return found[1] if found and found[1] in _REASONS else ""
    return _code_in(text)


def _code_in(text: str) -> str:
    """The code in a reply's text. Older servers put what a script met behind `ERR Error running script`."""
    lower = text.lower()
    if "db index is out of range" in lower:
        return "DB"
    if any(part in lower for part in ("acl failure", "has no permissions", "the user executing the script")):
        return "NOPERM"
    if "protocol error: unauthenticated" in lower:
        return "NOAUTH"  # of a command that is longer than it reads from a stranger
    if "cluster" in lower:
        return "CLUSTERDOWN"
    first = _CODE.match(text)
    if first and first[1] != "ERR":
        return first[1]
    for found in _CODE.finditer(text):
        if found[1] in _REASONS:
            return found[1]
    return "REFUSED" if any(part in lower for part in _REFUSALS_AS_ERR) else "ERR"


def describe(error: BaseException) -> str:
    """Why Redis cannot be used, and what to do, in a sentence or two, without a password."""
    code = code_of(error)
    if code in _REASONS:
        return f"Redis refuses: {_REASONS[code]}."
    if isinstance(error, exceptions.ResponseError):
        return f"Redis refuses: {_short(error)}."
    if code in _OTHER_REASONS and not isinstance(error, ConnectError):
        return f"{_OTHER_REASONS[code]}."
    if isinstance(error, ConnectError):
        return f"{_OTHER_REASONS[code] if code.startswith('TLS_') and code != error.code else error}."
    return f"Redis does not answer ({_short(error)}). Nothing is lost; try again in a moment."


def _code_of_tls(error: BaseException) -> str:
    """Why there is no TLS, by what OpenSSL says somewhere behind this error; '' where it says nothing."""
    behind: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if behind is None:
            break
        if isinstance(behind, ssl.SSLCertVerificationError):
            return _code_of_certificate(behind.verify_code)
        if isinstance(behind, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return ""  # it was closed, as any connection may be
        if isinstance(behind, ssl.SSLError):
            return _code_of_alert(behind.reason or "")
        behind = behind.__cause__ or (None if behind.__suppress_context__ else behind.__context__)
    return ""


def _code_of_certificate(number: int) -> str:
    if number in _EXPIRED:
        return "TLS_EXPIRED"
    if number in _OTHER_NAME:
        return "TLS_HOSTNAME"
    return "TLS_UNTRUSTED" if number in _NO_ISSUER else "TLS_INVALID"


def _code_of_alert(reason: str) -> str:
    """By OpenSSL's name for what went wrong: an ALERT is what the server answered to our certificate, or to none."""
    if "CERTIFICATE_REQUIRED" in reason or reason.endswith("ALERT_HANDSHAKE_FAILURE"):
        return "TLS_CLIENT_CERTIFICATE"
    if "ALERT" in reason and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "DECRYPT_ERROR", "DENIED")):
        return "TLS_CLIENT_REFUSED"
    if reason in ("KEY_VALUES_MISMATCH", "PEM_LIB", "NO_START_LINE", "NO_CERTIFICATE_OR_CRL_FOUND"):
        return "TLS_FILES"
    return "TLS_NOT_SPOKEN"


def unavailable(error: BaseException) -> RedisUnavailable:
    """The error for people, with the reason."""
    return RedisUnavailable(describe(error))


def _short(error: BaseException) -> str:
    return " ".join((_said(error) or type(error).__name__).split()).rstrip(".")[:200]


def _said(error: BaseException) -> str:
    return _IN_PIPELINE.sub("", str(error))
