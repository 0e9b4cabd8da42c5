"""Whom a limit counts for: a key, or the address of whoever has none.

One person on the loopback without keys is nobody's attacker: a page, loops of curl and hive's own commands come from
there, and so does everything behind a proxy on this machine. So nothing is counted for the loopback where there are no
keys. An address of IPv6 counts as its /64, which a network gives to each of its machines as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from hive.auth.principal import ANONYMOUS, principal_of

#: Addresses whose form is remembered.
_REMEMBERED: Final = 4096
#: Bits of an IPv6 address that are one holder.
_PREFIX_BITS: Final = 64
#: The holder that all of the loopback is.
LOOPBACK: Final = "loopback"


def holder_of(connection: Mapping[str, Any]) -> str:
    """Who has sent a request, for counting: a key, an address, or `LOOPBACK`. Raises KeyError as `principal_of`."""
    principal = principal_of(connection)
    if principal.key_id:
        return f"key:{principal.key_id}"
    client = connection.get("client")
    return holder_of_address(client[0] if client else "")


def is_unlimited(connection: Mapping[str, Any]) -> bool:
    """Whether nothing is counted: this machine, where no keys exist. Raises KeyError as `principal_of`."""
    return principal_of(connection) is ANONYMOUS and holder_of(connection) == LOOPBACK


@lru_cache(_REMEMBERED)
def holder_of_address(text: str) -> str:
    """Whom a connection's address counts for: itself, its /64, or `LOOPBACK`."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return LOOPBACK  # a socket in the file system
    if isinstance(address, IPv6Address) and (mapped := address.ipv4_mapped) is not None:
        address = mapped
    if address.is_loopback:
        return LOOPBACK
    if isinstance(address, IPv6Address):
        return f"net:{int(address) >> (128 - _PREFIX_BITS):x}"
    return f"address:{address}"
