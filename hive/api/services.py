"""What the routes work with, made once per process."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from hive.catalog import ModelCatalog
from hive.connections import CommandThread
from hive.fanout import Fanout
from hive.jobqueue import JobQueue
from hive.manystream import ManyEndpoint
from hive.provisioner import ModelProvisioner
from hive.reaper import Reaper
from hive.registry import WorkerRegistry
from hive.settings import Settings
from hive.stream import StreamEndpoint
from hive.tracker import DownloadTracker


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

    async def drain(self, window_s: float) -> None:
        """End all streams so that their clients come back, elsewhere."""
        self.many_streams.drain()
        await self.streams.drain(window_s)


def make_services(settings: Settings, redis_url: str) -> Services:
    """The parts, wired. Connects to nothing yet."""
    commands = CommandThread(redis_url)
    tracker = DownloadTracker(
        commands.client, ended_ttl_s=settings.ended_ttl_s, max_queued=settings.max_queued, lease_s=settings.lease_s
    )
    queue = JobQueue(commands.client)
    catalog = ModelCatalog(settings)
    fanout = Fanout(redis_url, commands, tracker, keepalive_s=settings.keepalive_s)
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
        streams=StreamEndpoint(fanout, settings.max_streams),
        many_streams=ManyEndpoint(fanout, commands, tracker, settings.keepalive_s),
    )


def services(connection: HTTPConnection) -> Services:
    """The parts, from inside a route."""
    found: Services = connection.app.state.services
    return found
