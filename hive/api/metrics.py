"""`GET /metrics`: for Prometheus, and whatever reads its text."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from hive.api.services import Services, services
from hive.errors import StoreUnavailable
from hive.fleet import Fleet, read_fleet
from hive.metrics import Scrape
from hive.replica import ReplicaFigures


async def metrics(request: Request) -> Response:
    """The figures of the fleet and of every HTTP process; of this one alone while Redis is away, and 200 all the same:
    a scrape that fails would look like a process that is down.
    """
    parts = services(request)
    own = parts.replica.figures()
    fleet, disk = await asyncio.gather(_fleet(parts, own), parts.disk.space())
    body, content_type = Scrape(own, fleet, disk).encode(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


async def _fleet(parts: Services, own: ReplicaFigures) -> Fleet | None:
    try:
        return await parts.commands.run(read_fleet, parts.commands.client, own, parts.settings)
    except StoreUnavailable:
        return None
