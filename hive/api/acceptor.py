"""Accepts connections, several in each turn of the event loop.

Problem: uvloop accepts one connection in a turn. Requests that a loop is busy with make its turns long, tens of
milliseconds where many clients ask at once, and then a few dozen connections a second are all that come in; who throws
connections at the server faster than that, and is thrown out and comes again, keeps everybody else waiting in the
listener's queue, while those who are inside are served as ever. The easy way, asyncio's own server, accepts as many as
its backlog in one turn, and so holds the streams up. So: up to sixteen. Where processes share a listener, each then
takes no more than that before the others have had their turn.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

log = logging.getLogger("hive.api.acceptor")

#: Connections that are accepted in one turn of the loop.
MAX_IN_A_TURN: Final = 16
#: Seconds without accepting after the system had no descriptor, or no memory, for one more.
PAUSE_S: Final = 1.0


class Acceptor:
    """One listening socket, whose connections get a protocol each; belongs to the running loop."""

    def __init__(self, listener: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        self._listen()

    def close(self) -> None:
        """Accept no more, and close the listener. What was accepted goes on.

        What waits in the kernel's queue is accepted first: it counts as connected for its client, which may have sent
        its request, and closing the listener would reset it.
        """
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._listener.fileno())
            while self._take():
                pass
        self._listener.close()

    async def wait_closed(self) -> None:
        """Return when what was accepted last has its protocol; uvicorn asks for it."""
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(MAX_IN_A_TURN):
            if not self._take():
                return

    def _take(self) -> bool:
        """Accept one connection; False where none waits, or none can be had for now."""
        try:
            connection, _address = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionError:
            return True  # it was gone before it was taken
        except OSError as error:
            log.warning("no connection can be accepted for now", extra={"fields": {"reason": str(error)}})
            if not self._closed:
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(PAUSE_S, self._listen)
            return False
        connection.setblocking(False)
        task = self._loop.create_task(self._begin(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
        return True

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:
            connection.close()
