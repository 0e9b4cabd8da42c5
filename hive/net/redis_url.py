"""One reading of REDIS_URL, for the commands and for the subscription.

Problem: redis-py reads a URL leniently. A `#` in a password ends the address there, a database that is no number is
database 0, an option that it does not know fails at the first connection, and its errors quote the password. And who
reads the same URL a second time, for the subscription, reads it otherwise. So it is read once, strictly, when the
settings are; every error says what is wrong and shows no part of the address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
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
_CERT_REQS: Final = frozenset({"none", "optional", "required"})
_TLS_VERSIONS: Final = frozenset({"TLSv1_2", "TLSv1_3"})
_YES: Final = frozenset({"true", "1", "yes", "on"})
_NO: Final = frozenset({"false", "0", "no", "off"})
DEFAULT_PORT: Final = 6379
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

    def __str__(self) -> str:
        """For people and logs: without user, password and options."""
        if self.path is not None:
            return f"unix:{self.path}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + (f"/{self.db}" if self.db else "")


def parse_redis_url(text: str) -> RedisAddress:
    """What the address says.

    Raises:
        RedisUrlError: it says nothing that hive understands.
    """
    url = _split(text)
    options = _options(url)
    place: dict[str, Any] = {"db": _database(url, options)}
    try:
        if url.scheme == "unix":
            place["path"] = unquote(url.path)
        else:
            place.update(host=unquote(url.hostname or "localhost"), port=url.port or DEFAULT_PORT)
    except ValueError:
        raise RedisUrlError(f"its port is no number from 1 to 65535. {_ENCODE}") from None
    return RedisAddress(
        **place,
        username=unquote(url.username or "") or options.get("username") or None,
        password=unquote(url.password or "") or options.get("password") or None,
        client_name=options.get("client_name"),
        tls=_tls(options) if url.scheme == "rediss" else None,
    )


def _split(text: str) -> SplitResult:
    if _BROKEN.search(text):
        raise RedisUrlError(f"it has characters that no URL has. {_ENCODE}")
    if _BROKEN_PERCENT.search(text):
        raise RedisUrlError(f"it has a % that begins no encoding. {_ENCODE}")
    try:
        url = urlsplit(text)
    except ValueError:
        raise RedisUrlError(f"it is no URL. {_ENCODE}") from None
    if url.scheme not in ("redis", "rediss", "unix"):
        raise RedisUrlError("it must begin with redis://, rediss:// or unix://.")
    if "@" in url.path or "@" in url.query:
        raise RedisUrlError(f"its password has a / or a ?. {_ENCODE}")
    if url.scheme == "unix" and not url.path:
        raise RedisUrlError("the path of the socket is missing: unix:///path/to/redis.sock.")
    return url


def _options(url: SplitResult) -> dict[str, str]:
    try:
        options = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query), max_num_fields=32))
    except ValueError:
        raise RedisUrlError("what stands behind the ? must be name=value, separated by &.") from None
    if unknown := sorted(options.keys() - OPTIONS):
        raise RedisUrlError(f"it has an option that hive does not know: {unknown[0][:40]}.")
    if url.scheme != "rediss" and any(name.startswith("ssl_") for name in options):
        raise RedisUrlError("options of TLS need rediss:// in front.")
    return options


def _database(url: SplitResult, options: dict[str, str]) -> int:
    text = options.get("db") or ("" if url.scheme == "unix" else url.path.strip("/")) or "0"
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
    return found
