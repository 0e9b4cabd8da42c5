"""Which addresses hive may connect to.

Problem: a URL from a stranger may lead into the own network (SSRF), in dozens of spellings. The easy way,
`ipaddress.is_global`, lets NAT64, 6to4, site-local and metadata addresses through, and a check of the *name* is void
when DNS answers otherwise a moment later. So the table is our own, everything is asked of the resolved address, and the
connection goes to the very address that was asked about.

Downloads of plain URLs, what a Hub redirects to, and webhooks go by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from hive.errors import UnsafeUrl

AddressCheck = Callable[[str, str, int], None]

#: Ports of web servers. Anything else (databases, mail, SSH) must be allowed by "host:port".
WEB_PORTS = frozenset({80, 443, 8080, 8443})

_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and metadata at 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's wire server, a public address by its number only
        "169.254.0.0/16",  # link-local, and metadata at 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments, and metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)

#: All that is global unicast; what lies outside is refused without a look.
_GLOBAL_6 = IPv6Network("2000::/3")

_NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 carries an IPv4 address of anybody's choice
        "3fff::/20",  # documentation
    )
)

#: IPv6 prefixes whose last 32 bits are an IPv4 address that the packet ends at.
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")

#: The upper half of an ISATAP interface id, without the universal bit; the lower half is an IPv4 address.
_ISATAP = 0x00005EFE
_UNIVERSAL_BIT = 0x02000000


#: Stand for the address of a name that was not resolved: only its port, or only whether it is allowed, is judged.
ANY_PUBLIC: Final = "1.1.1.1"
ANY_PRIVATE: Final = "127.0.0.1"

#: Last labels of names that no public server has: reserved ones, and those that networks have of their own.
_INTERNAL: Final = frozenset(
    {
        *("alt", "arpa", "corp", "domain", "home", "host", "internal", "intra", "intranet", "lan", "local"),
        *("localdomain", "localhost", "localnet", "mail", "onion", "private", "test", "workgroup"),
        *("cluster", "consul", "docker", "incus", "kube", "lxd", "node", "nomad", "pod", "podman", "svc"),
    }
)
#: Where every name is an address of the asker's choice (also in hexadecimal and of IPv6), or always this machine.
_INTERNAL_ENDINGS: Final = tuple(
    f".{name}"
    for name in (
        *("nip.io", "sslip.io", "xip.io", "traefik.me", "rbndr.us", "1u.ms", "backname.io", "local.gd"),
        *("localtest.me", "lvh.me", "vcap.me", "lacolhost.com", "fuf.me", "ts.net"),
    )
)
#: The last label of a public name: letters, or an encoded one of another script.
_PUBLIC_LABEL = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]{1,59}")
#: An IPv4 address inside a name: `127.0.0.1.nip.io`, `app-10-0-0-1.example.com`.
_ADDRESS_IN_NAME = re.compile(r"(?:^|[.-])(?:\d{1,3}[.-]){3}\d{1,3}(?=[.-]|$)")
#: Labels of a name that are numbers alone, decimal, octal or hexadecimal: an address in one of its spellings.
_NUMBERS = re.compile(r"(?:0x[0-9a-f]*|\d+)(?:\.(?:0x[0-9a-f]*|\d+))*")


def is_internal_name(host: str) -> bool:
    """Whether a name cannot be, or does not look like, one of the public Internet: for a name that is handed on without
    being resolved here. A name of somebody's own that leads into a network cannot be told from others.
    """
    name = _bare(host)
    if ":" in name or "." not in name or ".." in name or f".{name}".endswith(_INTERNAL_ENDINGS):
        return True
    last = name.rpartition(".")[2]
    if last in _INTERNAL or _PUBLIC_LABEL.fullmatch(last) is None or _NUMBERS.fullmatch(name) is not None:
        return True
    return _ADDRESS_IN_NAME.search(name) is not None


def is_public(ip: str) -> bool:
    """Whether an address, as the resolver gave it, is one of the public Internet. What cannot be parsed is not."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    return _is_public_4(address) if isinstance(address, IPv4Address) else _is_public_6(address)


def address_check(allow_hosts: Collection[str] = (), ports: Collection[int] = WEB_PORTS) -> AddressCheck:
    """A check for whoever connects: (ip, host, port) -> None; raises UnsafeUrl. Two of the same hosts are equal.

    `allow_hosts` has entries "host" or "host:port" ("[v6]:port"); these may be private and, with a port, use that port.
    """
    return _WebCheck(frozenset(_bare(entry) for entry in allow_hosts), frozenset(ports))


def hub_check(endpoint_host: str, allow_hosts: Collection[str] = ()) -> AddressCheck:
    """The check for connections to a Hub and to wherever it leads. Two of the same hosts are equal.

    The endpoint's own host is the settings' word and may be private, as a mirror is. Where it redirects to is the word
    of whoever runs it, and goes by the same table as any URL.
    """
    return _HubCheck(_bare(endpoint_host), address_check(allow_hosts))


@dataclass(frozen=True)
class _WebCheck:
    """Values and not closures, as is `_HubCheck`: whoever compares two ways out sees whether they are the same."""

    allowed: frozenset[str]
    ports: frozenset[int]

    def __call__(self, ip: str, host: str, port: int) -> None:
        name = _bare(host)
        if f"{name}:{port}" in self.allowed:
            return
        if port not in self.ports:
            raise UnsafeUrl(f"hive does not connect to port {port}. Allow it with HIVE_ALLOW_HOSTS={name}:{port}.")
        if name not in self.allowed and not is_public(ip):
            raise UnsafeUrl(f"{name} is not an address of the public Internet. Allow it with HIVE_ALLOW_HOSTS={name}.")


@dataclass(frozen=True)
class _HubCheck:
    own: str
    elsewhere: AddressCheck

    def __call__(self, ip: str, host: str, port: int) -> None:
        if _bare(host) != self.own:
            self.elsewhere(ip, host, port)


def _is_public_4(address: IPv4Address) -> bool:
    return not any(address in network for network in _NOT_PUBLIC_4)


def _is_public_6(address: IPv6Address) -> bool:
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _MAPPED or address in _NAT64:
        return _is_public_4(low)
    if address not in _GLOBAL_6 or any(address in network for network in _NOT_PUBLIC_6):
        return False
    isatap = (int(address) >> 32) & 0xFFFFFFFF & ~_UNIVERSAL_BIT == _ISATAP
    return not isatap or _is_public_4(low)


def _bare(host: str) -> str:
    """A host name in the form in which two are compared."""
    return host.strip().lower().replace("[", "").replace("]", "").rstrip(".")
