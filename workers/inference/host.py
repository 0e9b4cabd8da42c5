"""A machine that runs models: it takes orders from Redis, starts a worker for each, and ends them all when it ends.

Problem: a model belongs where its memory is, which need not be where the server is, and must not be inside a worker of
downloads, which forks a process for each and may be replaced at any time. So each pool of workers has one such process
beside it. It says what the machine has, and does what it is told: its workers are its children, so it notices at once
when one dies, and none of them outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Coroutine
from typing import Any, Final

import msgspec

from hive.errors import HiveError
from hive.net.backoff import NO_JITTER, Backoff
from hive.net.server_address import is_loopback
from hive.processes.children import bound_to_us, python_module
from hive.redis.client import RedisClient, connect
from hive.redis.errors import is_redis_error
from hive.secrets import ensure_key
from hive.serving.memory import read_memory
from hive.serving.orders import HOST_BEAT_S, HostInfo, Order, SpawnOrder, StopOrder, host_registry, take_order
from hive.serving.registry import LlmRegistry
from hive.settings import Settings
from hive.version import VERSION
from hive.wire.buckets import CREDENTIALS
from hive.wire.encoding import encode_json
from hive.wire.llm import LoadingError
from workers.inference.devices import engine_name, find_devices

log = logging.getLogger("workers.inference.host")

#: Seconds that it waits for an order before it looks whether it is to end, and for a reply of Redis.
TAKE_TIMEOUT_S: Final = 1
REPLY_TIMEOUT_S: Final = TAKE_TIMEOUT_S + 5.0
#: Seconds that a worker may take to end beyond its drain, and that a killed one may take.
STOP_GRACE_S: Final = 10.0
KILL_TIMEOUT_S: Final = 5.0
#: Heartbeats in a row that find a worker given up for its silence, after which it is killed.
MAX_SILENT_BEATS: Final = 3
#: Seconds between two tries while Redis is away.
RETRY_MIN_S: Final = 0.2
RETRY_MAX_S: Final = 2.0
#: Variables that a worker of a model has no use for: secrets, and the webhooks, which are no setting without theirs.
_NOT_FOR_WORKERS: Final = frozenset(
    {
        *("HIVE_API_KEY", "HIVE_API_KEY_FILE", "HF_TOKEN", "HF_TOKEN_FILE", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"),
        *("HIVE_WEBHOOK_URLS", "HIVE_WEBHOOK_SECRET", "HIVE_WEBHOOK_SECRET_FILE"),
    }
)


def _is_not_for_workers(variable: str) -> bool:
    return variable in _NOT_FOR_WORKERS or variable.startswith(CREDENTIALS)


def run(settings: Settings) -> None:
    """Be a machine that runs models, in this process, until SIGTERM."""
    asyncio.run(ModelHost(settings).run())


class ModelHost:
    """One machine's."""

    def __init__(self, settings: Settings) -> None:
        assert settings.redis_address is not None
        self._settings = settings
        self._name = f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:4]}"
        self._orders: RedisClient = connect(settings.redis_address, reply_timeout_s=REPLY_TIMEOUT_S)
        self._client: RedisClient = connect(settings.redis_address)
        self._registry = LlmRegistry(self._client)
        self._hosts = host_registry(self._client)
        self._workers: dict[str, asyncio.subprocess.Process] = {}
        self._silent: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._told_to_end = asyncio.Event()
        self._telling, self._has_left = threading.Lock(), False
        if not is_loopback(settings.llm_host):
            # Servers show themselves to workers by it, and nothing else may have needed it yet.
            with contextlib.suppress(HiveError):  # the servers say what is wrong with it
                ensure_key(settings.secret_key_path)

    async def run(self) -> None:
        """Until told to end; then all workers end, side by side."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_end.set)
        loops = [asyncio.create_task(self._beat_for_ever()), asyncio.create_task(self._take_for_ever())]
        await self._told_to_end.wait()
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await asyncio.gather(*(self._stop(worker_id) for worker_id in list(self._workers)))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await asyncio.to_thread(self._leave)

    async def _beat_for_ever(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._beat)
                await self._look_after()
            except Exception as error:
                if not is_redis_error(error):
                    log.exception("the machine could not say what it has; it goes on")
            await asyncio.sleep(HOST_BEAT_S)

    def _beat(self) -> None:
        memory = read_memory()
        info = HostInfo(
            name=self._name,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=VERSION,
            engine=engine_name(self._settings.llama_server),
            devices=encode_json(find_devices(self._settings.llama_server)).decode(),
            ram_total=memory.total,
            ram_available=memory.available,
            seen_at=time.time(),
        )
        with self._telling:
            if not self._has_left:
                self._hosts.beat(info)

    def _leave(self) -> None:
        """Nothing is said of this machine from now on: a beat that is under way in another thread would bring it back,
        and whoever loads a model waited for a machine that is none.
        """
        with self._telling:
            self._has_left = True
            self._hosts.leave(self._name)

    async def _look_after(self) -> None:
        """Kill a worker that lives and has been given up for its silence: one that hangs."""
        for worker_id, process in list(self._workers.items()):
            record = await asyncio.to_thread(self._registry.read, worker_id)
            silent = self._silent[worker_id] = (
                self._silent.get(worker_id, 0) + 1 if record is not None and record.state == "failed" else 0
            )
            if silent >= MAX_SILENT_BEATS and process.returncode is None:
                log.warning("a worker hangs and is killed", extra={"fields": {"llm_worker": worker_id}})
                process.kill()

    async def _take_for_ever(self) -> None:
        backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S, jitter=NO_JITTER)
        while True:
            try:
                order = await asyncio.to_thread(take_order, self._orders, self._name, TAKE_TIMEOUT_S)
                backoff.reset()
                if order is not None:
                    await self._obey(order)
            except Exception as error:
                if not is_redis_error(error):
                    log.exception("an order could not be obeyed; the next one is")
                await asyncio.sleep(backoff.next_s())

    async def _obey(self, order: Order) -> None:
        if isinstance(order, StopOrder):
            self._keep(self._stop(order.worker_id))
            return
        log.info("starting a worker", extra={"fields": {"llm_worker": order.worker_id, "model": order.model_ref}})
        env = {name: value for name, value in os.environ.items() if not _is_not_for_workers(name)}
        process = await asyncio.create_subprocess_exec(
            *bound_to_us(python_module("workers.inference", msgspec.json.encode(order).decode())),
            stdin=asyncio.subprocess.DEVNULL,
            env=env,
            process_group=0,
        )
        self._workers[order.worker_id] = process
        self._keep(self._watch(order, process))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, order: SpawnOrder, process: asyncio.subprocess.Process) -> None:
        """Until it ends; where it could not say so itself, say it for it."""
        code = await process.wait()
        self._workers.pop(order.worker_id, None)
        self._silent.pop(order.worker_id, None)
        lost = LoadingError(
            code="WORKER_LOST",
            message=f"The worker ended with code {code}. Load the model again: POST /v1/workers/spawn.",
        )
        with contextlib.suppress(Exception):  # its lease runs out, and whoever looks next says it
            await asyncio.to_thread(self._registry.end, order.worker_id, "failed" if code else "stopped", lost)

    async def _stop(self, worker_id: str) -> None:
        """End a worker: in order, else by force."""
        process = self._workers.get(worker_id)
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        if not await _ends(process, self._settings.llm_drain_s + STOP_GRACE_S):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await _ends(process, KILL_TIMEOUT_S)


async def _ends(process: asyncio.subprocess.Process, seconds: float) -> bool:
    """Whether it ends within this time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await process.wait()
    return process.returncode is not None
