"""The whole of hive on one machine: Redis, the HTTP server and workers as children of this process, started and ended
in order.

Problem: hive is three programs, and a person wants one. The easy way, all three in one process, would make a worker's
crash the server's. So they are children: Redis first, because the others need it; the server and the workers at the
same time. They end the other way round: the server first, so that clients are told to come back while it drains; then
the workers, which hand back what they have in hand; then Redis, which must still be there to take it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from types import FrameType
from typing import Final, NamedTuple

from hive.net.backoff import NO_JITTER, Backoff
from hive.processes.children import python_module
from hive.processes.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from hive.processes.fork import Part, try_fork
from hive.processes.hangup import without_ignored_hangup
from hive.processes.instance_lock import HomeInUse, InstanceLock
from hive.processes.supervisor import RESTART_MAX_S, RESTART_MIN_S, Announce, Child, happens
from hive.secrets import ensure_key
from hive.settings import Settings
from hive.wire.words import counted

#: Seconds that the server may take on top of its drain: it waits for requests that are being answered.
SERVER_GRACE_S: Final = 3.0
#: Seconds that the workers may take to hand back their downloads.
WORKER_STOP_S: Final = 5.0
#: Seconds until the server must answer.
READY_TIMEOUT_S: Final = 20.0
#: Seconds that readiness waits for the workers once the server answers. Requests are queued until they come.
WORKERS_TIMEOUT_S: Final = 10.0
#: Seconds between two looks at whether things are ready, at least; and at whether Redis lives.
POLL_S: Final = 0.02
REDIS_POLL_S: Final = 0.25
#: Seconds between two looks at whether there are keys by now: sooner than the server looks.
KEYS_POLL_S: Final = 0.5
#: Seconds for one look at the server.
LOOK_TIMEOUT_S: Final = 1.0
#: Bytes of an answer of the server that are read to see whether it is ready.
MAX_LOOK_BYTES: Final = 1_000_000
#: Settings of a Redis of the user's, which say nothing about the private one.
OF_ANOTHER_REDIS: Final = (
    *("HIVE_REDIS_CREDENTIALS", "HIVE_REDIS_CA_FILE", "HIVE_REDIS_CERT_FILE", "HIVE_REDIS_KEY_FILE"),
)
#: What asks the stack to end.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Addresses that mean "all of this machine's" to whoever listens, and where to reach one of those.
_REACHABLE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, not bound to


class StackError(RuntimeError):
    """The stack cannot start; the text says why."""


class StackPlan(NamedTuple):
    """What to run: where the server listens (port 0: any free one), and how many workers; whether others may reach it
    without a key, and whether there are keys now, so that nobody may come in without one. Blocks; raises nothing.
    """

    host: str
    port: int
    workers: int
    allow_unauthenticated: bool = False
    are_keys_on: Callable[[], bool] = lambda: False


class Stack:
    """Redis, server and workers. `run` is all there is to do; `say` gets every line of the log with who wrote it.
    `api_key` is a key for the server's admin, "" where there are none.
    """

    def __init__(
        self, settings: Settings, plan: StackPlan, say: Announce, parts: Mapping[str, Part], api_key: str = ""
    ) -> None:
        """`parts`: what can be started by fork, of "server" and "workers"; see fork.py."""
        self._settings = settings
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._say = say
        self._parts = parts
        self._port = free_port(plan.host, plan.port)
        self._plan = plan
        self._redis = EmbeddedRedis(settings.home_dir) if settings.redis_url is None else None
        self._lock: InstanceLock | None = None
        self._server: Child | None = None
        self._workers: Child | None = None
        #: Keys that were on stay on: a server that is started anew may not be open because their file has gone.
        self._keys_on = plan.are_keys_on()
        self._told = asyncio.Event()
        self._signals = 0
        self._began_s = time.time()

    @property
    def address(self) -> str:
        """Where the server is to be reached from this machine."""
        host = _REACHABLE.get(self._plan.host, self._plan.host)
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def run(self, on_ready: Announce) -> int:
        """Start, call `on_ready` with the address and a sentence, wait for a signal, end in order. Gives the exit code.

        Raises:
            StackError: when the server does not start.
            HomeInUse, EmbeddedRedisError, OSError: as EmbeddedRedis.start does.
        """
        # Before there is a loop, which would not outlive a fork: signals are counted, and acted upon in the loop.
        earlier = {number: signal.signal(number, self._count_signal) for number in without_ignored_hangup(*_SIGNALS)}
        try:
            self._begin()
        except BaseException:
            for number, handler in earlier.items():
                signal.signal(number, handler)
            self._let_go()
            raise
        return asyncio.run(self._run(on_ready))

    def _begin(self) -> None:
        """Everything side by side: the others need Redis when they have loaded, and it is faster than that."""
        env = {**os.environ, "HIVE_LOG_FORMAT": "json" if self._settings.log_format == "json" else "console"}
        if self._redis is not None:
            self._lock = self._redis.lock
            self._lock.acquire()
            self._redis.begin()
            # Both names: the first of them wins, and the shell may have one of another Redis.
            env["HIVE_REDIS_URL"] = env["REDIS_URL"] = self._redis.url
            for name in OF_ANOTHER_REDIS:
                env.pop(name, None)
        else:
            self._lock = self._try_lock()
        ensure_key(self._settings.secret_key_path)
        # A key is for who calls a server, and these are none: it need not stand in their environment.
        env.pop("HIVE_API_KEY", None)
        # The workers first: theirs is the longer way.
        self._workers = self._child("workers", "workers", ["--concurrency", str(self._plan.workers)], env)
        self._server = self._child("server", "hive.cli", ["serve", *self._serve_options()], env, self._key_options)

    def _child(
        self,
        name: str,
        module: str,
        arguments: list[str],
        env: Mapping[str, str],
        options: Callable[[], list[str]] = list,
    ) -> Child:
        """A part: forked by now where that can be, a program to be started where not."""
        first = [*arguments, *options()]
        forked = try_fork(self._parts[name], first, env, ["python", "-m", module, *first])
        return Child(name, python_module(module, *arguments), env, self._say, forked, options)

    async def _run(self, on_ready: Announce) -> int:
        self._listen_to_signals()
        assert self._server is not None
        assert self._workers is not None
        try:
            self._workers.start()
            self._server.start()
            ready = asyncio.create_task(self._wait_until_ready())
            told = asyncio.create_task(self._told.wait())
            watching = asyncio.create_task(self._watch_keys())
            await asyncio.wait([ready, told], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                missing = self._plan.workers - ready.result()
                if self._lock is not None:
                    self._lock.announce(self.address)
                on_ready(self.address, self._ready_line(missing))
                await self._watch_redis()
            for task in (ready, told, watching):
                task.cancel()
        finally:
            await self._stop()
        return 130 if self._signals > 1 else 0

    def _serve_options(self) -> list[str]:
        """Where the server listens, and whom it lets in: it asks again itself, also when it is started anew."""
        options = ["--host", self._plan.host, "--port", str(self._port)]
        if self._plan.allow_unauthenticated:
            options.append("--allow-unauthenticated")
        return options

    def _key_options(self) -> list[str]:
        """What else the server is told at each start: whether keys have been on."""
        return ["--require-keys"] if self._keys_on else []

    def _try_lock(self) -> InstanceLock | None:
        """With a Redis of one's own the home needs no lock; where it is free we take it, so that `hive pull` finds
        us.
        """
        lock = InstanceLock(self._settings.home_dir)
        with contextlib.suppress(HomeInUse, OSError):
            lock.acquire()
            return lock
        return None

    async def _wait_until_ready(self) -> int:
        """Return when the server answers and the workers have come: the number that have.

        Raises:
            StackError: when the server ended, or does not answer.
        """
        assert self._server is not None
        if self._redis is not None:
            await asyncio.to_thread(self._redis.wait)
        deadline = time.monotonic() + READY_TIMEOUT_S
        look_s = time.monotonic()
        while await asyncio.to_thread(self._look, "/readyz") is None:
            if self._server.exit_code is not None:
                raise StackError("The server did not start; its lines above say why.")
            if time.monotonic() > deadline:
                raise StackError(f"The server does not answer after {READY_TIMEOUT_S:.0f} s.")
            await asyncio.sleep(_pause_s(look_s))
            look_s = time.monotonic()
        deadline = time.monotonic() + WORKERS_TIMEOUT_S
        look_s = time.monotonic()
        while (count := await asyncio.to_thread(self._count_workers)) < self._plan.workers:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(_pause_s(look_s))
            look_s = time.monotonic()
        return count

    def _count_workers(self) -> int:
        """How many workers of this machine are younger than we: those of an earlier run are listed for a while."""
        reply = self._look("/v1/workers")
        workers = reply.get("data", []) if isinstance(reply, dict) else []
        return sum(
            worker.get("host") == socket.gethostname() and (worker.get("started_at") or 0) >= self._began_s - 1
            for worker in workers
        )

    def _look(self, path: str) -> object:
        """The JSON at this path of the server, or None where it does not answer with 200."""
        host = _REACHABLE.get(self._plan.host, self._plan.host)
        connection = HTTPConnection(host, self._port, timeout=LOOK_TIMEOUT_S)
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            return json.loads(response.read(MAX_LOOK_BYTES)) if response.status == 200 else None
        except (OSError, HTTPException, ValueError):
            return None
        finally:
            connection.close()

    async def _watch_redis(self) -> None:
        """Until the stack is told to end: start Redis again when it dies, with a growing pause.

        The others wait for it.
        """
        backoff = Backoff(RESTART_MIN_S, RESTART_MAX_S, jitter=NO_JITTER)
        while not await happens(self._told, REDIS_POLL_S):
            if self._redis is None or self._redis.pid is not None:
                continue
            pause_s = backoff.next_s()
            self._say("hive", f"redis has ended and starts again in {pause_s:.0f} s; see {self._redis.log_path}")
            if await happens(self._told, pause_s):
                return
            try:
                self._redis.launch()
                backoff.reset()
            except (EmbeddedRedisError, OSError) as error:
                self._say("hive", str(error))

    async def _watch_keys(self) -> None:
        """Return when there are keys; the server sees them by itself, and is to be told of them if it starts anew."""
        while not self._keys_on and not await happens(self._told, KEYS_POLL_S):
            self._keys_on = await asyncio.to_thread(self._plan.are_keys_on)

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(self._settings.drain_s + SERVER_GRACE_S)
        if self._workers is not None:
            await self._workers.stop(WORKER_STOP_S)
        self._let_go()

    def _let_go(self) -> None:
        """End Redis and give the home back, where we have them."""
        if self._redis is not None:
            self._redis.stop()
        elif self._lock is not None:
            self._lock.release()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in without_ignored_hangup(*_SIGNALS):
            loop.add_signal_handler(number, self._on_signal)
        early, self._signals = self._signals, 0
        for _ in range(early):
            self._on_signal()

    def _count_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _on_signal(self) -> None:
        """The first signal ends the stack in order, the second kills it."""
        self._signals += 1
        self._told.set()
        if self._signals == 1:
            self._say("hive", "stopping; once more to stop at once")
            return
        for child in (self._server, self._workers):
            if child is not None:
                child.kill()

    def _ready_line(self, missing: int) -> str:
        count = self._plan.workers
        workers = counted(count, "worker") + (f" ({missing} still starting)" if missing > 0 else "")
        return f"hive is ready at {self.address}, store {self._settings.store_dir}, {workers}"


def _pause_s(look_s: float) -> float:
    """Seconds until the next look, where the last one began at `look_s`: twice as long as that took, at least. What a
    machine that is busy with our start has less of is not to go into looking.
    """
    return max(POLL_S, 2 * (time.monotonic() - look_s))


def free_port(host: str, port: int) -> int:
    """`port`, or a free one where it is 0; looked at before anything is started, so that a taken one is said at once.

    Raises:
        StackError: when nobody can listen there.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return int(listener.getsockname()[1])
    except OSError as error:
        raise StackError(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from None
