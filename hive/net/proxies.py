"""The proxies of the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, parsed once.

Problem: every HTTP library reads these variables by itself, and no two read them alike: which spelling counts, whether
credentials are decoded, whether `NO_PROXY` knows networks, ports and stars. The easy way, letting each client of ours
read them, makes a proxy that works for the Hub's API and not for its files. So they are parsed here, what cannot be
meant is refused at the start by the variable's name, and every client asks this object.

`NO_PROXY` is a list by commas or blanks of: `*` (everything); a name, with or without `.` or `*.` in front, which
stands for itself and all names below it; an IP address; a network (`10.0.0.0/8`, `fd00::/8`), for hosts that are
written as addresses; each of them with `:port` behind it for that port only. curl, Go and requests agree on most of
that, and where only one of them takes a form, it is taken.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import unquote, urlsplit

from hive.net.variables import bare

#: The variable that names the proxy for a scheme, and the one that stands in for either.
VARIABLES: Final = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY"}
ANY_SCHEME: Final = "ALL_PROXY"
#: All variables that are read here.
NAMES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
#: Ports of a proxy's URL that names none.
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
#: A name or an address in a proxy's URL or in NO_PROXY.
_HOST: Final = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}", re.IGNORECASE)
_TORN: Final = re.compile(r"https?[:/]", re.IGNORECASE)
#: An entry of NO_PROXY: a bracketed or bare host, a port.
_ENTRY: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\s]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Proxy:
    """One proxy. `variable` is where it was named; credentials are decoded, and shown nowhere."""

    scheme: str
    host: str
    port: int
    variable: str
    username: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """The address, without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def authorization(self) -> str | None:
        """The value of `Proxy-Authorization`, or None where there are no credentials."""
        if self.username is None:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")

    def refusal(self, unspoken: Sequence[str] = ()) -> str:
        """What a 407 of this proxy means, for people. `unspoken`: the schemes it offers, where hive speaks none."""
        if unspoken:
            return (
                f"The proxy in {self.variable} wants {' or '.join(unspoken[:4])}, which hive does not speak. Run a "
                f"local proxy that does (cntlm, px) and set {self.variable} to its address, such as http://127.0.0.1:3128."
            )
        if self.username is None:
            return f"The proxy wants credentials: write {self.variable} as http://user:password@host:port."
        return f"The proxy refuses the credentials in {self.variable}. Write @ as %40 and % as %25 there."


@dataclass(frozen=True)
class NoProxy:
    """The hosts that are reached without a proxy."""

    entries: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> NoProxy:
        """From the variable's value."""
        return cls(tuple(entry.lower() for entry in re.split(r"[,\s]+", text) if entry))

    def covers(self, host: str, port: int) -> bool:
        """Whether this host (without brackets) at this port is one of them."""
        host = host.strip("[]").lower().rstrip(".")
        return any(_covers(entry, host, _address(host), port) for entry in self.entries)


@dataclass(frozen=True)
class Proxies:
    """Which proxy a URL is fetched through."""

    by_scheme: Mapping[str, Proxy] = field(default_factory=dict)
    without: NoProxy = field(default_factory=lambda: NoProxy())

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Proxies:
        """What the environment says, with quotes and blanks as settings take them. Raises ValueError as `parse`."""
        said = chosen_proxies({name: bare(value) for name, value in environ.items()})
        http, https, any_scheme, without = map(said.get, NAMES)
        return cls.parse(http, https, any_scheme, without or "")

    @classmethod
    def parse(
        cls, http: str | None = None, https: str | None = None, any_scheme: str | None = None, no_proxy: str = ""
    ) -> Proxies:
        """From the variables' values.

        Raises:
            ValueError: one cannot be used; the text names the variable and not the value, which may hold a password.
        """
        found = {}
        for scheme, text in (("http", http), ("https", https)):
            if text:
                found[scheme] = _parse(text, VARIABLES[scheme])
            elif any_scheme:
                found[scheme] = _parse(any_scheme, ANY_SCHEME)
        return cls(found, NoProxy.parse(no_proxy))

    def find(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for a target, or None where it is reached directly."""
        proxy = self.by_scheme.get(scheme)
        return None if proxy is None or self.without.covers(host, port) else proxy


def chosen_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that count. The one in lower case wins, as for curl and Python; where it is empty there is none."""
    said = {name: environ.get(name.lower(), environ.get(name, "")) for name in NAMES}
    return {name: value for name, value in said.items() if value}


def _parse(text: str, variable: str) -> Proxy:
    """One proxy's URL; `host:port` stands for http."""
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _no_proxy(variable) from None
    else:
        if parts.scheme.lower() not in _DEFAULT_PORTS:
            raise ValueError(
                f"{variable} names a proxy of a kind that hive does not speak. Use one with http:// or https://."
            )
    # A scheme with a slash too few is no host.
    is_torn = "://" not in text and (parts.path not in ("", "/") or _TORN.match(text) is not None)
    if is_torn or not _HOST.fullmatch(host) or port == 0 or any(char <= " " for char in text):
        raise _no_proxy(variable)
    scheme = parts.scheme.lower()
    username = unquote(parts.username) if parts.username is not None else None
    return Proxy(scheme, host, port or _DEFAULT_PORTS[scheme], variable, username, unquote(parts.password or ""))


def _no_proxy(variable: str) -> ValueError:
    return ValueError(f"{variable} is not the URL of a proxy. Write it as http://user:password@host:port.")


def _covers(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if address is not None and "/" in entry:
        return _in_network(address, entry)
    if (alone := _address(entry)) is not None:
        return alone == address
    found = _ENTRY.fullmatch(entry)
    if found is None or (found["port"] and int(found["port"]) != port):
        return False
    if (named := _address(found["v6"] or found["host"])) is not None:
        return named == address
    name = (found["host"] or "").removeprefix("*").strip(".")
    # The end of an address is not the domain that it is in.
    return address is None and bool(name) and (host == name or host.endswith(f".{name}"))


def _in_network(address: IPv4Address | IPv6Address, entry: str) -> bool:
    try:
        network = ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False
    return address in network


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a host is written as; one inside IPv6 counts as the IPv4 address that it is."""
    try:
        address = ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
