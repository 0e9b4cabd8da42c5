"""From a plan to files in the store: the transfer engine at work, each file published as soon as it is verified.

The engine knows files and bytes; the reporter speaks of the download as a whole. Here the one is translated into the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hive.settings import Settings
from hive.tracker import DownloadTracker
from hive.wire.events import Downloading, Status
from workers.filelease import FileLeases
from workers.progress import Reporter
from workers.resolving import sleep
from workers.sources import Plan, PlannedFile
from workers.store import Store
from workers.transfer import Control, Job, Limits, Network, Snapshot, address_check, fetch_many

#: Seconds between two looks at a file that another download is fetching.
FOLLOW_INTERVAL_S = 0.5
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


class Transfer:
    """The files of one download on their way into the store."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        reporter: Reporter,
        control: Control,
        network: Network,
        limits: Limits,
        leases: FileLeases,
        tracker: DownloadTracker,
        download_id: str,
    ) -> None:
        self._plan = plan
        self._store = store
        self._reporter = reporter
        self._control = control
        self._network = network
        self._limits = limits
        self._leases = leases
        self._tracker = tracker
        self._download_id = download_id
        self._statuses: dict[str, Status] = {}

    def run(self, missing: Sequence[PlannedFile]) -> None:
        """Fetch, verify and publish these files; those that another download is fetching are waited for.

        Raises:
            HiveError: a file cannot be brought, or what `control` was cancelled with. What is on disk is resumed.
        """
        ours: list[PlannedFile] = []
        others: list[PlannedFile] = []
        for file in missing:
            mine = self._is_small(file) or self._leases.acquire(self._partial(file).name) is None
            (ours if mine else others).append(file)
        self._fetch(ours)
        for file in others:
            self._follow(file)

    def _fetch(self, files: Sequence[PlannedFile]) -> None:
        jobs = {Job(file.source, self._partial(file)): file for file in files}

        def on_progress(job: Job, snapshot: Snapshot) -> None:
            self._tell(jobs[job], snapshot)

        arriving = fetch_many(
            jobs, control=self._control, network=self._network, on_progress=on_progress, limits=self._limits
        )
        for job, fetched in arriving:
            file = jobs[job]
            self._control.gate()
            self._store.publish(self._plan, file, job.partial, fetched)
            if not self._is_small(file):
                self._leases.release(job.partial.name)
            self._statuses.pop(file.path, None)
            self._reporter.file_done(file.path, fetched.size, fetched.bytes_refetched)

    def _follow(self, file: PlannedFile) -> None:
        """Wait for a file that another download is fetching, show how far it is, and take over where that one gives
        up.
        """
        name = self._partial(file).name
        while True:
            owner = self._leases.acquire(name)
            if self._store.has(self._plan, file):
                self._leases.release(name)
                self._reporter.file_done(file.path, file.size or 0)
                return
            if owner is None:
                self._fetch([file])
                return
            self._show_progress_of(owner, file)
            sleep(FOLLOW_INTERVAL_S, self._control)

    def _show_progress_of(self, download_id: str, file: PlannedFile) -> None:
        record = self._tracker.read(download_id) if download_id else None
        event = record.last_event if record is not None else None
        if isinstance(event, Downloading):
            for other in event.files:
                if other.path == file.path:
                    self._reporter.file(file.path, other.bytes_downloaded, other.bytes_total)
        self._reporter.status("downloading", "Another download is fetching this file; sharing it.")

    def _tell(self, file: PlannedFile, snapshot: Snapshot) -> None:
        self._reporter.file(file.path, snapshot.bytes_done, snapshot.bytes_total or file.size or 0)
        self._statuses[file.path] = snapshot.status
        self._reporter.status(_together(list(self._statuses.values())), snapshot.message)

    def _is_small(self, file: PlannedFile) -> bool:
        """Whether the engine fetches it in one go, without a journal: such a partial is nobody else's."""
        return file.size is not None and file.size < self._limits.small_file_bytes

    def _partial(self, file: PlannedFile) -> Path:
        return self._store.partial(self._plan, file, self._download_id if self._is_small(file) else "")


def _together(statuses: Sequence[Status]) -> Status:
    """The status of a download from those of its files: it downloads while any file does."""
    for status in ("downloading", "verifying", "retrying"):
        if status in statuses:
            return status
    return statuses[0] if statuses else "downloading"
