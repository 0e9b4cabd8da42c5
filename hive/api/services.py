"""What the routes work with, made once per process."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from hive.api.books import Books
from hive.api.lines import Upkeep
from hive.catalog import ModelCatalog
from hive.connections import CommandThread
from hive.disk import Disk
from hive.fanout import Fanout
from hive.jobqueue import JobQueue
from hive.manystream import ManyEndpoint
from hive.provisioner import ModelProvisioner
from hive.reaper import Reaper
from hive.registry import WorkerRegistry
from hive.replica import Replica
from hive.settings import Settings
from hive.stream import StreamEndpoint
from hive.tracker import DownloadTracker
from hive.webhooks import Webhooks


@dataclass(frozen=True)
class Services:
    """The parts of the HTTP process. Whatever talks to Redis goes through `commands.run`."""

    settings: Settings
    commands: CommandThread
    tracker: DownloadTracker
    catalog: ModelCatalog
    provisioner: ModelProvisioner
    queue: JobQueue
    registry: WorkerRegistry
    reaper: Reaper
    fanout: Fanout
    streams: StreamEndpoint
    many_streams: ManyEndpoint
    replica: Replica
    disk: Disk
    webhooks: Webhooks
    books: Books
    upkeep: Upkeep = field(default_factory=Upkeep)

    async def drain(self, window_s: float) -> None:
        """End all streams so that their clients come back, elsewhere."""
        self.upkeep.stop()
        self.many_streams.drain()
        await self.streams.drain(window_s)


def make_services(settings: Settings, redis_url: str) -> Services:
    """The parts, wired. Connects to nothing yet."""
    commands = CommandThread(redis_url)
    tracker = DownloadTracker.of(commands.client, settings)
    queue = JobQueue(commands.client)
    catalog = ModelCatalog(settings)
    fanout = Fanout(redis_url, commands, tracker, keepalive_s=settings.keepalive_s)
    streams = StreamEndpoint(fanout, settings.max_streams)
    many_streams = ManyEndpoint(fanout, commands, tracker, settings.keepalive_s)
    return Services(
        settings=settings,
        commands=commands,
        tracker=tracker,
        catalog=catalog,
        provisioner=ModelProvisioner(settings, tracker, queue, catalog),
        queue=queue,
        registry=WorkerRegistry(commands.client),
        reaper=Reaper(commands.client, tracker, queue, lease_s=settings.lease_s, max_attempts=settings.max_attempts),
        fanout=fanout,
        streams=streams,
        many_streams=many_streams,
        replica=Replica(commands, fanout, streams, many_streams),
        disk=Disk(settings.store_dir),
        webhooks=Webhooks(commands.client, settings),
        books=Books(settings, redis_url, commands),
    )


def services(connection: HTTPConnection) -> Services:
    """The parts, from inside a route."""
    found: Services = connection.app.state.services
    return found
