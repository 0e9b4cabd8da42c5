"""Where something listens that is asked over HTTP: a Unix socket, a host and a port, or both of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

#: What a request carries that hive passes on to a worker: a hive that gets one is no worker, and passing it on again
#: could go on for ever.
PASSED_ON_BY: Final = (b"via", b"1.1 hive-server")
#: Characters of a socket's name: a path to one has some hundred at most.
_NAME_CHARS: Final = 16


class Endpoint(NamedTuple):
    """Where to connect: a socket's path, or a host and a port. With all of them the socket is tried first: it is there
    where both sides are on one machine.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def name(self) -> str:
        """What stands in the Host header."""
        if not self.port:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def worker_socket(folder: Path, worker_id: str) -> Path:
    """The socket at which an LLM worker listens beside its port, for servers of the same HIVE_HOME: a write to it costs
    half of one to the loopback. Its name is short, and nothing of who reaches Redis.
    """
    return folder / f"{hashlib.sha256(worker_id.encode()).hexdigest()[:_NAME_CHARS]}.sock"
