"""Egress: where a connection of ours may go, and how it gets there. One guard for every client of ours.

Problem: a URL from a stranger, or a redirect of somebody's mirror, may lead into the own network (SSRF). The easy way,
a check of the name before a library is called, is void: the library resolves the name again, and follows redirects to
names that nobody checked. So a name is resolved here, once for each connection, every address of it is checked, and
the socket is connected here to one of those. What makes requests (urllib3 for bytes, httpcore2 for the Hub's API and
for webhooks) gets its sockets from here, and goes by the same proxies, certificates and redirect rule.

`Network` is all that a client has to know to get out. Nothing here reads the environment; the settings do.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from urllib.parse import urljoin

from hive.errors import UnsafeUrl
from hive.net.addresses import ANY_PRIVATE, ANY_PUBLIC, AddressCheck, is_internal_name
from hive.net.happy_eyeballs import AddressInfo
from hive.net.proxies import Proxies, Proxy
from hive.net.tls import Trust
from hive.net.urls import Url, parse_url, to_ascii


@dataclass(frozen=True)
class Network:
    """How to get out."""

    proxies: Proxies = field(default_factory=Proxies)
    trust: Trust = field(default_factory=Trust)
    user_agent: str = "hive"
    #: (ip, host, port); raises UnsafeUrl. None: every address will do. See `hive.net.addresses.address_check`.
    address_check: AddressCheck | None = None
    #: Whether a proxy is handed names that this machine cannot resolve.
    proxy_unresolved: bool = True

    def proxy_for(self, url: Url) -> Proxy | None:
        """The proxy for a target, or None."""
        return self.proxies.find(url.scheme, url.host, url.port)

    def check_proxied(self, host: str, port: int) -> None:
        """Raise UnsafeUrl when a target that a proxy, or a library, would connect to resolves to a forbidden address.

        They resolve it again, and may know names that this machine does not: behind many a proxy a machine resolves
        nothing. Of such a name the port is judged, and whether it can be one of the Internet.
        """
        if self.address_check is None:
            return
        try:
            resolve(host, port, self.address_check)
        except OSError:
            is_refused = not self.proxy_unresolved or is_internal_name(host)
            self.address_check(ANY_PRIVATE if is_refused else ANY_PUBLIC, host, port)


def resolve(host: str, port: int, check: AddressCheck | None) -> list[AddressInfo]:
    """The addresses of a name (without brackets), each of which passed the check.

    Raises:
        OSError: it has none (socket.gaierror). UnsafeUrl: one of them is forbidden, or the name is none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise UnsafeUrl("The URL's host is not a name: a part of it is empty, or longer than 63 characters.") from None
    if check is not None:
        for *_, address in found:
            check(str(address[0]), host, port)
    return found


def next_hop(url: Url, location: str) -> Url:
    """Where a redirect leads; raises UnsafeUrl, also for a step from https down to http."""
    # Header values come as Latin-1. Servers write other bytes into them, which are theirs to understand, and spaces.
    raw = location.strip().encode("latin-1", "replace")
    location = "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in raw).replace(" ", "%20")
    try:
        target = parse_url(urljoin(str(url), to_ascii(location)))
    except (UnsafeUrl, ValueError):
        raise UnsafeUrl("A redirect leads to an address that is no plain http or https URL.") from None
    if url.scheme == "https" and target.scheme == "http":
        raise UnsafeUrl("A redirect leads from https to http; hive does not follow it.")
    return target
