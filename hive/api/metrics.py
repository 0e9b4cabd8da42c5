"""`GET /metrics`: for Prometheus, and whatever reads its text."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from hive.api.services import Services, services_of
from hive.errors import RedisUnavailable
from hive.metrics.fleet import FleetFigures, RedisMemory, read_fleet, read_memory
from hive.metrics.prometheus import Scrape
from hive.metrics.replica import ReplicaFigures


async def metrics(request: Request) -> Response:
    """The figures of the fleet and of every HTTP process; of this one alone while Redis is away, and 200 all the same:
    a scrape that fails would look like a process that is down.
    """
    body, content_type = (await look(services_of(request))).encode(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


async def look(services: Services) -> Scrape:
    """What there is to show now."""
    own = services.replica.figures()
    fleet, disk, memory = await asyncio.gather(_fleet(services, own), services.disk.space(), _memory(services))
    return Scrape(own, fleet, disk, memory)


async def _fleet(services: Services, own: ReplicaFigures) -> FleetFigures | None:
    try:
        return await services.commands.run(
            read_fleet, services.commands.client, services.replica.registry, own, services.settings
        )
    except RedisUnavailable:
        return None


async def _memory(services: Services) -> RedisMemory | None:
    """How full Redis is: also where it takes no writes, and `_fleet` is None for that."""
    try:
        return await services.commands.run(read_memory, services.commands.client)
    except RedisUnavailable:
        return None
