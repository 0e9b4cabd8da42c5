"""A port for a worker: the first of the range that can really be bound.

A list of ports that are in use is old when it is read, and other programs are not in it. So each is tried.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import Final

from hive.errors import CannotListen
from hive.serving_errors import NoPortFree

#: Bytes that the kernel keeps for a reader that is slow.
SEND_BUFFER_BYTES: Final = 16_384
_TAKEN: Final = (errno.EADDRINUSE, errno.EACCES)


def bind_first(host: str, ports: Iterable[int]) -> socket.socket:
    """A socket that is bound to the first free port.

    Raises:
        NoPortFree: all are taken.
        CannotListen: the host is none of this machine.
    """
    try:
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise CannotListen(f"HIVE_LLM_HOST is {host}: {error.strerror or error}.") from None
    for port in ports:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        try:
            sock.bind((host, port))
            # Two that bound the same port with SO_REUSEADDR find out here which of them has it.
            sock.listen(128)
            sock.setblocking(False)
            return sock
        except OSError as error:
            sock.close()
            if error.errno not in _TAKEN:
                raise CannotListen(f"Cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}.") from None
    raise NoPortFree
