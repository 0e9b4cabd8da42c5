"""Models in memory, as any replica of the server sees them: load one, find who has one, end one.

Problem: whoever asks may reach any replica, and the model may be on any machine, on no disk yet, or asked for by two at
once. The easy way, a table in one server, was what the system had that hive replaces. So nothing is kept here: the
records are in Redis (registry.py), the machines offer themselves (orders.py), and a request is a look, an order, and a
wait for the address that the new worker writes into its record.

Only the last list of workers is remembered, for the time that Redis is away: requests to models that run go on then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from hive.downloads.service import DownloadService
from hive.downloads.threads import Threads
from hive.error_codes import from_code
from hive.errors import (
    Conflict,
    HiveError,
    LlmWorkerNotFound,
    ModelNotOnDisk,
    ModelNotServable,
    RedisUnavailable,
    WorkersSilent,
)
from hive.redis.client import CommandThread
from hive.serving.endpoint import Endpoint, worker_socket
from hive.serving.gguf_header import read_gguf, shards
from hive.serving.kept_connections import KeptConnections
from hive.serving.memory import bytes_needed
from hive.serving.orders import HostInfo, SpawnOrder, StopOrder, give_order, host_registry, read_order
from hive.serving.placement import able, can_fetch, roomy
from hive.serving.record import LlmRecord, canonical, flight_key
from hive.serving.registry import HTTP_LEASE_S, LlmRegistry
from hive.serving.upstream import fetch
from hive.serving.worker_access import TOKEN_HEADER, worker_token
from hive.serving_errors import ModelLoading, ModelNotLoaded
from hive.settings import Settings
from hive.wire import keys
from hive.wire.encoding import encode_json
from hive.wire.llm import ENDED, Backend, Fetching, LoadingError, LoadingEvent, LoadingToVram, ReadyRequest, Spawned
from hive.wire.spec import DownloadSpec

log = logging.getLogger("hive.serving")

#: Seconds until a worker that was ordered must have an address, between two looks, and that its record waits for it.
ADDRESS_TIMEOUT_S: Final = 20.0
ADDRESS_LOOK_S: Final = 0.05
QUEUED_LEASE_S: Final = 30.0
#: Seconds that a request waits for a model that is being loaded for it.
LOAD_WAIT_S: Final = 60.0
LOAD_LOOK_S: Final = 0.1
#: Seconds for a worker's answer to the word that it, or a request, is to end; and bytes of that answer.
ASK_TIMEOUT_S: Final = 5.0
MAX_REPLY_BYTES: Final = 65_536
#: Seconds that a list of workers may be old, at any time; and when Redis does not answer.
RECENT_S: Final = 0.5
REMEMBERED_S: Final = 60.0
#: Seconds that a request waits for Redis to say who runs, where that was known a while ago.
PATIENCE_S: Final = 0.1
#: Workers whose tokens are remembered.
MAX_TOKENS: Final = 1_024
#: Requests that wait for models at a time.
MAX_WAITING: Final = 256
#: Threads that read the heads of models' files, and requests that wait for one.
HEADER_THREADS: Final = 2
MAX_WAITING_FOR_HEADERS: Final = 64


#: Whether whoever asks may have what a worker makes of this file of the store.
MayUse = Callable[[str], Awaitable[bool]]


class LoadRequest(NamedTuple):
    """What is to be loaded."""

    model_ref: str
    backend: Backend = "cpu"
    device: int = 0
    context: int = 4096
    slots: int = 1
    idle_s: float = 300.0
    #: A file of the store in place of what the reference means.
    path: str = ""
    #: What it has in common with other requests for it; "" for what follows from the above.
    flight: str = ""
    request_id: str = ""


class ServingService:
    """Its methods belong to the event loop."""

    def __init__(self, settings: Settings, commands: CommandThread, downloads: DownloadService) -> None:
        self._settings = settings
        self._commands = commands
        self._downloads = downloads
        self.registry = LlmRegistry(commands.client)
        self._hosts = host_registry(commands.client)
        self._remembered: tuple[float, list[LlmRecord]] = (0.0, [])
        self._is_doubted = False
        self._looking: asyncio.Task[list[LlmRecord]] | None = None
        self._waiting = 0
        #: Connections to workers that wait for another request.
        self.kept = KeptConnections()
        #: By the id of a worker, which has read the key at its start: the file is not read for each request.
        self._tokens: dict[str, str] = {}
        self._disk = Threads("gguf", HEADER_THREADS, MAX_WAITING_FOR_HEADERS)

    # -- looking -----------------------------------------------------------------------------------------------------

    async def workers(self) -> list[LlmRecord]:
        """Those that have not ended. Raises RedisUnavailable."""
        found = await self._commands.run(self.registry.alive)
        self._remembered, self._is_doubted = (time.monotonic(), found), False
        return found

    async def hosts(self) -> list[HostInfo]:
        """The machines that run models. Raises RedisUnavailable."""
        return await self._commands.run(self._hosts.alive)

    async def find(self, worker_id: str) -> LlmRecord:
        """One worker that has not ended. Raises LlmWorkerNotFound, RedisUnavailable."""
        for record in await self.workers():
            if record.id == worker_id:
                return record
        raise LlmWorkerNotFound(worker_id=worker_id[:128])

    async def serving(self, model: str | None, may_use: MayUse) -> list[LlmRecord]:
        """The workers that can be asked for this model, the least busy first; for None the only model that there is.
        What may not be used is as if it were not there.

        One that ended because nobody asked is started again, and waited for.

        Raises:
            ModelNotLoaded, ModelLoading: there is none, or not yet.
        """
        records = await _usable(await self._recent_records(), may_use)
        if model is None:
            models = {record.model_id or record.model_ref for record in records if record.is_serving}
            if len(models) != 1:
                raise ModelNotLoaded(_which(models), loaded=sorted(models))
            return _least_busy([record for record in records if record.is_serving])
        mine = [record for record in records if record.is_of(model)]
        if not any(record.is_serving for record in mine):
            records = await _usable(await self._records(), may_use)
            mine = [record for record in records if record.is_of(model)]
        if ready := [record for record in mine if record.is_serving]:
            return _least_busy(ready)
        if not mine and (order := await self._resting(model)) is not None and await may_use(order.path):
            place = (order.backend, order.device, order.context, order.slots, order.idle_s)
            wanted = LoadRequest(order.model_ref, *place, path=order.path, flight=order.flight)
            try:
                mine = [await self._read((await self.spawn(wanted, None)).worker_id)]
            except ModelNotOnDisk:  # deleted meanwhile: it is as if it had never been loaded
                key = order.flight or order.worker_id
                await self._commands.run(self._commands.client.hdel, keys.LLM_RESTING, key)
        if mine:
            return await self.loaded(mine[0].id, model, may_use)
        raise _not_loaded(model, records)

    async def loaded(self, worker_id: str, model: str, may_use: MayUse) -> list[LlmRecord]:
        """The worker of this model, once it has it in memory.

        Raises:
            ModelNotLoaded: it may not be used.
            ModelLoading: it takes too long.
            HiveError: as its loading ended.
        """
        if not (ready := await _usable([await self._wait_until_ready(worker_id)], may_use)):
            raise _not_loaded(model, [])
        return ready

    async def _recent_records(self) -> list[LlmRecord]:
        """The workers as they were a moment ago, if that is all that a request needs: a question to Redis for each
        request would be most of what hive adds to the first token. Those that come at once share one look.
        """
        at_s, found = self._remembered
        if time.monotonic() - at_s <= RECENT_S and any(record.is_serving for record in found):
            return found
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._records())
            self._looking.add_done_callback(lambda looked: looked.cancelled() or looked.exception())
        if not self._is_doubted and any(record.is_serving for record in found):
            await asyncio.wait({self._looking}, timeout=PATIENCE_S)
            if not self._looking.done() and time.monotonic() - at_s <= REMEMBERED_S:
                return found
        return await asyncio.shield(self._looking)

    def forget(self) -> None:
        """What is remembered of the workers is not so any more."""
        self._is_doubted = True
        at_s, found = self._remembered
        self._remembered = (min(at_s, time.monotonic() - 2 * RECENT_S), found)

    async def _records(self) -> list[LlmRecord]:
        """The workers; those of a while ago where Redis does not answer."""
        try:
            return await self.workers()
        except RedisUnavailable:
            at_s, found = self._remembered
            if not found or time.monotonic() - at_s > REMEMBERED_S:
                raise
            return found

    async def _read(self, worker_id: str) -> LlmRecord:
        record = await self._commands.run(self.registry.read, worker_id)
        if record is None:
            raise LlmWorkerNotFound(worker_id=worker_id)
        return record

    async def _wait_until_ready(self, worker_id: str) -> LlmRecord:
        """Raises ModelLoading where it takes too long, or what went wrong with it."""
        began_s = time.monotonic()
        if self._waiting >= MAX_WAITING:
            raise ModelLoading(retry_after_s=5)
        self._waiting += 1
        try:
            while True:
                record = await self._read(worker_id)
                if record.is_serving:
                    return record
                error = _error_in(record)
                if error is not None:
                    raise error
                if record.state in ENDED:
                    raise ModelNotLoaded
                waited_s = time.monotonic() - began_s
                if waited_s > LOAD_WAIT_S:
                    raise _loading(record, waited_s)
                await asyncio.sleep(LOAD_LOOK_S)
        finally:
            self._waiting -= 1

    async def _resting(self, model: str) -> SpawnOrder | None:
        """How to start again the worker of this model that ended because nobody asked."""
        rows = await self._commands.run(self._commands.client.hvals, keys.LLM_RESTING)
        for row in rows:
            order = read_order(row)
            if isinstance(order, SpawnOrder) and canonical(model) in (
                canonical(order.model_ref),
                canonical(order.model_id),
            ):
                return order
        return None

    # -- loading -----------------------------------------------------------------------------------------------------

    async def spawn(self, wanted: LoadRequest, spec: DownloadSpec | None) -> Spawned:
        """Load a model, or join the worker that has it: its address, at once. `spec` is how to get it; without one it
        must be at `wanted.path`.

        Raises:
            BackendUnavailable, InsufficientRam, VramExhausted: no machine can.
            ModelNotServable: it is on disk, and no GGUF file.
            TooManyDownloads: too many wait for their models already.
            WorkersSilent: the machine does not do what it is told.
            HiveError: as a request for a download ends; as loading ended, where that was at once.
        """
        records, place = await self.workers(), (wanted.backend, wanted.device)
        hosts = able(await self.hosts(), records, *place)
        order, hosts = await self._order_for(wanted, spec, hosts, records)
        host, needed = hosts[0], 0
        if order.path and not any(record.flight == order.flight for record in records):
            info = await self._disk.run(read_gguf, Path(order.path))
            needed = bytes_needed(order.size, info.kv_bytes_per_token, info.context_of(wanted.context), wanted.slots)
            host = roomy(hosts, *place, needed, self._settings.llm_keep_free_bytes)
        order = msgspec.structs.replace(order, host=host.name)
        record = msgspec.structs.replace(_queued(order), memory_bytes=needed)
        worker_id, joined = await self._commands.run(self.registry.create, record)
        if not joined:
            await self._commands.run(self._commands.client.hdel, keys.LLM_RESTING, order.flight)
            await self._commands.run(give_order, self._commands.client, host.name, order)
        found = await self._wait_for_address(worker_id)
        return Spawned(
            worker_id=worker_id,
            url=found.url,
            state="loading" if found.state == "queued" else found.state,
            download_id=found.download_id or msgspec.UNSET,
            joined=True if joined else msgspec.UNSET,
        )

    async def _order_for(
        self, wanted: LoadRequest, spec: DownloadSpec | None, hosts: list[HostInfo], records: list[LlmRecord]
    ) -> tuple[SpawnOrder, list[HostInfo]]:
        """The order, and the machines that it may go to."""
        path, model_id, size, download_id = wanted.path, "", 0, ""
        flight = wanted.flight or flight_key(wanted.path or wanted.model_ref, wanted.backend, wanted.device)
        if path:
            try:
                size = await self._disk.run(_size_of, Path(path))
            except OSError:
                raise ModelNotOnDisk(path=path) from None
        elif spec is not None:
            on_disk = await self._downloads.on_disk(spec)
            if on_disk is None:
                hosts = can_fetch(hosts, records, flight)
                made = await self._downloads.request(spec)
                download_id, path = ("", made.local_path) if made.local_path else (made.download_id, "")
            else:
                path, model_id, size = on_disk.local_path, on_disk.model_id, on_disk.size
        if path and not path.lower().endswith(".gguf"):
            raise ModelNotServable(f"The engine loads GGUF files, and {wanted.model_ref[:200]!r} is none.")
        order = SpawnOrder(
            worker_id=f"worker-{uuid.uuid4()}",
            model_ref=wanted.model_ref,
            model_id=model_id,
            path=path,
            size=size,
            download_id=download_id,
            backend=wanted.backend,
            device=wanted.device,
            context=wanted.context,
            slots=wanted.slots,
            idle_s=wanted.idle_s,
            flight=flight,
            request_id=wanted.request_id,
        )
        return order, hosts

    async def _wait_for_address(self, worker_id: str) -> LlmRecord:
        until_s = time.monotonic() + ADDRESS_TIMEOUT_S
        while True:
            record = await self._read(worker_id)
            if record.url:
                return record
            error = _error_in(record)
            if error is not None:
                raise error
            if time.monotonic() > until_s:
                silent = LoadingError(code=WorkersSilent.code, message="The machine did not start the worker.")
                await self._commands.run(self.registry.end, worker_id, "failed", silent)
                raise WorkersSilent("The machine that runs models did not start the worker in time. Its log says why.")
            await asyncio.sleep(ADDRESS_LOOK_S)

    # -- workers that come by themselves -----------------------------------------------------------------------------

    async def register(self, ready: ReadyRequest) -> None:
        """A worker has its model in memory. One that hive does not know is registered.

        Raises:
            Conflict: hive has started the worker of this id itself, at another address.
        """
        known = await self._commands.run(self.registry.read, ready.worker_id)
        lease_ms = int(HTTP_LEASE_S * 1000)
        if known is not None and known.host:
            if known.url.rstrip("/") != ready.url.rstrip("/"):
                raise Conflict("hive has started this worker itself, and it is at another address.", url=known.url)
            return
        record = LlmRecord(
            id=ready.worker_id,
            url=ready.url.rstrip("/"),
            state="idle",
            model_ref=ready.model_ref,
            backend=ready.backend,
            device=ready.device,
            slots_total=ready.slots_total,
            lease_ms=lease_ms,
            terminal=1,
            fence=int(time.time() * 1000),
            seq=1,
            event='{"stage":"ready"}',
            activity_ms=int(time.time() * 1000),
        )
        await self._commands.run(self.registry.create, record)
        await self._commands.run(self.registry.tell, record.id, lease_ms, {"state": "idle", "url": record.url})

    async def heartbeat(self, worker_id: str, *, healthy: bool) -> None:
        """A worker says that it lives. Raises LlmWorkerNotFound."""
        record = await self._commands.run(self.registry.read, worker_id)
        if record is None or record.state in ENDED:
            raise LlmWorkerNotFound(worker_id=worker_id)
        failures = {"failed_health_checks": 0 if healthy else record.failed_health_checks + 1}
        await self._commands.run(self.registry.tell, worker_id, record.lease_ms, failures)

    async def stop(self, worker_id: str) -> None:
        """End a worker: told itself, and its machine; no request is sent to it any more. Raises LlmWorkerNotFound."""
        record = await self.find(worker_id)
        await self._commands.run(self._commands.client.hdel, keys.LLM_RESTING, record.flight or "-")
        with contextlib.suppress(OSError):
            await self.ask(record, "POST", "/v1/admin/shutdown")
        if record.host:
            await self._commands.run(give_order, self._commands.client, record.host, StopOrder(worker_id=worker_id))
            await self._commands.run(self.registry.tell, worker_id, record.lease_ms, {"state": "draining"})
            self.forget()
        else:
            stopped = LoadingError(code="CANCELLED", message="The worker was ended.")
            await self._commands.run(self.registry.end, worker_id, "stopped", stopped)

    async def cancel(self, job_id: str) -> None:
        """Stop a request, at whichever worker it is."""
        records = [record for record in await self._records() if record.is_serving]
        asked = [self.ask(record, "DELETE", f"/v1/inference/{job_id}") for record in records]
        await asyncio.gather(*asked, return_exceptions=True)

    async def ask(self, record: LlmRecord, method: str, path: str) -> None:
        """A short question to a worker. Raises OSError."""
        await fetch(
            self.target(record),
            method,
            path,
            headers=self.headers(record),
            timeout_s=ASK_TIMEOUT_S,
            max_bytes=MAX_REPLY_BYTES,
        )

    def target(self, record: LlmRecord) -> Endpoint:
        """Where a worker listens; one that hive has started has a socket too, which is there on its machine."""
        host, _, port = record.url.removeprefix("http://").rpartition(":")
        path = str(worker_socket(self._settings.llm_dir, record.id)) if record.host else ""
        return Endpoint(host.strip("[]"), int(port), path)

    def headers(self, record: LlmRecord) -> tuple[tuple[bytes, bytes], ...]:
        """How a worker knows that it is hive that asks."""
        token = self._tokens.get(record.id)
        if token is None and (token := worker_token(self._settings.secret_key_path, record.id)):
            if len(self._tokens) >= MAX_TOKENS:
                self._tokens.clear()
            self._tokens[record.id] = token
        return ((TOKEN_HEADER, token.encode()),) if token else ()


def _size_of(path: Path) -> int:
    """Bytes of a model's files. Raises OSError, ModelNotServable."""
    return sum(part.stat().st_size for part in shards(path))


def _queued(order: SpawnOrder) -> LlmRecord:
    """The record of a worker that nobody has started yet. Whatever that says of its loading is newer than this."""
    first: LoadingEvent = LoadingToVram(layers_loaded=0, layers_total=0, vram_mb=0)
    if order.download_id:
        first = Fetching(bytes_downloaded=0, bytes_total=0, speed_mbps=0.0, download_id=order.download_id)
    return msgspec.structs.replace(
        order.record(),
        fence=1,
        seq=1,
        event=encode_json(first).decode(),
        lease_ms=int(QUEUED_LEASE_S * 1000),
        activity_ms=int(time.time() * 1000),
    )


def _error_in(record: LlmRecord) -> HiveError | None:
    """How loading ended, where it ended badly."""
    if not record.terminal:
        return None
    try:
        event = json.loads(record.event)
    except ValueError:
        return None
    if event.get("stage") != "error":
        return None
    return from_code(str(event.get("code")), str(event.get("message")), event.get("details") or {})


def _loading(record: LlmRecord, waited_s: float) -> ModelLoading:
    """How far it is, for who does not wait; how long it will take, by what was seen."""
    details: dict[str, Any] = {"worker_id": record.id, "retry_after_s": 5}
    with contextlib.suppress(ValueError, KeyError, TypeError, ZeroDivisionError):
        event = json.loads(record.event)
        if event["stage"] == "loading_to_vram":
            details["progress"] = round(event["layers_loaded"] / event["layers_total"], 3)
        elif event["stage"] == "downloading":
            details["progress"] = round(event["bytes_downloaded"] / event["bytes_total"], 3)
        passed_s = max(time.time() - record.created_ms / 1000, waited_s)
        details["eta_seconds"] = round(passed_s * (1 / details["progress"] - 1))
        details["retry_after_s"] = max(1, min(details["eta_seconds"], 60))
    return ModelLoading(**details)


async def _usable(records: Sequence[LlmRecord], may_use: MayUse) -> list[LlmRecord]:
    return [record for record in records if await may_use(record.path)]


def _least_busy(records: list[LlmRecord]) -> list[LlmRecord]:
    return sorted(records, key=lambda record: (record.slots_busy - record.slots_total, record.created_ms))


def _not_loaded(model: str, records: Sequence[LlmRecord]) -> ModelNotLoaded:
    return ModelNotLoaded(
        f"No worker has {model[:200]!r} in memory. Load it: POST /v1/workers/spawn, or set HIVE_AUTOLOAD=1.",
        model=model[:200],
        loaded=sorted({record.model_id or record.model_ref for record in records if record.is_serving}),
    )


def _which(models: set[str]) -> str:
    if not models:
        return "No model is in memory. Load one with POST /v1/workers/spawn."
    return "Several models are in memory: say which one with `model`."
