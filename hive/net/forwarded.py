"""Forwarded headers: the client of a request that came through proxies, as the proxies that are trusted tell it.

Problem: behind a proxy every connection is the proxy's, so all clients without a key share one address's rates, and the
audit log names the proxy. The proxy tells the client in a header, which anybody can send. The easy way, the first
address in `X-Forwarded-For`, is what the client itself has typed: each proxy appends to what it was sent.

So what is said counts from its end. The connection's own address is known. Where it is a trusted proxy's, the last
entry is what that proxy has seen; where that is a trusted proxy's address too, the entry before it is what that one has
seen; and the first address that is nobody's we trust is the client. What cannot be read as an address (`unknown`, an
obfuscated `_name`, anything else) ends the walk: the client is then the proxy that said so, and never a text. The
loopback, where another machine tells it, is a program beside that proxy and not beside us, where nothing is counted: it
counts as that proxy.

`X-Forwarded-For` is read, and the `Forwarded` of RFC 7239 only where there is none of it: most proxies write the first
and pass the second on as it came, from anybody. Scheme and host belong to the same hop as the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

#: Entries that are looked at, from the last. Behind more trusted proxies than this the client is the last one seen.
MAX_HOPS: Final = 32
#: Entries of the setting.
MAX_TRUSTED: Final = 256
#: Characters of the longest address with a port, quoted.
_MAX_ADDRESS_CHARS: Final = 64
#: An address with or without a port: `1.2.3.4:80`, `[::1]:80`, `[::1]`, `::1`.
_NODE: Final = re.compile(r"\[(?P<v6>[0-9a-fA-F:.]+(?:%[^\]]+)?)\](?::\d{1,5})?|(?P<v4>[0-9.]+)(?::\d{1,5})?")
#: A pair of an element of `Forwarded`; behind it comes another, or the end.
_PAIR: Final = re.compile(
    r'\s*(?P<name>[\w!#$%&\'*+.^`|~-]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\s",;]*))\s*(?:;|$)'
)

Address = IPv4Address | IPv6Address
Headers = Iterable[tuple[bytes, bytes]]


class TrustedProxiesError(ValueError):
    """The setting cannot be used; the text says why, and names the entry."""


class ClientOrigin(NamedTuple):
    """Where a request began, as far as trusted proxies have told it."""

    #: The client's address, in its usual form.
    address: str
    #: `http` or `https`; None where nobody has said.
    scheme: str | None
    #: The Host that the client asked, with a port where it had one; None where nobody has said. It is not checked.
    host: str | None


class _Hop(NamedTuple):
    """What one proxy said of who had asked it; "" for what it did not say."""

    node: str
    scheme: str = ""
    host: str = ""


@dataclass(frozen=True)
class TrustedProxies:
    """The addresses whose forwarded headers are believed."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> TrustedProxies:
        """From addresses and networks (`10.0.0.0/8`), separated by commas.

        Raises:
            TrustedProxiesError: one is neither, or is everybody's.
        """
        entries = [entry.strip() for entry in text.split(",") if entry.strip()]
        if len(entries) > MAX_TRUSTED:
            raise TrustedProxiesError(f"it lists {len(entries)} entries; {MAX_TRUSTED} are the most.")
        return cls(tuple(_network(entry) for entry in entries))

    def __bool__(self) -> bool:
        return bool(self.networks)

    def trusts(self, peer: str) -> bool:
        """Whether the forwarded headers of a connection from this address are believed."""
        return bool(self.networks) and (address := _address(peer)) is not None and _is_in(address, self.networks)

    def origin(self, peer: str, headers: Headers) -> ClientOrigin | None:
        """Where a request began that came from `peer`; None where that is no proxy of ours, or has said nothing.

        `headers`: names in lower case.
        """
        if not self.trusts(peer):
            return None
        hops = _hops(headers)
        seen, known, at = peer, False, _Hop("")
        for hop, _ in zip(hops, range(MAX_HOPS), strict=False):
            at = _Hop("", hop.scheme or at.scheme, hop.host or at.host)
            address = _node_address(hop.node)
            if address is None:
                break
            if not _is_here(address) or _is_here(_address(seen)):
                seen = str(address)
            known = True
            if not _is_in(address, self.networks):
                break
        if not (known or at.scheme or at.host):
            return None
        return ClientOrigin(seen, at.scheme if at.scheme in ("http", "https") else None, at.host or None)


def _network(entry: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(entry.replace("[", "").replace("]", ""))
    except ValueError as error:
        if "host bits" in str(error):
            near = ip_network(entry, strict=False)
            text = f"{entry[:80]!r} is neither an address nor a network: it is {near}, or without what follows the /."
            raise TrustedProxiesError(text) from None
        text = f"{entry[:80]!r} is neither an address (10.0.0.7) nor a network (10.0.0.0/8)."
        raise TrustedProxiesError(text) from None
    if network.prefixlen == 0:
        raise TrustedProxiesError(f"{entry[:80]!r} is everybody: whoever connects could say that they are anybody.")
    return network


def _hops(headers: Headers) -> Iterator[_Hop]:
    """What was said, the last first. Lines of one name are one list."""
    found: dict[bytes, list[str]] = {}
    for name, value in headers:
        if name.startswith((b"x-forwarded-", b"forwarded")):
            found.setdefault(name, []).append(value.decode("latin-1"))
    lines = {name.decode("latin-1"): ",".join(values) for name, values in found.items()}
    if "x-forwarded-for" not in lines and "forwarded" in lines:
        return (_parse_element(text) for text in _from_the_end(lines["forwarded"]))
    return _de_facto_hops(lines)


def _de_facto_hops(lines: dict[str, str]) -> Iterator[_Hop]:
    """Of the three headers. One that has fewer entries was passed on by the proxies since, and its first holds on."""
    nodes, schemes, hosts = (
        [text for part in reversed(lines.get(name, "").rsplit(",", MAX_HOPS)) if (text := part.strip())][:MAX_HOPS]
        for name in ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host")
    )
    for at in range(max(len(nodes), 1)):
        yield _Hop(
            nodes[at] if nodes else "",
            schemes[min(at, len(schemes) - 1)].lower() if schemes else "",
            hosts[min(at, len(hosts) - 1)] if hosts else "",
        )


def _from_the_end(text: str) -> Iterator[str]:
    """The elements of a `Forwarded`, the last first. From its beginning a quote that somebody has left open would
    swallow what the proxies wrote behind it.
    """
    end, is_quoted = len(text), False
    for at in range(len(text) - 1, -1, -1):
        if text[at] == '"' and not _is_escaped(text, at):
            is_quoted = not is_quoted
        elif text[at] == "," and not is_quoted:
            if element := text[at + 1 : end].strip():
                yield element
            end = at
    if element := text[:end].strip():
        yield element


def _is_escaped(text: str, at: int) -> bool:
    """Whether an odd number of backslashes stands in front."""
    before = text[max(0, at - _MAX_ADDRESS_CHARS) : at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _parse_element(text: str) -> _Hop:
    """One element. What is not of its form says nothing."""
    pairs: dict[str, str] = {}
    at = 0
    while at < len(text):
        found = _PAIR.match(text, at)
        if found is None or (name := found["name"].lower()) in pairs:
            return _Hop("")
        quoted = found["quoted"]
        pairs[name] = found["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = found.end()
    return _Hop(pairs.get("for", ""), pairs.get("proto", "").lower(), pairs.get("host", ""))


def _node_address(text: str) -> Address | None:
    """The address of a hop, with or without its port; None where it is none."""
    text = text.strip('"')
    if len(text) > _MAX_ADDRESS_CHARS:
        return None
    found = _NODE.fullmatch(text)
    return _address((found["v6"] or found["v4"]) if found else text)


def _address(text: str) -> Address | None:
    """An IPv4 address inside IPv6 is that address; a zone counts for nothing elsewhere."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_here(address: Address | None) -> bool:
    return address is not None and (address.is_loopback or address.is_unspecified)


def _is_in(address: Address, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return any(address in network for network in networks)
