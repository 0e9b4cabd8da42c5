"""The life of one LLM worker: it listens, says so, has its model downloaded where that is missing, loads it, answers,
and ends in order.

    server first, so that there is an address at once; then hive is told; then the model.

    queued -> loading -> idle <-> busy -> draining -> stopped
                 |         '----------------------> failed      the engine has died, or is not well any more
                 '--------------------------------> failed      told in the stream, which stays for a moment

It is a process of its own: what happens to one model happens to nobody else, and its memory goes back when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import Final

import msgspec

from hive.auth.principal import Principal
from hive.downloads.tracker import DownloadTracker
from hive.error_codes import from_code
from hive.errors import BackendUnavailable, HiveError, InternalError, ModelNotServable, RedisUnavailable, WorkerLost
from hive.own_limits import limit_reached
from hive.serving.endpoint import Endpoint, worker_socket
from hive.serving.gguf_header import GgufInfo, read_gguf, shards
from hive.serving.memory import bytes_needed, check_ram, used_bytes
from hive.serving.orders import SpawnOrder
from hive.serving.placement import promised_bytes
from hive.serving.record import LlmRecord
from hive.serving.registry import LEASE_S, LlmRegistry
from hive.serving_errors import EngineFailed
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.file_use import FileUse
from hive.store.restricted import AccessNotes
from hive.wire import events
from hive.wire.llm import Fetching, LlmState, LoadingError, LoadingToVram, Ready
from workers.inference.address import Makes, WorkerRoutes
from workers.inference.engine import Engine, EngineSpec, command_for, environment, environment_for, forget_old_logs
from workers.inference.guard import Guard
from workers.inference.http1 import Listener
from workers.inference.inference import Inference
from workers.inference.loading import Loading
from workers.inference.ports import bind_first, bind_path
from workers.inference.presence import Presence
from workers.inference.slots import Slots

log = logging.getLogger("workers.inference")

#: Seconds that the address of a worker that has failed stays, for those who come to its stream.
FAILED_LINGER_S: Final = 5.0
#: Seconds between two looks at a download, and that Redis may be away meanwhile.
DOWNLOAD_LOOK_S: Final = 0.25
DOWNLOAD_LOST_S: Final = 60.0
#: Failures in a row of the engine's health that end it.
MAX_HEALTH_FAILURES: Final = 3
#: Seconds between two looks whether the worker has been idle for too long.
IDLE_LOOK_S: Final = 0.25
#: Seconds that answers may take to leave when the worker ends.
FLUSH_S: Final = 0.5


class Supervisor:
    """One worker. `run` is all there is to do."""

    def __init__(self, settings: Settings, order: SpawnOrder) -> None:
        assert settings.redis_address is not None
        self.settings = settings
        self.loading = Loading(self._changed, settings.keepalive_s)
        self.slots = Slots(order.slots, self._changed)
        self.url = ""
        self.model = order.model_id or order.model_ref
        self.vram_bytes = 0
        self._memory_bytes = 0
        self.makes: Makes = "text"
        self.vector_length = 0
        self._order = order
        self._path = order.path
        self._model_id = order.model_id
        self._engine: Engine | None = None
        self._use = FileUse()
        self._life: LlmState = "loading"
        self._failed_checks = 0
        self._activity_s = time.time()
        self._idle_since_s = time.monotonic()
        self._told_to_end = asyncio.Event()
        self._failure: HiveError | None = None
        self._presence = Presence(settings.redis_address, self._record, lambda: self.loading.told, self.shut_down)

    # -- what the routes ask -----------------------------------------------------------------------------------------

    @property
    def state(self) -> LlmState:
        """What it does."""
        return "busy" if self._life == "idle" and self.slots.busy else self._life

    @property
    def engine(self) -> Endpoint | None:
        """Where the engine is, once the model is loaded."""
        return self._engine.target if self._engine is not None and self._life == "idle" else None

    async def may_be_used_by(self, principal: Principal) -> bool:
        """Whether the Hub has let them in to the model lately, or everybody is. The Hub is not asked here."""
        if principal.sees_everything or not self._path:
            return True
        notes = AccessNotes(self.settings.hive_dir)
        path = Path(self._path)
        known = await asyncio.to_thread(notes.known_of_file, self.settings.hub_dir, path, principal.owner)
        return known is not None and known.let_in

    def used(self, inference: Inference | None) -> None:
        """A request has ended."""
        self._activity_s, self._idle_since_s = time.time(), time.monotonic()
        if inference is None:
            self._presence.count(llm_requests_PASSED_ON=1)
        elif inference.outcome:
            self._presence.count(
                **{f"llm_requests_{inference.outcome}": 1},
                llm_tokens_in=inference.prompt_tokens,
                llm_tokens_out=inference.tokens,
                llm_decode_us=int(inference.decode_s * 1e6),
                llm_first_tokens=int(inference.tokens > 0),
                llm_first_token_us=int(inference.first_token_s * 1e6),
            )
            fields = {"outcome": inference.outcome, "tokens": inference.tokens}
            log.info("answered", extra={"fields": {**fields, "first_token_s": round(inference.first_token_s, 4)}})

    def shut_down(self) -> None:
        """End in order."""
        self._told_to_end.set()

    # -- its life ----------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Be this worker until it ends; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.shut_down)
        address = WorkerRoutes(self, Guard(self.settings, self._order.worker_id, self.settings.llm_host))
        listener = Listener(address)
        try:
            sock = bind_first(self.settings.llm_host, self.settings.llm_port_range)
        except HiveError as error:
            await self._presence.end("failed", _told(error))
            raise
        servers = [await listener.listen(sock)]
        path = worker_socket(self.settings.llm_dir, self._order.worker_id)
        if (local := await asyncio.to_thread(bind_path, path)) is not None:
            servers.append(await listener.listen_local(local))
        self.url = _url_of(sock)
        log.info("listening", extra={"fields": {"address": self.url, "model": self.model}})
        presence = asyncio.create_task(self._presence.run())
        life = asyncio.create_task(self._live())
        told = asyncio.create_task(self._told_to_end.wait())
        keys = asyncio.create_task(address.watch_keys())
        try:
            await asyncio.wait([life, told], return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                self._failure = _hive_error(life.exception())
                if self._failure is None:
                    await self._presence.rest(self._order)
            return await self._end()
        finally:
            for task in (presence, life, told, keys):
                task.cancel()
            await asyncio.gather(presence, life, told, keys, return_exceptions=True)
            for server in servers:
                server.close()
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            if self._engine is not None:
                await self._engine.stop()
            await listener.close(FLUSH_S)
            self._presence.close()
            self._use.close()

    async def _live(self) -> None:
        """Load the model, then look after it; returns when it has been idle for too long.

        Raises:
            HiveError: it cannot be loaded, or the engine is not well any more.
        """
        if self._order.download_id:
            await self._wait_for_download()
        await self._load()
        self._life, self._idle_since_s = "idle", time.monotonic()
        self.loading.tell(Ready())
        log.info("ready", extra={"fields": {"model": self.model}})
        assert self._engine is not None
        watchers = [
            asyncio.create_task(w) for w in (self._engine.ended.wait(), self._check_health(), self._wait_idle())
        ]
        try:
            done, _ = await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
            if watchers[0] in done:
                raise self._engine.failure()
            for task in done:
                task.result()
        finally:
            for task in watchers:
                task.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    async def _load(self) -> None:
        order, settings = self._order, self.settings
        info, size = await asyncio.to_thread(_look_at, Path(self._path), self._use)
        await self._find_id()
        self.makes, self.vector_length = "vectors" if info.makes_vectors else "text", info.vector_length
        context = info.context_of(order.context)
        needed = bytes_needed(size, info.kv_bytes_per_token, context, order.slots)
        if order.backend == "cpu":
            self._memory_bytes = needed
            self._changed()
            check_ram(needed, settings.llm_keep_free_bytes, await self._promised())
        self._tell_layers(0.0, info, size)
        log_path = settings.llm_dir / f"{order.worker_id}.log"
        await asyncio.to_thread(log_path.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(forget_old_logs, log_path.parent)
        self._engine = Engine(log_path, lambda share: self._tell_layers(share, info, size))
        spec = EngineSpec(
            Path(self._path),
            context,
            order.slots,
            order.backend,
            order.device,
            settings.llm_load_mode,
            settings.llm_threads,
            self.model.replace(",", "_"),
            info.makes_vectors,
        )
        command = command_for(spec, self._engine.socket_path, settings.llama_server)
        try:
            await self._engine.start(command, {**environment(), **environment_for(spec)})
        except OSError as error:
            raise BackendUnavailable(f"The engine cannot be started: {error.strerror or error}.") from None
        await self._engine.wait_until_ready(settings.llm_stall_s, settings.llm_loading_timeout_s, self._describe)
        self.vram_bytes = needed

    async def _promised(self) -> int:
        """Bytes of this machine that other models will take, or that they hold while the kernel counts them as free: of
        two that load at once the one that was asked for first goes first. 0 where Redis is away.
        """
        try:
            records = await self._presence.read(LlmRegistry(self._presence.client).alive)
        except RedisUnavailable:
            return 0
        mine = next((record.created_ms for record in records if record.id == self._order.worker_id), 0)
        first = [r for r in records if r.is_serving or (r.created_ms, r.id) < (mine, self._order.worker_id)]
        machine = self._record().machine
        return promised_bytes(r for r in first if r.id != self._order.worker_id).get(machine, 0)

    async def _find_id(self) -> None:
        """How the list of models has it, which nobody knew before it was on the disk."""
        if self._model_id:
            return
        with contextlib.suppress(OSError):
            found = await asyncio.to_thread(ModelCatalog(self.settings).at, Path(self._path))
            if found is not None:
                self._model_id = self.model = found.id

    async def _check_health(self) -> None:
        """Raises EngineFailed after three failures in a row."""
        assert self._engine is not None
        while self._failed_checks < MAX_HEALTH_FAILURES:
            await asyncio.sleep(self.settings.llm_health_interval_s)
            well = await self._engine.is_healthy()
            self._failed_checks = 0 if well else self._failed_checks + 1
            if not well:
                log.warning("the engine is not well", extra={"fields": {"failures": self._failed_checks}})
                self._changed()
        raise EngineFailed(f"The engine has not answered {MAX_HEALTH_FAILURES} times in a row.")

    async def _wait_idle(self) -> None:
        """Return when nobody has asked anything for too long; 0 seconds mean never."""
        idle_s = self._order.idle_s
        while not idle_s or self.slots.busy or time.monotonic() - self._idle_since_s < idle_s:  # noqa: ASYNC110
            await asyncio.sleep(IDLE_LOOK_S)
        log.info("idle for too long; the memory goes back", extra={"fields": {"seconds": idle_s}})

    async def _end(self) -> int:
        """Say why, let what runs end, and leave."""
        if self._failure is not None:
            return await self._fail(self._failure)
        self._life = "draining"
        self._changed()
        stopped = LoadingError(code="CANCELLED", message="The worker was ended.")
        self.loading.tell(stopped)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.llm_drain_s):
                await self.slots.all_free()
        self.slots.stop_all("CANCELLED", "The worker is ending.")
        # Whoever reads that it has ended may delete the model at once.
        if self._engine is not None:
            await self._engine.stop()
        self._use.close()
        await self._presence.end("stopped", stopped)
        return 0

    async def _fail(self, error: HiveError) -> int:
        log.error("failed", extra={"fields": {"code": error.code, "reason": error.message}})
        was_loading = not self.loading.is_over
        self._life = "failed"
        self.slots.stop_all("INFERENCE_FAILED", error.message)
        self.loading.tell(_told(error))
        await self._presence.end("failed", _told(error))
        if was_loading:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAILED_LINGER_S):
                    await self._told_to_end.wait()
        return 1

    # -- the download ------------------------------------------------------------------------------------------------

    async def _wait_for_download(self) -> None:
        """Tell the download's progress in our stream, until the model is on disk.

        Raises:
            HiveError: as the download ended.
        """
        tracker = DownloadTracker.of(self._presence.client, self.settings)
        heard_s = time.monotonic()
        while True:
            try:
                record = await self._presence.read(tracker.read, self._order.download_id)
            except RedisUnavailable:
                record = None
            if record is None:
                if time.monotonic() - heard_s > DOWNLOAD_LOST_S:
                    raise WorkerLost("The download of the model has disappeared. Ask for it again.")
            else:
                heard_s = time.monotonic()
                event = record.last_event
                if isinstance(event, events.Complete):
                    self._path = event.local_path
                    return
                if isinstance(event, events.Error):
                    raise from_code(event.code or "DOWNLOAD_FAILED", event.message, event.details or {})
                self._tell_download(event)
            await asyncio.sleep(DOWNLOAD_LOOK_S)

    def _tell_download(self, event: events.Downloading) -> None:
        told = Fetching(
            bytes_downloaded=event.bytes_downloaded,
            bytes_total=event.bytes_total,
            speed_mbps=event.speed_mbps,
            download_id=self._order.download_id,
            status=event.status,
        )
        if told != self.loading.event:
            self.loading.tell(told)

    # -- what is said ------------------------------------------------------------------------------------------------

    def _tell_layers(self, share: float, info: GgufInfo, size: int) -> None:
        event = LoadingToVram(
            layers_loaded=int(share * info.layers), layers_total=info.layers, vram_mb=int(share * size / 1_000_000)
        )
        if event != self.loading.event:
            self.loading.tell(event)

    def _describe(self) -> str:
        event = self.loading.event
        return f"{event.layers_loaded}/{event.layers_total} layers" if isinstance(event, LoadingToVram) else "its start"

    def _changed(self) -> None:
        self._presence.changed()

    def _record(self) -> LlmRecord:
        return msgspec.structs.replace(
            self._order.record(),
            url=self.url,
            state=self.state,
            path=self._path,
            model_id=self._model_id,
            slots_busy=self.slots.busy,
            pid=os.getpid(),
            memory_bytes=self._memory_bytes,
            memory_used=used_bytes(engine) if (engine := self._engine and self._engine.pid) else 0,
            failed_health_checks=self._failed_checks,
            lease_ms=int(LEASE_S * 1000),
            activity_ms=int(self._activity_s * 1000),
        )


def _look_at(path: Path, use: FileUse) -> tuple[GgufInfo, int]:
    """The head of the model's file, and the bytes of all its shards, which are in use from now on. Raises
    ModelNotServable.
    """
    if path.is_dir() or path.suffix.lower() != ".gguf":
        found = "a folder of other files" if path.is_dir() else repr(path.name)
        raise ModelNotServable(f"The engine loads GGUF files, and the model is {found}. Name a GGUF variant.")
    try:
        parts = shards(path)
        use.hold(parts)
        return read_gguf(path), sum(part.stat().st_size for part in parts)
    except OSError as error:
        raise ModelNotServable(
            f"The model's file cannot be read: {error.strerror}. Is the store on this machine?"
        ) from None


def _hive_error(error: BaseException | None) -> HiveError | None:
    if error is None or isinstance(error, HiveError):
        return error
    log.error("the worker failed", exc_info=error)
    return limit_reached(error) or InternalError()


def _told(error: HiveError) -> LoadingError:
    return LoadingError(code=error.code, message=error.message, details=error.details or None)


def _url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not bound to
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
