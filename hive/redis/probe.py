"""What Redis is, and what it lets hive do, found out by asking when a process starts.

Problem: a user of Redis without a right, an eviction policy that throws records away, a cluster, a certificate for
another name: each shows itself hours later, as an error of whatever needed it first. So a process that starts asks,
harmlessly, and ends with a sentence where only somebody's hand can help: it says what is missing, in Redis' own terms,
with a code and a way out. A Redis that is away, loads its data or is in the middle of a failover is no reason to end:
hive waits for it. HIVE_REDIS_CHECKS=warn makes a warning of each refusal but that of a cluster, which never becomes
what hive needs.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from hive.given_file import check_given_file
from hive.net.redis_url import RedisAddress
from hive.net.tls import MAX_FILE_BYTES
from hive.redis import rights as redis_rights
from hive.redis.client import (
    CONNECT_TIMEOUT_S,
    RedisClient,
    RedisError,
    ResponseError,
    connect,
    database_of,
    tls_context,
)
from hive.redis.errors import ConnectError, code_of, describe
from hive.redis.info import is_set, read_info, word
from hive.redis.sentinel import said_in
from hive.redis.versions import holes, other_server
from hive.settings import Settings, SettingsError

log = logging.getLogger("hive.redis.probe")

#: The oldest Redis that hive was tried with.
OLDEST: Final = (6, 2)
#: Seconds that a server gets to say what is wrong with a client's certificate.
_ALERT_TIMEOUT_S: Final = 0.5
#: Bytes of what a server says before it is asked anything.
_GREETING_BYTES: Final = 1_024
_CLUSTER: Final = (
    "it is a Redis Cluster. hive needs one server that has all keys (a single Redis or Valkey, or the primary behind a "
    "Sentinel) (CLUSTER)."
)
#: Refusals that nothing but a change of settings, or of Redis, ends.
_AT_THE_DOOR: Final = frozenset(
    {
        *("NOAUTH", "WRONGPASS", "DENIED", "DB", "NOPERM", "CREDENTIALS", "SENTINEL_AUTH", "SENTINEL_UNKNOWN_PRIMARY"),
        *("NOT_REDIS", "NOT_SENTINEL", "SENTINEL"),
        *("TLS_UNTRUSTED", "TLS_EXPIRED", "TLS_HOSTNAME", "TLS_INVALID", "TLS_CLIENT_CERTIFICATE"),
        *("TLS_CLIENT_REFUSED", "TLS_NOT_SPOKEN", "TLS_FILES"),
    }
)
_NO_COMMAND: Final = (
    "it does not have these commands (NO_COMMAND): {}. Do not rename or disable them in redis.conf, and take a server "
    "that docs/redis.md names."
)
_ACL_LINE: Final = "deploy/redis/users.acl has the whole user; docs/redis.md tells what each is for"
#: redis-py's names of the files for TLS, and ours.
_TLS_FILES: Final = {
    "ssl_ca_certs": "HIVE_REDIS_CA_FILE",
    "ssl_certfile": "HIVE_REDIS_CERT_FILE",
    "ssl_keyfile": "HIVE_REDIS_KEY_FILE",
}
_OWN_FILES: Final = ("ssl_certfile", "ssl_keyfile")


class Trouble(NamedTuple):
    """Something about Redis that hive does not go with."""

    code: str
    #: One or two sentences: what it is, and the way out.
    text: str


def report(settings: Settings, *, tells_holes: bool = True) -> None:
    """Ask, and say in the log what is odd; wait for nothing. One process in a service tells of what concerns Redis
    alone, its version's known holes and its persistence: `tells_holes`.

    Raises:
        SettingsError: it is a cluster, has known holes and HIVE_REDIS_HOLES is `refuse`, or cannot be used as it is.
    """
    address = settings.redis_address
    assert address is not None
    try:
        _check_tls_files(settings, address)
        with connect(address, retries=0) as client:
            missing, absent = redis_rights.missing(client, database_of(client))
            info = _info(client)
    except RedisError as error:
        _tell_of_no_connection(settings, address, error)
        return
    mode = info.get("redis_mode") if info else None
    if mode == "cluster":
        raise SettingsError(settings.redis_refusal(_CLUSTER))
    if mode == "sentinel":
        _refuse(settings, Trouble("SENTINEL", describe(ConnectError("SENTINEL"))))
        return
    for trouble in _lacks(missing, absent):
        _refuse(settings, trouble)
    if not info:
        log.warning("INFO is refused: hive does not see when Redis restarts", extra={"fields": {"redis": str(address)}})
        return
    for trouble in troubles(info):
        _refuse(settings, trouble)
    if tells_holes:
        for sentence in oddities(info):
            fields = {"redis": str(address), "reason": sentence}
            log.warning("Redis is not set up as hive needs it", extra={"fields": fields})
    if settings.redis_holes != "ignore":
        _look_for_holes(settings, info, tells=tells_holes)


def _lacks(rules: list[str], commands: list[str]) -> Iterator[Trouble]:
    """What hive may not do there, or nobody can."""
    if commands:
        yield Trouble("NO_COMMAND", _NO_COMMAND.format(" ".join(commands)))
    if rules:
        yield Trouble("NOPERM", f"its user lacks rights (NOPERM): {' '.join(rules)}. {_ACL_LINE}.")


def _tell_of_no_connection(settings: Settings, address: RedisAddress, error: RedisError) -> None:
    """Refuse, or say that Redis is waited for."""
    code, reason = code_of(error), describe(error)
    if code in redis_rights.CLUSTER_CODES:
        raise SettingsError(settings.redis_refusal(_CLUSTER)) from None
    if code in ("REFUSED", "WRONGPASS", "NOAUTH") and _is_sentinel(address):
        error = ConnectError("SENTINEL")
        code, reason = error.code, describe(error)
    told = None
    if code in ("", "SENTINEL_AWAY"):
        told = _why_no_tls(address) if address.tls is not None else _greeting(address)
    if told is not None:
        code, reason = code_of(told), describe(told)
    fields = {"redis": str(address), "reason": reason}
    if code in _AT_THE_DOOR:
        _refuse(settings, Trouble(code, reason))
    elif code:
        log.warning("Redis refuses for now; waiting for it", extra={"fields": fields})
    else:
        if address.tls is None and address.path is None and _was_closed(error):
            fields["hint"] = "a port that speaks TLS needs rediss:// in REDIS_URL"
        log.warning("Redis is away; waiting for it", extra={"fields": fields})


def _refuse(settings: Settings, trouble: Trouble) -> None:
    """Raises SettingsError, or says the same in the log where that is wished."""
    if settings.redis_checks == "warn":
        fields = {"redis": str(settings.redis_address), "code": trouble.code, "reason": trouble.text}
        log.error("Redis cannot be used", extra={"fields": fields})
        return
    raise SettingsError(settings.redis_refusal(trouble.text)) from None


def _check_tls_files(settings: Settings, address: RedisAddress) -> None:
    """Raises ConnectError where a file for TLS cannot be read, or is not what it should be; SettingsError where it is
    none that can be read to its end.
    """
    tls = address.tls or {}
    for option, variable in _TLS_FILES.items():
        file = tls.get(option)
        try:
            if file is not None:
                check_given_file(file, MAX_FILE_BYTES)
        except OSError as error:
            text = f"{option} ({variable}) is {file}, which cannot be read: {error.strerror}"
            if error.errno in (errno.EINVAL, errno.EFBIG):  # whoever opens it would wait, or read, without end
                raise SettingsError(settings.redis_refusal(f"{text} (TLS_FILES).")) from None
            raise ConnectError("TLS_FILES", text) from None
    try:
        tls_context(replace(address, tls={name: value for name, value in tls.items() if name not in _OWN_FILES}))
    except (OSError, ValueError, RedisError) as error:
        text = f"ssl_ca_certs (HIVE_REDIS_CA_FILE) is {tls.get('ssl_ca_certs')}, which holds no certificates in PEM"
        raise ConnectError("TLS_FILES", f"{text}: {_reason(error)}") from None
    try:
        tls_context(address)
    except (OSError, ValueError, RedisError) as error:
        certificate, key = (tls.get(option) for option in _OWN_FILES)
        text = (
            f"ssl_certfile (HIVE_REDIS_CERT_FILE) is {certificate}, and ssl_keyfile (HIVE_REDIS_KEY_FILE) is "
            f"{key or 'not named'}: they must be a certificate in PEM and its key, with ssl_password where it has one"
        )
        raise ConnectError("TLS_FILES", f"{text}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """OpenSSL's word for it."""
    return getattr(error, "reason", None) or type(error).__name__


def _why_no_tls(address: RedisAddress) -> ConnectError | None:
    """Why there is no TLS, where the connection did not say it. With TLS 1.3 a server looks at our certificate when we
    have long been told that all is well, and its answer is lost where it closes the connection while we write.
    """
    context = tls_context(address)
    if context is None:
        return None
    told = (_why_no_tls_at(place, context) for place in address.sentinels or ((address.host, address.port),))
    return next((error for error in told if error is not None), None)


def _why_no_tls_at(place: tuple[str, int], context: ssl.SSLContext) -> ConnectError | None:
    if _answers_in_the_clear(place):
        return ConnectError("TLS_NOT_SPOKEN")
    try:
        with socket.create_connection(place, CONNECT_TIMEOUT_S) as plain:
            plain.settimeout(_ALERT_TIMEOUT_S)
            with context.wrap_socket(plain, server_hostname=place[0]) as secure:
                secure.recv(1)
    except ssl.SSLError as error:
        told = ConnectError("", "the TLS connection is refused")
        told.__cause__ = error
        return told if code_of(told) else None
    except OSError:
        return None
    return None


def _is_sentinel(address: RedisAddress) -> bool:
    """Whether a Sentinel answers there, which has no databases, and no password as a rule."""
    if address.sentinels or address.path is not None:
        return False
    own = replace(address, db=0)
    for asked in (replace(own, username=None, password=None, credentials=None), own):
        try:
            with connect(asked, retries=0) as client:
                hello = client.execute_command("HELLO")
        except RedisError:
            continue
        return said_in(hello, "mode") == "sentinel"
    return False


def _greeting(address: RedisAddress) -> RedisError | None:
    """What a server says to whoever connects, before it closes: that it is in protected mode, or has too many clients.
    It is lost to a client that writes at once.
    """
    if address.sentinels or address.path is not None:
        return None
    try:
        with socket.create_connection((address.host, address.port), CONNECT_TIMEOUT_S) as plain:
            plain.settimeout(_ALERT_TIMEOUT_S)
            said = plain.recv(_GREETING_BYTES).decode("ascii", "replace")
    except OSError:
        return None
    return ResponseError(said[1:].partition("\r\n")[0]) if said.startswith("-") else None


def _answers_in_the_clear(place: tuple[str, int]) -> bool:
    """Whether a Redis without TLS listens there: it waits in silence for the end of what TLS begins with."""
    try:
        with socket.create_connection(place, CONNECT_TIMEOUT_S) as plain:
            plain.settimeout(_ALERT_TIMEOUT_S)
            plain.sendall(b"PING\r\n")
            return plain.recv(1) in (b"+", b"-")
    except OSError:
        return False


def _was_closed(error: RedisError) -> bool:
    return "closed" in str(error).lower() or "reset" in str(error).lower()


def _look_for_holes(settings: Settings, info: dict[str, Any], *, tells: bool) -> None:
    address = settings.redis_address
    assert address is not None
    found = holes(info, is_private=_is_private(address), is_tls=address.tls is not None)
    if found and settings.redis_holes == "refuse":
        raise SettingsError(settings.redis_refusal(found))
    if found and tells:
        log.warning("Redis has known holes", extra={"fields": {"redis": str(address), "reason": found}})


def _is_private(address: RedisAddress) -> bool:
    """Whether nobody but this user can connect: a socket that is this user's alone, as the one of `hive up`."""
    try:
        found = os.stat(address.path) if address.path is not None else None
    except OSError:
        return False
    return found is not None and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def troubles(info: dict[str, Any]) -> Iterator[Trouble]:
    """What in the answer to INFO hive does not go with."""
    version = word(info, "valkey_version") or word(info, "redis_version")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers and numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield Trouble("TOO_OLD", f"it is version {version} (TOO_OLD); hive needs Redis {oldest}, Valkey, or later.")
    if info.get("role") == "slave":
        text = "it is a replica and takes no writes (READONLY). Name the primary, or its Sentinels: redis+sentinel://."
        yield Trouble("READONLY", text)
    if (policy := _policy(info)) != "noeviction" and is_set(info, "maxmemory"):
        text = (
            f"maxmemory-policy is {policy} (EVICTING), which throws records away when memory is short. Set it to "
            "noeviction: CONFIG SET maxmemory-policy noeviction, and in redis.conf."
        )
        yield Trouble("EVICTING", text)


def oddities(info: dict[str, Any]) -> Iterator[str]:
    """What in the answer to INFO may lead to trouble some day, in sentences."""
    if (policy := _policy(info)) != "noeviction" and not is_set(info, "maxmemory"):
        yield (
            f"maxmemory-policy is {policy}, which will throw records away as soon as maxmemory is set. Set it to "
            "noeviction."
        )
    if (other := other_server(info)) is not None:
        yield f"It is {other}, which hive was not tried with."
    if info.get("aof_enabled") == 0:
        yield (
            "It has no append-only file: a restart loses what was written since its last snapshot. Downloads under way "
            "come back from the store, but not the list of ended ones, webhooks that wait, limits. Set appendonly yes."
        )


def _policy(info: Mapping[str, Any]) -> str:
    return word(info, "maxmemory_policy") or "noeviction"


def _info(client: RedisClient) -> dict[str, Any] | None:
    try:
        return read_info(client)
    except RedisError as error:
        if code_of(error) not in ("NOPERM", "REFUSED"):
            raise
        return None
