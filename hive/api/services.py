"""What the routes work with, made once per process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import HTTPConnection

from hive.api.limits import RateLimits
from hive.api.operations import Operations
from hive.api.readiness import Readiness
from hive.api.serving_parts import LazyServing
from hive.auth.key_ring import KeyRing, Latch
from hive.auth.keys import KeyFile
from hive.auth.principal import Principal
from hive.auth.tickets import Sessions, Tickets
from hive.doors.hub_mirror import HubMirror
from hive.doors.sendfile import FileSender
from hive.downloads.access import ModelAccess
from hive.downloads.context import DownloadContext
from hive.downloads.intents import IntentLog
from hive.downloads.provisioner import ModelProvisioner
from hive.downloads.reaper import Reaper
from hive.downloads.registry import HeartbeatRegistry, WorkerInfo, worker_registry
from hive.downloads.resolutions import Resolutions
from hive.downloads.restore import Restore
from hive.downloads.service import MAX_WAITING_PLANS_OF_ONE, DownloadService
from hive.downloads.threads import Threads
from hive.downloads.tracker import DownloadTracker
from hive.downloads.wrong_digests import WrongDigests
from hive.metrics.replica import Replica
from hive.net.redis_url import RedisAddress
from hive.redis.client import CommandThread
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.probe import StoreHealth
from hive.store.space import Disk
from hive.streams.fanout import Fanout
from hive.streams.longpoll import LongPolls
from hive.streams.many import ManyEndpoint
from hive.streams.right_of_way import RightOfWay
from hive.streams.shares import Shares
from hive.streams.stream import StreamEndpoint
from hive.webhooks.outbox import WebhookOutbox

log = logging.getLogger("hive.api")

#: Threads that read the whole catalog, delete from it and look through it; requests that wait for one; and seconds that
#: such a call may take: thousands of models on a share are read for a while.
STORE_THREADS: Final = 8
MAX_WAITING_FOR_STORE: Final = 256
STORE_PATIENCE_S: Final = 60.0


@dataclass(frozen=True)
class Services:
    """The services of the HTTP process. Whatever talks to Redis goes through `commands.run`."""

    settings: Settings
    commands: CommandThread
    records: DownloadContext
    catalog: ModelCatalog
    downloads: DownloadService
    resolutions: Resolutions
    access: ModelAccess
    registry: HeartbeatRegistry[WorkerInfo]
    reaper: Reaper
    fanout: Fanout
    files: FileSender
    streams: StreamEndpoint
    many_streams: ManyEndpoint
    replica: Replica
    disk: Disk
    store_health: StoreHealth
    readiness: Readiness
    store_calls: Threads
    webhooks: WebhookOutbox
    polls: LongPolls
    keys: KeyRing
    tickets: Tickets
    sessions: Sessions
    rates: RateLimits
    long_polls: Shares
    serving: LazyServing
    mirror: HubMirror
    plans: Shares
    operations: Operations = field(default_factory=Operations)

    @property
    def tracker(self) -> DownloadTracker:
        """The records."""
        return self.records.tracker

    async def end_streams(self, is_alive: Callable[[Principal], bool]) -> None:
        """End what was opened by principals that are not alive any more."""
        ended = [await kind.end_dead(is_alive) for kind in (self.streams, self.many_streams, self.polls)]
        ended.append(await self.serving.end_dead(is_alive))
        ended.append(await self.files.end_dead(is_alive))
        if any(ended):
            log.info("streams were ended with their keys", extra={"fields": {"streams": sum(ended)}})

    async def drain(self, window_s: float) -> None:
        """End all streams and waits so that their clients come back, elsewhere."""
        self.operations.stop()
        self.polls.drain()
        self.many_streams.drain()
        files = asyncio.ensure_future(self.files.drain(window_s))
        await self.serving.drain(window_s)
        await self.streams.drain(window_s)
        await files


def make_services(settings: Settings, redis: RedisAddress | str, keys_on: Latch | None = None) -> Services:
    """The services, wired. Connects to nothing yet. `keys_on`: set where keys are on even if their file has gone.

    Raises:
        KeyFileUnusable: it is there, and cannot be read or is read by others.
    """
    key_ring = KeyRing(KeyFile(settings.api_keys_path), keys_on)
    key_ring.load()
    commands = CommandThread(redis)
    records = DownloadContext.of(commands.client, settings)
    catalog = ModelCatalog(settings)
    way = RightOfWay()
    fanout = Fanout(redis, commands, records.tracker, keepalive_s=settings.keepalive_s, way=way)
    streams = StreamEndpoint(fanout, settings.max_streams, settings.max_streams_per_key)
    many_streams = ManyEndpoint(
        fanout, commands, records.tracker, settings.keepalive_s, settings.max_many_streams_per_key
    )
    resolutions = Resolutions(commands.client)
    provisioner = ModelProvisioner(settings, records.tracker, records.queue, catalog, resolutions)
    webhooks = WebhookOutbox(commands.client, settings)
    access = ModelAccess(settings, commands, catalog, resolutions)
    store_health = StoreHealth(settings)
    intents = IntentLog(settings)
    restore = Restore(settings, redis, intents)
    downloads = DownloadService(commands, records, provisioner, webhooks, intents, restore, resolutions, access)
    return Services(
        settings=settings,
        commands=commands,
        records=records,
        catalog=catalog,
        downloads=downloads,
        serving=LazyServing(settings, redis, commands, downloads),
        mirror=HubMirror(settings, catalog, WrongDigests(commands)),
        resolutions=resolutions,
        access=access,
        registry=worker_registry(commands.client),
        reaper=Reaper(records),
        fanout=fanout,
        files=FileSender(way),
        streams=streams,
        many_streams=many_streams,
        replica=Replica(commands, fanout, streams, many_streams),
        disk=Disk(settings.hub_dir),
        store_health=store_health,
        readiness=Readiness(commands, fanout, store_health),
        store_calls=Threads("store", STORE_THREADS, MAX_WAITING_FOR_STORE, STORE_PATIENCE_S),
        webhooks=webhooks,
        polls=LongPolls(fanout),
        keys=key_ring,
        tickets=Tickets(key_ring, settings.secret_key_path),
        sessions=Sessions(key_ring, settings.secret_key_path),
        rates=RateLimits(settings),
        long_polls=Shares(settings.max_long_polls_per_key),
        plans=Shares(MAX_WAITING_PLANS_OF_ONE),
    )


def services_of(connection: HTTPConnection) -> Services:
    """The services, from inside a route."""
    found: Services = connection.app.state.services
    return found
