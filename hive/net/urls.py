"""Parsing a URL once, and strictly.

What two parsers read differently is refused, and the URL is rebuilt from the parts.

Problem: `http://good\\@127.0.0.1/` is one host to urllib and another to requests, so a check by one and a connection by
the other is no check. The easy way, trusting either, has been an advisory a year. Here only plain URLs pass: no user
info, no backslash, no control characters, no white space, and a host of letters, digits, dots and hyphens or a
bracketed IPv6 address.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import quote

from hive.errors import UnsafeUrl

#: Characters. Signed URLs have some 2,000.
MAX_URL_CHARS = 16_384

_PLAIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9._-]{0,252})|\[[0-9a-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?(?P<target>[/?][^#]*)?(?:#.*)?",
    re.IGNORECASE,
)
_PRINTABLE = "".join(map(chr, range(33, 127)))
#: The port of a URL that names none, by scheme.
DEFAULT_PORTS = {"http": 80, "https": 443}


class Url(NamedTuple):
    """An http(s) URL in parts; `target` is path and query as sent."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """What credentials belong to."""
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.target}"

    def __repr__(self) -> str:
        return f"Url({self.scheme}://{self.host}:{self.port}/...)"


def parse_url(text: str) -> Url:
    """The URL in parts; raises UnsafeUrl, whose message names the rule and never the URL."""
    text = to_ascii(text)
    found = _PLAIN.fullmatch(text)
    if found is None:
        raise UnsafeUrl(
            "The URL is not a plain http or https URL: no user info, and a host of letters, digits, dots and hyphens."
        )
    scheme, host = found["scheme"].lower(), found["host"].lower()
    if host.startswith("[") and not _is_ipv6(host[1:-1]):
        raise UnsafeUrl("What stands in the URL's brackets is no address.")
    port = int(found["port"]) if found["port"] else DEFAULT_PORTS[scheme]
    if not 0 < port < 65536:
        raise UnsafeUrl("The URL's port is not a port.")
    target = found["target"] or "/"
    return Url(scheme, host, port, target if target.startswith("/") else "/" + target)


def _is_ipv6(text: str) -> bool:
    try:
        return bool(IPv6Address(text))
    except ValueError:
        return False


def to_ascii(text: str) -> str:
    """The text with non-ASCII characters percent-encoded; raises UnsafeUrl.

    Before any parser sees it: urljoin drops tabs and line ends in silence.
    """
    if len(text) > MAX_URL_CHARS:
        raise UnsafeUrl("The URL is too long.")
    if any(char <= " " or char in "\x7f\\" for char in text):
        raise UnsafeUrl("The URL contains white space, a control character or a backslash.")
    return quote(text, safe=_PRINTABLE, errors="surrogateescape")
