"""The address of a hive server as people write it: `host`, `host:port`, `[::1]:port`, or an http(s) URL.

One reading for whoever listens there and for whoever calls. Without a port it is hive's own, 8080; a URL without one
means what URLs mean, 80 or 443.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

#: Where a server listens when nobody says otherwise.
DEFAULT_PORT: Final = 8080
_SCHEME_PORTS: Final = {"http": 80, "https": 443}
#: Addresses that mean "all of this machine's" to whoever listens, and where to reach one of those.
_REACHABLE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


class ServerAddress(NamedTuple):
    """A server: `scheme` is http or https, `path` what stands behind the port, without a slash at its end."""

    scheme: str
    host: str
    port: int
    path: str = ""
    #: `user:password@`, as it was written.
    credentials: str = ""

    @property
    def url(self) -> str:
        """The base URL that a client calls."""
        host = _REACHABLE.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        port = "" if self.port == _SCHEME_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.credentials}{host}{port}{self.path}"


def parse_server_address(text: str) -> ServerAddress:
    """The address in a text.

    Raises:
        ValueError: it is none; the text says how to write one.
    """
    text = text.strip()
    problem = f"{text[:200]!r} is no address of a server. Write host, host:port, or an http(s) URL."
    if "://" not in text and text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(problem) from None
    scheme = parts.scheme or "http"
    if (
        scheme not in _SCHEME_PORTS
        or not host
        or not _is_host(host)
        or parts.query
        or parts.fragment
        or (parts.path and not parts.scheme)
    ):
        raise ValueError(problem)
    if port is None:
        port = _SCHEME_PORTS[scheme] if parts.scheme else DEFAULT_PORT
    credentials, at, _ = parts.netloc.rpartition("@")
    return ServerAddress(scheme, host, port, parts.path.rstrip("/"), credentials + at)


def is_loopback(host: str) -> bool:
    """Whether this number or name is of this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            return bool(ip_address(host.partition("%")[0]))
        except ValueError:
            return False
    return not any(char.isspace() or char in "\\^`{|}<>\"'" for char in host)
