"""Parsing a URL once, and strictly.

What two parsers read differently is refused, and the URL is rebuilt from the parts.

Problem: `http://good\\@127.0.0.1/` is one host to urllib and another to requests, so a check by one and a connection by
the other is no check. The easy way, trusting either, has been an advisory a year. Here only plain URLs pass: no user
info, no backslash, no control characters, no white space, and a host of letters, digits, dots and hyphens or a
bracketed IPv6 address.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urljoin

from hive.errors import UnsafeUrl

#: Characters. Signed URLs have some 2,000.
MAX_URL_CHARS = 16_384

_PLAIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9._-]{0,252})|\[[0-9a-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?(?P<target>[/?][^#]*)?(?:#.*)?",
    re.IGNORECASE,
)
_PRINTABLE = "".join(map(chr, range(33, 127)))
_DEFAULT_PORT = {"http": 80, "https": 443}


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
        port = "" if self.port == _DEFAULT_PORT[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.target}"

    def __repr__(self) -> str:
        return f"Url({self.scheme}://{self.host}:{self.port}/...)"


def parse_url(text: str) -> Url:
    """The URL in parts; raises UnsafeUrl, whose message names the rule and never the URL."""
    text = _ascii(text)
    found = _PLAIN.fullmatch(text)
    if found is None:
        raise UnsafeUrl(
            "The URL is not a plain http or https URL: no user info, and a host of letters, digits, dots and hyphens."
        )
    scheme = found["scheme"].lower()
    port = int(found["port"]) if found["port"] else _DEFAULT_PORT[scheme]
    if not 0 < port < 65536:
        raise UnsafeUrl("The URL's port is not a port.")
    target = found["target"] or "/"
    return Url(scheme, found["host"].lower(), port, target if target.startswith("/") else "/" + target)


def next_hop(url: Url, location: str) -> Url:
    """Where a redirect leads; raises UnsafeUrl, also for a step from https down to http."""
    # Header values come as Latin-1; servers write UTF-8 into them, and sometimes spaces.
    location = location.strip().encode("latin-1", "replace").decode("utf-8", "replace").replace(" ", "%20")
    target = parse_url(urljoin(str(url), _ascii(location)))
    if url.scheme == "https" and target.scheme == "http":
        raise UnsafeUrl("A redirect leads from https to http; hive does not follow it.")
    return target


def signed_url_expiry(url: str) -> float | None:
    """The Unix second at which a signed URL (CloudFront, S3, GCS, Azure) is refused, or None when it does not say."""
    query = {name.lower(): value for name, value in parse_qsl(url.partition("?")[2], max_num_fields=100)}
    try:
        if "expires" in query:
            return float(int(query["expires"]))
        for vendor in ("x-amz", "x-goog"):
            if f"{vendor}-expires" in query:
                began = datetime.strptime(query[f"{vendor}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return began.timestamp() + int(query[f"{vendor}-expires"])
        if "sig" in query and "se" in query:
            return datetime.fromisoformat(query["se"].replace("Z", "+00:00")).timestamp()
    except (ValueError, KeyError, OverflowError):
        return None
    return None


def expired(expires_at: float | None, margin_s: float) -> bool:
    """Whether a URL with that expiry should be resolved anew."""
    return expires_at is not None and time.time() > expires_at - margin_s


def _ascii(text: str) -> str:
    """The text with non-ASCII characters percent-encoded.

    Before urljoin sees it, which drops tabs and line ends in silence.
    """
    if len(text) > MAX_URL_CHARS:
        raise UnsafeUrl("The URL is too long.")
    if any(char <= " " or char in "\x7f\\" for char in text):
        raise UnsafeUrl("The URL contains white space, a control character or a backslash.")
    return quote(text, safe=_PRINTABLE)
