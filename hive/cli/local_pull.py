"""A pull where no server answers: the download runs in this process, and ends with it.

Problem: the command line knows people, the workers' code knows downloads, and the one does not import the other. As RQ
gets a worker's function, so this gets its class: by name, and only when a model is not on the disk.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast

import click

from hive.cli.errors import FULL, CliError
from hive.cli.progress import choose_printer
from hive.errors import ModelInUse
from hive.processes.hangup import without_ignored_hangup
from hive.settings import Settings
from hive.wire.events import Complete, Downloading, Event
from hive.wire.refs import parse_ref
from hive.wire.spec import DownloadSpec

if TYPE_CHECKING:
    from hive.downloads.local import LocalDownloads, LocalRun, NotedDownload
    from hive.store.inventory import InventoryItem
    from hive.wire.api import DownloadPlan

#: The class that downloads, as `module:name`.
DOWNLOADER: Final = "workers.local.download:LocalDownload"
#: What tells what a download would bring, in the same way.
PLANNER: Final = "workers.local.plan:plan"
#: Seconds between two looks at a download that another process has in hand.
FOLLOW_INTERVAL_S: Final = 0.2


class PullStopped(click.exceptions.Exit):
    """A signal asked the download to stop; what arrived is kept."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Downloader(Protocol):
    """What runs a download; see workers.local.download."""

    def run(self) -> Event | None:
        """The whole download; None where it was stopped."""

    def stop(self) -> None:
        """Stop where it is."""


def checked(spec: DownloadSpec) -> DownloadSpec:
    """What is asked for, as a server checks it. Raises BadRequest."""
    from hive.downloads.asked import checked

    return checked(spec)


def on_disk(settings: Settings, spec: DownloadSpec) -> Complete | None:
    """The end of a download that is none: the model is on the disk. None where it is not, or is to be looked for."""
    from hive.store.catalog import ModelCatalog

    if spec.update and not spec.ref.is_pinned:
        return None
    found = ModelCatalog(settings).find(spec.ref, spec.include, spec.exclude, spec.sha256)
    if found is None:
        return None
    return Complete(
        local_path=found.local_path, status="complete", bytes_total=found.size, files_total=len(found.files)
    )


def download_here(settings: Settings, spec: DownloadSpec, show: Callable[[Event], None]) -> Event:
    """Download in this process, or follow another process of this machine that does, and go on where that one stops.

    Raises:
        PullStopped: a signal asked for it.
        CliError: the store cannot be written.
    """
    from hive.downloads.local import LocalDownloads

    downloads = LocalDownloads(settings)
    while True:
        try:
            run = downloads.begin(spec)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise CliError(
                f"The store cannot be written: {error.filename or settings.hive_dir}: {error.strerror}.",
                "HIVE_STORE names another place",
                code="STORE_NOT_WRITABLE",
            ) from None
        if run is not None:
            return _run(settings, spec, run, show)
        follow_other(downloads, spec, show)
        if (end := on_disk(settings, spec)) is not None:
            show(end)
            return end


class LocalRepairs:
    """Downloads that bring again what a verification found wrong, where no server runs; see hive.store.repair."""

    def __init__(self, settings: Settings) -> None:
        from hive.downloads.local import LocalDownloads

        self._settings = settings
        self._downloads = LocalDownloads(settings)
        self._asked: list[tuple[DownloadSpec, LocalRun]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _, run in self._asked:
            run.set_aside()

    def is_used(self, item: InventoryItem) -> bool:
        """Whether a download of the intent log uses this model."""
        from hive.store.layout import url_key

        ours = {run.id for _, run in self._asked}
        for entry in self._downloads.list():
            if entry.intent.id not in ours:
                ref = parse_ref(entry.intent.request.ref)
                if (ref.repo == item.repo) if item.repo else (ref.url and url_key(ref.url) == item.folder):
                    return True
        return False

    def request(self, spec: DownloadSpec) -> str:
        """Take a download in hand, to be run later; gives its id. Raises ModelInUse."""
        run = self._downloads.begin(spec)
        if run is None:
            raise ModelInUse("Another command is fetching this. Verify it again when that has ended.")
        self._asked.append((spec, run))
        return run.id

    def run(self, as_json: bool) -> bool:
        """Run them, one after the other; whether all of them came.

        Raises:
            PullStopped: a signal asked for it.
        """
        all_came = True
        while self._asked:
            spec, run = self._asked.pop(0)
            with choose_printer(spec.ref.display, as_json=as_json, quiet=False) as printer:
                all_came &= isinstance(_run(self._settings, spec, run, printer.show), Complete)
        return all_came


def plan_here(settings: Settings, spec: DownloadSpec) -> DownloadPlan:
    """What a download would bring. Raises HiveError."""
    _set_up_logs(settings)
    return cast("DownloadPlan", _imported(PLANNER)(settings, spec))


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _run(settings: Settings, spec: DownloadSpec, run: LocalRun, show: Callable[[Event], None]) -> Event:
    _set_up_logs(settings)
    try:
        downloader = cast(Downloader, _imported(DOWNLOADER)(settings, spec, run, show))
    except BaseException:
        run.set_aside()
        raise
    with _signals(downloader.stop) as received:
        end = downloader.run()
    if end is None:
        raise PullStopped(received[0] if received else signal.SIGINT)
    show(end)
    return end


def _set_up_logs(settings: Settings) -> None:
    """What a worker would log is for people who look for a fault; on a terminal it would lie between the bars."""
    import logging

    if settings.log_level == "debug":
        from hive import logs

        logs.setup(settings.log_level, settings.log_format)
    else:
        logging.getLogger().addHandler(logging.NullHandler())


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Inside the block Ctrl-C and SIGTERM call `stop`; the second one interrupts. Gives the list of those received."""
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        stop()

    ends = without_ignored_hangup(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    earlier = {number: signal.signal(number, on_signal) for number in ends}
    try:
        yield received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def follow_other(downloads: LocalDownloads, spec: DownloadSpec, show: Callable[[Event], None]) -> None:
    """Show how far the other process is, until it lets go."""
    shown: NotedDownload | None = None
    while (entry := downloads.running(spec)) is not None:
        if entry != shown:
            shown = entry
            show(
                Downloading(
                    bytes_downloaded=entry.bytes_done,
                    bytes_total=entry.bytes_total,
                    speed_mbps=0.0,
                    status="downloading",
                    message=f"another hive pull fetches it, pid {entry.pid}",
                )
            )
        time.sleep(FOLLOW_INTERVAL_S)
