"""What the routes work with, made once per process."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from hive.api.operations import Operations
from hive.downloads.intents import IntentLog
from hive.downloads.jobqueue import JobQueue
from hive.downloads.provisioner import ModelProvisioner
from hive.downloads.reaper import Reaper
from hive.downloads.registry import WorkerRegistry
from hive.downloads.restore import Restorer
from hive.downloads.service import DownloadService
from hive.downloads.tracker import DownloadTracker
from hive.metrics.replica import Replica
from hive.redis_client import CommandThread
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.space import Disk
from hive.streams.fanout import Fanout
from hive.streams.many import ManyEndpoint
from hive.streams.stream import StreamEndpoint
from hive.webhooks.outbox import WebhookOutbox


@dataclass(frozen=True)
class Services:
    """The services of the HTTP process. Whatever talks to Redis goes through `commands.run`."""

    settings: Settings
    commands: CommandThread
    tracker: DownloadTracker
    catalog: ModelCatalog
    downloads: DownloadService
    queue: JobQueue
    registry: WorkerRegistry
    reaper: Reaper
    fanout: Fanout
    streams: StreamEndpoint
    many_streams: ManyEndpoint
    replica: Replica
    disk: Disk
    webhooks: WebhookOutbox
    operations: Operations = field(default_factory=Operations)

    async def drain(self, window_s: float) -> None:
        """End all streams so that their clients come back, elsewhere."""
        self.operations.stop()
        self.many_streams.drain()
        await self.streams.drain(window_s)


def make_services(settings: Settings, redis_url: str) -> Services:
    """The services, wired. Connects to nothing yet."""
    commands = CommandThread(redis_url)
    tracker = DownloadTracker.of(commands.client, settings)
    queue = JobQueue(commands.client)
    catalog = ModelCatalog(settings)
    fanout = Fanout(redis_url, commands, tracker, keepalive_s=settings.keepalive_s)
    streams = StreamEndpoint(fanout, settings.max_streams)
    many_streams = ManyEndpoint(fanout, commands, tracker, settings.keepalive_s)
    provisioner = ModelProvisioner(settings, tracker, queue, catalog)
    webhooks = WebhookOutbox(commands.client, settings)
    intents = IntentLog(settings)
    restorer = Restorer(settings, redis_url, intents)
    return Services(
        settings=settings,
        commands=commands,
        tracker=tracker,
        catalog=catalog,
        downloads=DownloadService(commands, tracker, provisioner, webhooks, intents, restorer),
        queue=queue,
        registry=WorkerRegistry(commands.client),
        reaper=Reaper(commands.client, tracker, queue, lease_s=settings.lease_s, max_attempts=settings.max_attempts),
        fanout=fanout,
        streams=streams,
        many_streams=many_streams,
        replica=Replica(commands, fanout, streams, many_streams),
        disk=Disk(settings.store_dir),
        webhooks=webhooks,
    )


def services_of(connection: HTTPConnection) -> Services:
    """The services, from inside a route."""
    found: Services = connection.app.state.services
    return found
