"""From a plan to files in the store: the transfer engine at work, each file published as soon as it is verified.

The engine knows files and bytes; the reporter speaks of the download as a whole. Here the one is translated into the
other.
"""

from __future__ import annotations

from collections.abc import Sequence

from hive.settings import Settings
from hive.wire.events import Status
from workers.progress import Reporter
from workers.sources import Plan, PlannedFile
from workers.store import Store
from workers.transfer import Control, Job, Limits, Network, Snapshot, address_check, fetch_many

#: Ports of plain URLs are not limited: a public host may serve files on any.
_ALL_PORTS = range(1, 65_536)


def outbound(settings: Settings, *, guarded: bool) -> Network:
    """How to get out. `guarded` refuses private addresses: for URLs that a stranger may have written.

    The Hub's endpoint comes from the settings alone and may well be private (a mirror); what it redirects to is its
    word.
    """
    return Network(
        proxies=settings.proxies,
        no_proxy=settings.no_proxy or "",
        ca_bundle=settings.ca_bundle,
        user_agent=settings.user_agent,
        address_check=address_check(settings.allowed_hosts, _ALL_PORTS) if guarded else None,
    )


def limits_of(settings: Settings) -> Limits:
    """The engine's numbers, with what people may set."""
    return Limits(small_files_at_once=settings.files_at_once, keep_free_fraction=settings.keep_free_percent / 100)


def transfer(
    plan: Plan,
    missing: Sequence[PlannedFile],
    store: Store,
    reporter: Reporter,
    control: Control,
    network: Network,
    settings: Settings,
) -> None:
    """Fetch, verify and publish these files.

    Raises:
        HiveError: a file cannot be brought, or what `control` was cancelled with. What is on disk by then is resumed.
    """
    files: dict[Job, PlannedFile] = {Job(file.source, store.partial(plan, file)): file for file in missing}
    statuses: dict[str, Status] = {}

    def on_progress(job: Job, snapshot: Snapshot) -> None:
        file = files[job]
        reporter.file(file.path, snapshot.bytes_done, snapshot.bytes_total or file.size or 0)
        statuses[file.path] = snapshot.status
        reporter.status(_together(list(statuses.values())), snapshot.message)

    arriving = fetch_many(files, control=control, network=network, on_progress=on_progress, limits=limits_of(settings))
    for job, fetched in arriving:
        file = files[job]
        control.gate()
        store.publish(plan, file, job.partial, fetched)
        statuses.pop(file.path, None)
        reporter.file_done(file.path, fetched.size, fetched.bytes_refetched)


def _together(statuses: Sequence[Status]) -> Status:
    """The status of a download from those of its files: it downloads while any file does."""
    for status in ("downloading", "verifying", "retrying"):
        if status in statuses:
            return status
    return statuses[0] if statuses else "downloading"
