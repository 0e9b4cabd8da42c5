"""One reading of REDIS_URL, for the commands and for the subscription.

Problem: redis-py reads a URL leniently. A `#` in a password ends the address there, a database that is no number is
database 0, an option that it does not know fails at the first connection, and its errors quote the password. And who
reads the same URL a second time, for the subscription, reads it otherwise. So it is read once, strictly, when the
settings are; every error says what is wrong and shows no part of the address.

`redis+sentinel://user:password@s1:26379,s2:26379/mymaster/0` names the Sentinels and the primary that they watch.
redis-py has no URL for that; this form is the one of other clients.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

#: What may stand behind the `?`, as redis-py names it.
OPTIONS: Final = frozenset(
    {
        *("db", "username", "password", "client_name"),
        *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile"),
        *("ssl_keyfile", "ssl_password", "ssl_ciphers", "ssl_min_version"),
    }
)
#: What may stand there besides where the Sentinels are named.
SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
#: What the URL may begin with, and whether the connection is TLS.
SCHEMES: Final = {
    "redis": False,
    "rediss": True,
    "unix": False,
    "redis+sentinel": False,
    "rediss+sentinel": True,
}
_SENTINEL: Final = frozenset({"redis+sentinel", "rediss+sentinel"})
#: Sentinels that may be named.
MAX_SENTINELS: Final = 16
_CERT_REQS: Final = frozenset({"none", "optional", "required"})
_TLS_VERSIONS: Final = frozenset({"TLSv1_2", "TLSv1_3"})
_YES: Final = frozenset({"true", "1", "yes", "on"})
_NO: Final = frozenset({"false", "0", "no", "off"})
DEFAULT_PORT: Final = 6379
DEFAULT_SENTINEL_PORT: Final = 26379
#: Characters that no URL has as they are. They mostly come from a password that was not percent-encoded.
_BROKEN: Final = re.compile(r"[\x00-\x20\x7f\\#\"<>^`{|}]|[^\x00-\x7f]")
_BROKEN_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODE: Final = (
    "Write special characters of a password percent-encoded: # is %23, % is %25, / is %2F, ? is %3F, @ is %40."
)


class RedisUrlError(ValueError):
    """The address of Redis cannot be used; the text shows no part of it."""


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is and how to get in. `tls` has the options that begin with `ssl_`, as redis-py names them."""

    db: int
    host: str = "localhost"
    port: int = DEFAULT_PORT
    #: Of a Unix socket, in place of host and port.
    path: str | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    client_name: str | None = None
    #: None for a connection in the clear.
    tls: dict[str, Any] | None = field(default=None, repr=False)
    #: Host and port of the Sentinels that know where the primary is; empty where host and port are its own.
    sentinels: tuple[tuple[str, int], ...] = ()
    #: What the Sentinels call the primary.
    primary_name: str | None = None
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    #: `module:function` that gives user and password anew for each connection; see hive.redis.credentials.
    credentials: str | None = None

    def with_tls_files(self, *, ca: str | None, cert: str | None, key: str | None) -> RedisAddress:
        """The same address with these files, where the URL itself names none.

        Raises:
            RedisUrlError: there are some, and the connection would be in the clear; or a key without its certificate.
        """
        named = {"ssl_ca_certs": ca, "ssl_certfile": cert, "ssl_keyfile": key}
        files = {option: file for option, file in named.items() if file}
        if not files and not self.tls:
            return self
        if self.tls is None:
            raise RedisUrlError("files for TLS are named, and it is an address in the clear. Begin it with rediss://.")
        tls = {**files, **self.tls}
        if tls.get("ssl_keyfile") and not tls.get("ssl_certfile"):
            raise RedisUrlError(
                "it has a key for a client certificate and no certificate. Name it with HIVE_REDIS_CERT_FILE, or "
                "ssl_certfile in the URL."
            )
        return replace(self, tls=_never_ask(tls))

    def __str__(self) -> str:
        """For people and logs: without user, password and options."""
        if self.sentinels:
            places = ",".join(_place(host, port) for host, port in self.sentinels)
            return f"{places}/{self.primary_name}" + (f"/{self.db}" if self.db else "")
        if self.path is not None:
            return f"unix:{self.path}" + (f"?db={self.db}" if self.db else "")
        return _place(self.host, self.port) + (f"/{self.db}" if self.db else "")


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_redis_url(text: str) -> RedisAddress:
    """What the address says.

    Raises:
        RedisUrlError: it says nothing that hive understands.
    """
    url, hosts = _split(text)
    options = _options(url)
    place: dict[str, Any] = {"db": _database(url, options)}
    try:
        if url.scheme in _SENTINEL:
            place.update(sentinels=_sentinels(hosts), primary_name=_primary_name(url))
        elif url.scheme == "unix":
            place["path"] = unquote(url.path)
        else:
            place.update(host=unquote(url.hostname or "localhost"), port=_port(url, DEFAULT_PORT))
    except RedisUrlError:
        raise
    except ValueError:
        raise RedisUrlError(f"its port is no number from 1 to 65535. {_ENCODE}") from None
    return RedisAddress(
        **place,
        username=unquote(url.username or "") or options.get("username") or None,
        password=unquote(url.password or "") or options.get("password") or None,
        client_name=options.get("client_name"),
        sentinel_username=options.get("sentinel_username") or None,
        sentinel_password=options.get("sentinel_password") or None,
        tls=_tls(options) if SCHEMES[url.scheme] else None,
    )


def _split(text: str) -> tuple[SplitResult, str]:
    """The URL's parts, and the list of Sentinels, which no library reads, "" where there is none."""
    if _BROKEN.search(text):
        raise RedisUrlError(f"it has characters that no URL has. {_ENCODE}")
    if _BROKEN_PERCENT.search(text):
        raise RedisUrlError(f"it has a % that begins no encoding. {_ENCODE}")
    scheme, _, rest = text.partition("://")
    hosts = ""
    if scheme.lower() in _SENTINEL:
        place, slash, behind = rest.partition("/")
        who, at, hosts = place.rpartition("@")
        hosts, question, query = hosts.partition("?")
        text = f"{scheme}://{who}{at}sentinels{question}{query}{slash}{behind}"
    try:
        url = urlsplit(text)
    except ValueError:
        raise RedisUrlError(f"it is no URL. {_ENCODE}") from None
    if url.scheme not in SCHEMES:
        raise RedisUrlError("it must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://.")
    if "@" in url.path or "@" in url.query:
        raise RedisUrlError(f"its password has a / or a ?. {_ENCODE}")
    if url.scheme == "unix" and (not url.path or url.hostname):
        raise RedisUrlError("the path of the socket is missing: unix:///path/to/redis.sock.")
    return url, hosts


def _sentinels(hosts: str) -> tuple[tuple[str, int], ...]:
    """Host and port of each. Raises RedisUrlError, and ValueError for a port that is none."""
    found = []
    for host in hosts.split(","):
        one = urlsplit(f"redis://{host}")
        if not one.hostname:
            raise RedisUrlError("the Sentinels are missing: redis+sentinel://s1:26379,s2:26379,s3:26379/mymaster/0.")
        found.append((unquote(one.hostname), _port(one, DEFAULT_SENTINEL_PORT)))
    if len(found) > MAX_SENTINELS:
        raise RedisUrlError(f"it names {len(found)} Sentinels; {MAX_SENTINELS} are the most.")
    return tuple(found)


def _port(url: SplitResult, default: int) -> int:
    """The port, or this one where none is named. Raises ValueError for one that nobody can listen on."""
    if url.port == 0:
        raise ValueError
    return default if url.port is None else url.port


def _primary_name(url: SplitResult) -> str:
    name = unquote(url.path.strip("/").partition("/")[0])
    if not name:
        raise RedisUrlError("the name of the primary is missing: redis+sentinel://s1:26379,s2:26379/mymaster/0.")
    return name


def _options(url: SplitResult) -> dict[str, str]:
    try:
        options = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query), max_num_fields=32))
    except ValueError:
        raise RedisUrlError("what stands behind the ? must be name=value, separated by &.") from None
    known = OPTIONS | SENTINEL_OPTIONS if url.scheme in _SENTINEL else OPTIONS
    if unknown := sorted(options.keys() - known):
        raise RedisUrlError(f"it has an option that hive does not know: {unknown[0][:40]}.")
    if not SCHEMES[url.scheme] and any(name.startswith("ssl_") for name in options):
        raise RedisUrlError("options of TLS need rediss:// in front.")
    return options


def _database(url: SplitResult, options: dict[str, str]) -> int:
    path = "" if url.scheme == "unix" else url.path.strip("/")
    if url.scheme in _SENTINEL:
        path = path.partition("/")[2]
    text = options.get("db") or path or "0"
    if not (text.isascii() and text.isdecimal() and int(text) < 65_536):
        raise RedisUrlError(f"its database is no number: redis://host:6379/0. {_ENCODE}")
    return int(text)


def _tls(options: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if found.get("ssl_cert_reqs", "required") not in _CERT_REQS:
        raise RedisUrlError("ssl_cert_reqs is none, optional or required.")
    if (version := found.pop("ssl_min_version", None)) is not None:
        if version not in _TLS_VERSIONS:
            raise RedisUrlError("ssl_min_version is TLSv1_2 or TLSv1_3.")
        import ssl

        found["ssl_min_version"] = ssl.TLSVersion[version]
    if (check := found.get("ssl_check_hostname")) is not None:
        if check.lower() not in _YES | _NO:
            raise RedisUrlError("ssl_check_hostname is true or false.")
        found["ssl_check_hostname"] = check.lower() in _YES
    elif found.get("ssl_cert_reqs") == "none":
        found["ssl_check_hostname"] = False
    return _never_ask(found)


def _never_ask(tls: dict[str, Any]) -> dict[str, Any]:
    """The same with a password for the key, where none is given: OpenSSL would ask for it on the terminal, and wait."""
    return {"ssl_password": "", **tls} if tls.get("ssl_certfile") or tls.get("ssl_keyfile") else tls
