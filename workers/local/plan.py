"""What a download in this process would bring: asked of the source, compared with the disk, and nothing fetched."""

from __future__ import annotations

import msgspec

from hive.errors import HubUnavailable
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.disk_plan import plan_on_disk
from hive.store.filesystem import nearest, partial_place
from hive.wire.api import DownloadPlan, Room
from hive.wire.events import ActiveStatus
from hive.wire.spec import DownloadSpec, request_of
from workers.fetch import limits_of, network_of
from workers.plans import described
from workers.publish import Store
from workers.resolve import HUB_ATTEMPTS, HUB_ATTEMPTS_WITH_COPY, resolve_patiently
from workers.sources import open_to_caller, probed
from workers.transfer import Control, LocalCooldown, free_bytes


def plan(settings: Settings, spec: DownloadSpec) -> DownloadPlan:
    """The plan, with the room that there is. Raises HiveError."""
    settings = open_to_caller(settings, spec.ref)
    network = network_of(settings, spec.ref)
    catalog = ModelCatalog(settings)
    copy = None if spec.update else catalog.find_unlisted(spec.ref, spec.include, spec.exclude)
    try:
        found = resolve_patiently(
            spec.ref,
            request_of(spec),
            settings=settings,
            network=network,
            token=spec.hf_token or settings.token(),
            control=Control(),
            reporter=_Nobody(),
            cooldown=LocalCooldown(),
            attempts=HUB_ATTEMPTS if copy is None else HUB_ATTEMPTS_WITH_COPY,
        )
        if spec.ref.url is not None and not spec.ref.is_local_file:
            found = probed(found, network, limits_of(settings))
    except HubUnavailable:
        if copy is None:
            raise
        answer = plan_on_disk(catalog, spec, copy)
    else:
        answer = described(found, Store(settings))
    place = partial_place(settings, for_url=spec.ref.url is not None)
    available = free_bytes(nearest(place.path), limits_of(settings))
    room = Room(available=available, enough=available >= (answer.bytes_missing or 0))
    return msgspec.structs.replace(answer, room=room)


class _Nobody:
    """Hears what is done, and says nothing."""

    def status(self, status: ActiveStatus, message: str | None = None) -> None:
        """Nothing."""

    def plan(self, *, bytes_total: int, files_total: int, files_done: int, bytes_done: int) -> None:
        """Nothing."""

    def file(self, path: str, bytes_done: int, bytes_total: int) -> None:
        """Nothing."""

    def file_done(self, path: str, size: int, refetched: int = 0) -> None:
        """Nothing."""
