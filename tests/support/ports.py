"""Ports for programs that do not tell which one they were given."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

#: Below those that the system gives to whoever asks for any.
PORTS: Final = range(20_000, 32_000)


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        listeners: list[socket.socket] = []
        for port in random.sample(PORTS, len(PORTS)):
            with contextlib.suppress(OSError):
                listeners.append(stack.enter_context(socket.create_server(("127.0.0.1", port))))
            if len(listeners) == count:
                break
        return [int(listener.getsockname()[1]) for listener in listeners]
