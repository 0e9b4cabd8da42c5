"""From a plan to files in the store: the transfer engine at work, each file published as soon as it is verified.

The engine knows files and bytes; the reporter speaks of the download as a whole. Here the one is translated into the
other.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hive.errors import DownloadError
from hive.net.addresses import address_check, hub_check
from hive.net.egress import Network
from hive.settings import Settings
from hive.store.filesystem import is_shared
from hive.wire.events import ActiveStatus, Downloading
from hive.wire.refs import ModelRef
from workers.coordination import Peers, ProgressListener
from workers.publish import Store
from workers.resolve import hub_host, source_host
from workers.sources import Plan, PlannedFile, RetryLater, named, own_host
from workers.sources.local_file import copy_local_file, path_of
from workers.transfer import (
    BatchItem,
    Control,
    Fetched,
    HostPool,
    Limits,
    Location,
    Snapshot,
    Source,
    Throttled,
    Transport,
    Xet,
    available,
    fetch_many,
    probe,
)

# The line that it writes is one of a download's life (docs/logs.md), which are all this logger's.
log = logging.getLogger("workers.download")

#: Seconds between two looks at a file that another download is fetching.
FOLLOW_INTERVAL_S = 0.5


def network_of(settings: Settings, ref: ModelRef) -> Network:
    """How to get to what a reference names. Its host is a stranger's word in a URL and in oci://, and the settings' in
    any other; of an object in a bucket too, where they name one.
    """
    if own := own_host(ref, settings):
        return network_for(settings, guarded=False, own_host=own)
    return network_for(settings, guarded=ref.is_strangers, own_host=source_host(settings, ref))


def network_for(settings: Settings, *, guarded: bool, own_host: str = "") -> Network:
    """How to get out. `guarded` refuses private addresses everywhere: for URLs that a stranger may have written.

    The Hub's endpoint (or `own_host`) comes from the settings alone and may well be private (a mirror); where it
    redirects to may not.
    """
    allowed, own_host = settings.allowed_hosts, own_host or hub_host(settings)
    return Network(
        proxies=settings.proxies,
        trust=settings.trust,
        user_agent=settings.user_agent,
        address_check=address_check(allowed) if guarded else hub_check(own_host, allowed),
        proxy_unresolved=settings.proxy_unresolved,
    )


#: Bytes after which a partial file is synced where other machines have the store too. One that goes on from a machine
#: that died, or whose worker was killed, believes what was synced and no more; 64 MiB may be fetched again, and some
#: come while the disk syncs.
SHARED_SYNC_BYTES = 32 << 20


def limits_of(settings: Settings) -> Limits:
    """The engine's numbers, with what people may set."""
    sync_bytes = SHARED_SYNC_BYTES if is_shared(settings.hub_dir) else Limits().sync_every_bytes
    return Limits(
        sync_every_bytes=sync_bytes,
        small_files_at_once=settings.files_at_once,
        keep_free_fraction=settings.keep_free_percent / 100,
        undeclared_max_bytes=settings.max_undeclared_bytes,
        first_byte_s=settings.first_byte_timeout_s,
    )


class Transfer:
    """The files of one download on their way into the store."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        store: Store,
        reporter: ProgressListener,
        control: Control,
        network: Network,
        peers: Peers,
        download_id: str,
        owners: Sequence[str] = (),
    ) -> None:
        """`owners`: who has a share in the download."""
        self._settings = settings
        self._plan = plan
        self._store = store
        self._reporter = reporter
        self._control = control
        self._network = network
        self._peers = peers
        self._limits = limits_of(settings)
        self._download_id = download_id
        self._owners = owners
        self._statuses: dict[str, ActiveStatus] = {}

    def run(self, missing: Sequence[PlannedFile]) -> None:
        """Fetch, verify and publish these files; those that another download is fetching are waited for.

        Raises:
            HiveError: a file cannot be brought, or what `control` was cancelled with. What is on disk is resumed.
        """
        if self._plan.ref.is_local_file:
            self._copy(missing)
            return
        ours: list[PlannedFile] = []
        others: list[PlannedFile] = []
        for file in missing:
            mine = self._is_small(file) or self._peers.acquire(self._partial(file).name) is None
            (ours if mine else others).append(file)
        ours = [file for file in self._still_missing(ours) if not self._adopt(file)]
        self._reserve(ours)
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(HostPool(self._network, self._limits, self._peers.cooldown))
            xet_transports = XetTransports(
                self._settings, self._plan, pool, self._limits, stack, limited=self._peers.limited
            )
            self._fetch(ours, pool, xet_transports)
            for file in others:
                self._follow(file, pool, xet_transports)

    def _copy(self, files: Sequence[PlannedFile]) -> None:
        """Bring a file of this machine."""
        for file in files:
            partial = self._store.partial(self._plan, file, self._download_id)
            self._peers.take_room([(partial, file.size or 0)])

            def on_bytes(n_bytes: int, file: PlannedFile = file) -> None:
                self._control.check()
                self._reporter.file(file.path, n_bytes, file.size or 0)

            fetched = copy_local_file(path_of(self._plan.ref), partial, file.digest, on_bytes)
            self._store.publish(self._plan, file, partial, fetched)
            self._peers.give_room(partial)
            self._reporter.file_done(file.path, fetched.size)

    def _still_missing(self, ours: Sequence[PlannedFile]) -> list[PlannedFile]:
        """Those of our files that nobody has published between the look that found them missing and our lease."""
        if all(self._is_small(file) for file in ours):
            return list(ours)
        missing = self._store.missing(self._plan)
        for file in ours:
            if file not in missing:
                self._peers.release(self._partial(file).name)
                self._reporter.file_done(file.path, file.size or 0)
        return [file for file in ours if file in missing]

    def bring(self, note: Callable[[tuple[str, ...], int], None]) -> None:
        """The whole plan into the store, published: what is there is not fetched. `note` hears which partial files
        will be written, and the bytes of the whole.

        Raises:
            HiveError: a file cannot be brought, or what `control` was cancelled with.
        """
        plan = self._plan
        self._store.check(plan)
        self._store.note_access(plan, self._owners)
        missing = self._store.missing(plan)
        on_disk = [file for file in plan.files if file not in missing]
        bytes_on_disk = sum(file.size or 0 for file in on_disk)
        self._reporter.plan(
            bytes_total=plan.total_bytes or 0,
            files_total=len(plan.files),
            files_done=len(on_disk),
            bytes_done=bytes_on_disk,
        )
        log.info(
            "resolved",
            extra={"fields": {"files": len(plan.files), "bytes": plan.total_bytes, "bytes_on_disk": bytes_on_disk}},
        )
        if missing:
            self._reporter.status("downloading")
            note(self.shared(missing), plan.total_bytes or 0)
            self.run(missing)
        self._control.check()
        self._store.complete(plan)

    def shared(self, files: Sequence[PlannedFile]) -> tuple[str, ...]:
        """The names of those partial files of these that another download may go on with."""
        return tuple(self._partial(file).name for file in files if not self._is_small(file))

    def _fetch(self, files: Sequence[PlannedFile], pool: HostPool, xet_transports: XetTransports) -> None:
        items = {
            BatchItem(self._patient(file), self._partial(file), xet_transports.for_file(file)): file for file in files
        }

        def on_progress(item: BatchItem, snapshot: Snapshot) -> None:
            self._tell(items[item], snapshot)

        arriving = fetch_many(items, control=self._control, on_progress=on_progress, limits=self._limits, shared=pool)
        for item, fetched in arriving:
            file = items[item]
            self._control.gate()
            self._store.publish(self._plan, self._named(file, fetched), item.partial, fetched)
            if not self._is_small(file):
                self._peers.release(item.partial.name)
            self._statuses.pop(file.path, None)
            self._peers.give_room(item.partial)
            self._reporter.file_done(file.path, fetched.size, fetched.bytes_refetched)

    def _named(self, file: PlannedFile, fetched: Fetched) -> PlannedFile:
        return named(self._plan, file, fetched.served) if self._plan.kind == "url" else file

    def _adopt(self, file: PlannedFile) -> bool:
        """Take a large file from another repository of the store; False where it has to be fetched."""
        if self._is_small(file) or file.size is None:
            return False

        def check() -> None:
            self._reporter.status("verifying", "Another model of the store has this file; checking it.")
            self._control.check()

        if not self._store.link_existing(self._plan, file, check):
            self._reporter.status("downloading")
            return False
        self._peers.release(self._partial(file).name)
        self._reporter.file_done(file.path, file.size)
        return True

    def _reserve(self, files: Sequence[PlannedFile]) -> None:
        # One by one as they are asked for: without a quota no server is asked for a size.
        self._peers.take_quota((self._partial(file), self._size_of(file)) for file in files)
        self._peers.take_room((self._partial(file), file.size or 0) for file in files)

    def _size_of(self, file: PlannedFile) -> int | None:
        """The size, which of a URL's file only its server knows; None where that does not say.

        Raises:
            HiveError: what the download would end with.
        """
        if file.size is not None:
            return file.size
        found = probe(file.source, self._network, self._limits)
        return found.size if found is not None else None

    def _patient(self, file: PlannedFile) -> Source:
        """The source with a `locate` that keeps to the Hub's rests, and tells the others of new ones; and of whose
        bytes it is noted when they are given up.
        """
        source = file.source
        host, locate = source_host(self._settings, self._plan.ref), source.locate

        def locate_patiently() -> Location:
            try:
                if host and (rest_s := self._peers.cooldown.remaining_s(host)) > 0:
                    raise RetryLater(rest_s)
                return locate()
            except RetryLater as limit:
                self._peers.cooldown.set(host, limit.seconds)
                raise Throttled("requests are limited where the file is", limit.seconds) from None

        return replace(source, locate=locate_patiently, on_give_up=lambda: self._store.note_given_up(self._plan, file))

    def _follow(self, file: PlannedFile, pool: HostPool, xet_transports: XetTransports) -> None:
        """Wait for a file that another download is fetching, show how far it is, and take over where that one gives
        up.
        """
        name = self._partial(file).name
        while True:
            owner = self._peers.acquire(name)
            if self._store.has(self._plan, file):
                self._peers.release(name)
                self._reporter.file_done(file.path, file.size or 0)
                return
            if owner is None and self._adopt(file):
                return
            if owner is None:
                self._reserve([file])
                self._fetch([file], pool, xet_transports)
                return
            self._show_progress_of(owner, file)
            self._control.sleep(FOLLOW_INTERVAL_S)

    def _show_progress_of(self, download_id: str, file: PlannedFile) -> None:
        event = self._peers.progress_of(download_id) if download_id else None
        if isinstance(event, Downloading):
            for other in event.files:
                if other.path == file.path:
                    self._reporter.file(file.path, other.bytes_downloaded, other.bytes_total)
        self._reporter.status("downloading", "Another download is fetching this file; sharing it.")

    def _tell(self, file: PlannedFile, snapshot: Snapshot) -> None:
        self._peers.update_room()
        if file.size is None:
            self._peers.grow_quota(snapshot.bytes_done, snapshot.bytes_total)
        self._reporter.file(file.path, snapshot.bytes_done, snapshot.bytes_total or file.size or 0)
        self._statuses[file.path] = snapshot.status
        self._reporter.status(_together(list(self._statuses.values())), snapshot.message)

    def _is_small(self, file: PlannedFile) -> bool:
        """Whether the engine fetches it in one go, without a journal: such a partial is nobody else's."""
        return file.size is not None and file.size < self._limits.small_file_bytes

    def _partial(self, file: PlannedFile) -> Path:
        return self._store.partial(self._plan, file, self._download_id if self._is_small(file) else "")


class XetTransports:
    """How the files of a plan are fetched besides HTTP: over Xet, where the file and the settings allow it."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        pool: HostPool,
        limits: Limits,
        stack: contextlib.ExitStack,
        *,
        limited: bool,
    ) -> None:
        """What is made here is closed with `stack`. Under a limit of the bandwidth Xet is used only where it is asked
        for: hf_xet fetches tens of megabytes ahead of its reader, at full speed.
        """
        self._forced = settings.transport == "xet"
        self._limits = limits
        self._xet: Xet | None = None
        wanted = self._forced or (settings.transport == "auto" and available() and not limited)
        if wanted and plan.xet_token is not None:
            location = plan.xet_token
            self._xet = stack.enter_context(Xet(lambda: location, pool, limits))

    def for_file(self, file: PlannedFile) -> tuple[Transport, ...]:
        """The transports of this file that are tried before HTTP.

        A small file is one request over HTTP and three over Xet, so it takes Xet only where that is asked for.

        Raises:
            DownloadError: Xet is asked for, and hf_xet is not installed.
        """
        size = file.size or 0
        if self._xet is None or file.digest is None or not file.xet_hash or not size:
            return ()
        if self._forced and not available():
            raise DownloadError("HIVE_TRANSPORT is xet, and hf_xet is not installed. Install it, or set auto.")
        if size < self._limits.small_file_bytes and not self._forced:
            return ()
        with contextlib.suppress(ValueError):
            return (self._xet.transport(file.xet_hash, size),)
        return ()


def _together(statuses: Sequence[ActiveStatus]) -> ActiveStatus:
    """The status of a download from those of its files: it downloads while any file does."""
    for status in ("downloading", "verifying", "retrying"):
        if status in statuses:
            return status
    return statuses[0] if statuses else "downloading"
