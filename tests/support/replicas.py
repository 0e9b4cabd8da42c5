"""Replicas for the trials: the whole HTTP process inside the event loop, or as a process of its own."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Protocol

import uvicorn

from hive.api.app import Api
from hive.api.crowd import Connections
from hive.api.http1 import HttpProtocol
from hive.api.services import make_services
from hive.server import DrainingServer, listen
from hive.settings import Settings
from tests.support.processes import Server, environment
from tests.support.waiting import wait_for_async

#: Seconds until a replica must be subscribed.
READY_S = 20.0
#: Seconds for clients that have gone to be noticed.
LEAVE_S = 5.0


class Replica(Protocol):
    """Something that serves streams at `url`."""

    url: str

    async def start(self) -> None:
        """Return when it serves."""

    async def stop(self) -> list[str]:
        """End it; gives what went wrong in it."""


class LocalReplica:
    """All of `hive serve` but the process: its routes, fan-out, reaper, acceptor and protocol on a real socket, in this
    loop. In the acceptor's place, uvloop's own server takes one connection in a turn of the loop; all clients are in
    the same one here, and on a busy machine some of them waited for longer than they do.
    """

    def __init__(self, redis_url: str, folder: Path) -> None:
        settings = Settings.from_env(environment(redis_url, folder, HIVE_KEEPALIVE_S="0.5"))
        self._listener = listen("127.0.0.1", 0)
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        self.services = make_services(settings, redis_url)
        config = uvicorn.Config(
            Api(self.services),
            http=type("LocalProtocol", (HttpProtocol,), {"counted": Connections()}),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        config.load()
        self._server = DrainingServer(config, self.services.drain, 0.0)
        self._server.lifespan = config.lifespan_class(config)
        self._ticks: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve, as uvicorn does after it has dealt with signals, which are not ours here."""
        await self._server.startup(sockets=[self._listener])
        self._ticks = asyncio.create_task(self._server.main_loop())
        await wait_for_async(lambda: self.services.fanout.connected, "the replica is subscribed", READY_S)

    async def stop(self) -> list[str]:
        """End it in order; nobody must be left in it."""
        deadline_s = time.monotonic() + LEAVE_S
        while (left := self.services.streams.open_streams) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        self._server.should_exit = True
        if self._ticks is not None:
            await self._ticks
        await self._server.shutdown(sockets=[self._listener])
        return [f"{left} streams were left behind"] if left else []


class ProcessReplica:
    """`hive serve`, as it runs for people."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self._env = environment(redis_url, folder, HIVE_KEEPALIVE_S="0.5", HIVE_DRAIN_S="0.2")
        self.url = ""

    async def start(self) -> None:
        """Start the process and wait until it serves."""
        self.process = await asyncio.to_thread(Server, self._env)
        self.url = self.process.url

    async def stop(self) -> list[str]:
        """End it in order; it must not have failed."""
        code = await asyncio.to_thread(self.process.stop)
        failed = [line for line in self.process.lines if "Traceback" in line or '"ERROR"' in line]
        return failed + ([f"a replica exited with {code}"] if code else [])
