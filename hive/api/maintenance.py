"""Verification and collection of garbage, over HTTP and once an hour by itself.

The work is done in a thread (`hive.api.operations`), which asks Redis through the process's one command thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from hive import logs
from hive.api.json import JsonResponse, read_body
from hive.api.operations import LinesResponse
from hive.api.services import Services, services_of
from hive.auth.principal import ANONYMOUS, Principal, principal_of
from hive.downloads import scripts
from hive.downloads.live import Live, in_use, read_live, wanted_by
from hive.errors import RedisUnavailable
from hive.redis.lua import Script
from hive.store.gc import GarbageCollector, InUse
from hive.store.inventory import InventoryItem, Target, all_targets, target
from hive.store.partial_files import list_partials
from hive.store.repair import Repairer
from hive.store.verify import Verification
from hive.wire import keys
from hive.wire.api import CollectRequest, Listing, PartialFile, VerifyRequest
from hive.wire.maintenance import Collected
from hive.wire.spec import DownloadSpec

log = logging.getLogger("hive.operations")

T = TypeVar("T")

#: Seconds for an answer of the command thread, which has a deadline of its own.
CALL_TIMEOUT_S: Final = 10.0
#: Milliseconds for which a partial file is kept from workers while it is removed.
TAKE_MS: Final = 5_000
#: Seconds between two collections of old partial files in the whole fleet.
TIDY_INTERVAL_S: Final = 3600

_VERIFICATION, _COLLECTION = "verification", "collection of garbage"


async def verify(request: Request) -> Response:
    """`POST /v1/models/verify`: reads what is on the disk and says, line by line, what is wrong with it."""
    services = services_of(request)
    body = await read_body(request, VerifyRequest, VerifyRequest())
    targets = await services.store_calls.run(_targets, services, body.models)
    operation = services.operations.begin(_VERIFICATION)
    context = OperationContext(services, operation.stop, principal_of(request))
    repair = Repairer(services.settings, context.is_used, context.request).repair if body.fetch else None

    def work(say: Callable[[msgspec.Struct], None]) -> None:
        Verification(services.settings, targets, say, operation.stop, named=bool(body.models), repair=repair).run()

    return LinesResponse(operation, work, services.settings.keepalive_s)


async def collect(request: Request) -> Response:
    """`POST /v1/gc`: removes what nothing refers to, and says what, line by line."""
    services = services_of(request)
    body = await read_body(request, CollectRequest, CollectRequest())
    operation = services.operations.begin(_COLLECTION)
    context = OperationContext(services, operation.stop)

    def work(say: Callable[[msgspec.Struct], None]) -> None:
        collector = GarbageCollector(
            services.settings,
            say,
            operation.stop,
            context.look,
            context.take,
            older_than_s=body.older_than_seconds,
            dry_run=body.dry_run,
        )
        _log(collector.run())

    return LinesResponse(operation, work, services.settings.keepalive_s)


async def partials(request: Request) -> Response:
    """`GET /v1/partials`: files that have not come whole, and what asked for them."""
    services = services_of(request)
    live = await services.commands.run(lambda: read_live(services.commands.client))
    found = await services.store_calls.run(_partials, services, live)
    return JsonResponse(Listing[PartialFile](data=tuple(found)))


def _partials(services: Services, live: list[Live]) -> list[PartialFile]:
    settings = services.settings
    return list_partials(settings, in_use(settings, live), wanted_by(settings, live))


async def tidy(services: Services) -> bool:
    """Collect old partial files, where that was not done by anybody within the hour; whether it was done.

    Raises:
        Conflict: a collection is under way in this process.
        RedisUnavailable: Redis is away.
    """
    operation, client = services.operations.begin(_COLLECTION), services.commands.client
    with contextlib.closing(operation):
        if not await services.commands.run(lambda: client.set(keys.TIDY_TURN, 1, nx=True, ex=TIDY_INTERVAL_S)):
            return False
        context = OperationContext(services, operation.stop)

        def work(say: Callable[[msgspec.Struct], None]) -> None:
            _log(GarbageCollector(services.settings, say, operation.stop, context.look, context.take).run_partials())

        async for _ in operation.lines(work, services.settings.keepalive_s):
            pass
    return True


class OperationContext:
    """What an operation's thread asks of the rest of the process, which lives in the event loop."""

    def __init__(self, services: Services, stop: threading.Event, principal: Principal = ANONYMOUS) -> None:
        """`principal`: in whose name it asks for downloads."""
        self._services = services
        self._principal = principal
        self._stop = stop
        self._loop = asyncio.get_running_loop()

    def look(self) -> InUse:
        """What downloads need at this moment. Raises RedisUnavailable."""
        return in_use(self._services.settings, self._run(lambda: read_live(self._services.commands.client)))

    @contextlib.contextmanager
    def take(self, name: str) -> Generator[bool]:
        """Hold the lease of a partial file, for as long as its removal takes; False where somebody else does.

        Raises:
            RedisUnavailable: Redis is away.
        """
        client, owner = self._services.commands.client, f"gc {secrets.token_hex(8)}"
        ours = bool(self._run(lambda: client.set(keys.file(name), owner, nx=True, px=TAKE_MS)))
        try:
            yield ours
        finally:
            if ours:
                with contextlib.suppress(RedisUnavailable):  # it expires by itself
                    self._run(lambda: Script(client, scripts.DELETE_IF_EQUAL)(key=keys.file(name), value=owner))

    def is_used(self, item: InventoryItem) -> bool:
        """Whether a download uses this model."""
        now = self.look()
        return item.repo in now.repos if item.repo else item.folder in now.urls

    def request(self, spec: DownloadSpec) -> str:
        """Ask for a download; gives its id. Raises HiveError."""
        spec = DownloadSpec(
            spec.ref,
            spec.include,
            sha256=spec.sha256,
            request_id=logs.bound_field("request_id"),
            owner=self._principal.owner,
            as_operator=self._principal.may("admin"),
        )
        return self._wait_for(self._services.downloads.request(spec)).download_id

    def _run(self, call: Callable[[], T]) -> T:
        return self._wait_for(self._services.commands.run(call))

    def _wait_for(self, call: Coroutine[Any, Any, T]) -> T:
        if self._stop.is_set():
            call.close()
            raise RedisUnavailable
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop).result(CALL_TIMEOUT_S)
        except (TimeoutError, concurrent.futures.CancelledError):
            raise RedisUnavailable from None


def _targets(services: Services, models: tuple[str, ...]) -> list[Target]:
    if not models:
        return all_targets(services.settings)
    return list(dict.fromkeys(target(services.settings, model_id) for model_id in models))


def _log(end: Collected) -> None:
    if end.removed and not end.dry_run:
        fields = {"removed": end.removed, "bytes": end.bytes, "kept": end.kept}
        log.info("garbage collected", extra={"fields": fields})
