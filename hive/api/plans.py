"""Plans: what a download would bring, asked before it is asked for."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from hive.api.disconnect import while_connected
from hive.api.downloads import read_spec
from hive.api.json import JsonResponse, read_body
from hive.api.services import Services, services_of
from hive.auth.principal import principal_of
from hive.errors import RedisUnavailable
from hive.wire.api import DownloadPlan, PlanRequest, Room


async def create(request: Request) -> Response:
    """`POST /v1/models/plan`: files, sizes, digests, and whether they fit; nothing is downloaded."""
    services = services_of(request)
    services.rates.admit_ask(request)
    spec = read_spec(await read_body(request, PlanRequest), services.settings, principal_of(request))
    with services.plans.holding(request):
        plan = await while_connected(request, services.downloads.plan(spec))
    return JsonResponse(msgspec.structs.replace(plan, room=await _room(services, plan)))


async def _room(services: Services, plan: DownloadPlan) -> Room | None:
    """What downloads may take of the disk now, as they reckon themselves; None where the disk does not say."""
    space = await services.disk.space()
    if space is None:
        return None
    try:
        reserved = await services.commands.run(services.resolutions.reserved_bytes)
    except RedisUnavailable:
        return None
    kept = int(space.total * services.settings.keep_free_percent / 100)
    available = max(0, space.free - kept - reserved)
    return Room(available=available, enough=available >= (plan.bytes_missing or 0))
