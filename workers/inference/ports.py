"""A port for a worker: the first of the range that can really be bound; and a Unix socket beside it.

A list of ports that are in use is old when it is read, and other programs are not in it. So each is tried.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hive.errors import CannotListen
from hive.serving_errors import NoPortFree

log = logging.getLogger("workers.inference.ports")

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


def bind_path(path: Path) -> socket.socket | None:
    """A Unix socket at this path, which only this user reaches; None where there can be none: the path is too long, or
    the disk has no room. Sockets of workers that were killed are removed.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for other in path.parent.glob("*.sock"):
            if not _listens(other):
                other.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(str(path))
            path.chmod(0o600)
        except OSError:
            sock.close()
            raise
        return sock
    except OSError as error:
        log.info("no socket beside the port", extra={"fields": {"reason": str(error)}})
        return None


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True
