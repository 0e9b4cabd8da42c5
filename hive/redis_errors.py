"""What Redis says when it does not do what it is asked: an outage, unless it is known to be our own mistake.

Problem: Redis has dozens of ways to refuse, each release knows new ones, and proxies and hosted services have their
own. A list of those that count as an outage is never complete: whatever it lacks was a 500 for people and the end of a
worker. So it is turned round: what redis-py raises is an outage, which passes or which whoever runs Redis ends; only
what tells of a wrong call is a mistake of hive's, and raised as one.

What people read names the reason and the way out: a Redis that refuses a password is not one that does not answer.
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
#: What Redis may answer with the code ERR that is no mistake of the caller.
_REFUSALS_AS_ERR: Final = (
    "acl failure",
    "db index is out of range",
    "max number of clients",
    "unknown command",
    "not allowed",
    "select is not allowed",
    "cluster",
    "operation not permitted",
    "disabled",
)
#: What redis-py puts in front of a reply inside a pipeline: the command, with whatever was in it.
_IN_PIPELINE: Final = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
_CODE: Final = re.compile(r"-?([A-Z][A-Z]{2,})\b")
#: Codes of wrong calls.
_CODES_OF_MISTAKES: Final = frozenset({"ERR", "WRONGTYPE"})
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
    "it is a Redis Cluster, which hive cannot use. Name a single server, or the address of a Sentinel's primary"
)
#: Code -> why, and what to do.
_REASONS: Final = {
    "LOADING": "it is still loading its data. It goes on by itself",
    "OOM": "its memory is full (OOM). Raise maxmemory, or give it a Redis of its own",
    "READONLY": "it is a replica and takes no writes (READONLY). It goes on after a failover; else name the primary in "
    "REDIS_URL",
    "MISCONF": "it cannot save to its disk and takes no writes (MISCONF). Make room there; its log says more",
    "NOREPLICAS": "too few replicas are connected to it (NOREPLICAS). See min-replicas-to-write in its configuration",
    "BUSY": "a script has kept it busy for too long (BUSY). If it does not end: SCRIPT KILL",
    "UNKILLABLE": "a script has kept it busy for too long (UNKILLABLE)",
    "MASTERDOWN": "it has lost its primary (MASTERDOWN). It goes on after a failover",
    "CLUSTERDOWN": _CLUSTER,
    "MOVED": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
    "TRYAGAIN": _CLUSTER,
    "NOAUTH": "it wants a password (NOAUTH). Put it into REDIS_URL: redis://:PASSWORD@host:6379/0",
    "WRONGPASS": "it does not take the user name or password in REDIS_URL (WRONGPASS)",
    "NOPERM": "its user may not do what hive needs (NOPERM). docs/settings.md has the rights",
    "DENIED": "it runs in protected mode and takes no connections from other machines (DENIED). Give it a password",
    "NOPROTO": "it does not speak the protocol that was asked for (NOPROTO)",
    "EXECABORT": "it refused a part of a transaction (EXECABORT)",
    "NOSCRIPT": "it forgets scripts at once (NOSCRIPT)",
    "MAXCLIENTS": "it has as many clients as it takes. Raise maxclients, or look who holds connections open",
    "DB": "it has no database of the number in REDIS_URL",
}


def is_redis_error(error: BaseException) -> bool:
    """Whether this says that Redis is away, silent, or for now unable or unwilling to work."""
    if not isinstance(error, exceptions.RedisError) or isinstance(error, _OWN_MISTAKES):
        return False
    if not isinstance(error, exceptions.ResponseError):
        return True
    return code_of(error) not in _CODES_OF_MISTAKES


def code_of(error: BaseException) -> str:
    """The word with which Redis answered, `ERR` for a call that it does not understand, '' where it did not answer."""
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
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"The certificate of Redis is not trusted: {cause.verify_message}. See ssl_ca_certs in docs/settings.md."
    if isinstance(cause, ssl.SSLError):
        return "Redis does not speak TLS as it is asked to. See rediss:// in docs/settings.md."
    return f"Redis does not answer ({_short(error)}). Nothing is lost; try again in a moment."


def unavailable(error: BaseException) -> RedisUnavailable:
    """The error for people, with the reason."""
    return RedisUnavailable(describe(error))


def _short(error: BaseException) -> str:
    return " ".join((_said(error) or type(error).__name__).split()).rstrip(".")[:200]


def _said(error: BaseException) -> str:
    return _IN_PIPELINE.sub("", str(error))
