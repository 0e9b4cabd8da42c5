"""Which user listens on a port of this machine: so that nobody's token goes to a stranger's server.

A port of the loopback belongs to whoever took it first, and any user may. The kernel knows who that was: it says so in
/proc/net/tcp, for sockets of this network namespace. Elsewhere nothing is known.
"""

from __future__ import annotations

import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from hive.net.server_address import parse_server_address

#: The state of a listening socket, as the kernel writes it.
_LISTEN: Final = "0A"
#: Bytes of the table that are read: some 50,000 sockets.
MAX_TABLE_BYTES: Final = 8 << 20


def listener_uid(address: str) -> int | None:
    """The user id of whoever listens at this address (host:port or a URL) of this machine's loopback.

    None where nobody does, where the address is another machine's, and where the system does not tell.
    """
    try:
        named = parse_server_address(address)
        host, port = "127.0.0.1" if named.host == "localhost" else named.host, named.port
        ip = ip_address(host)
    except ValueError:
        return None
    if not (ip.is_loopback or ip.is_unspecified) or not sys.platform.startswith("linux"):
        return None
    own = {_packed(str(ip)), _packed("0.0.0.0"), _packed("::")}  # noqa: S104 - compared with, not bound to
    for table in ("tcp", "tcp6"):
        for place, state, uid in _sockets(table):
            where, _, number = place.partition(":")
            if state == _LISTEN and where in own and int(number, 16) == port:
                return uid
    return None


def _sockets(table: str) -> list[tuple[str, str, int]]:
    """Local address, state and user of every socket."""
    try:
        with Path("/proc/net", table).open() as file:
            rows = [line.split() for line in file.read(MAX_TABLE_BYTES).splitlines()[1:]]
    except OSError:
        return []
    return [(row[1], row[3], int(row[7])) for row in rows if len(row) > 7]


def _packed(ip: str) -> str:
    """An address as the kernel writes it: words of 4 bytes, each in the machine's own order."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    raw = socket.inet_pton(family, ip)
    words = [raw[at : at + 4] for at in range(0, len(raw), 4)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return b"".join(words).hex().upper()
