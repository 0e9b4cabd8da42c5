"""A download in the process that wants it: a worker's plan, engine and store, without Redis, queue or server.

Problem: somebody who only wants a model should not have to run a service first, and starting one for the time of a
download costs more than many a download does. The easy way, a second downloader beside the first, would share neither
its code nor its locks. So this is the same code (resolve, fetch, publish), and what workers agree on through Redis is
agreed on through the kernel of the machine and the intent log of the store: who has a request in hand, who writes a
partial file, what the line may carry.

Stopped means stopped: the download stands in the intent log as a paused one from the start, so that nobody goes on
with it but who asks for the same again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from hive import errors
from hive.downloads.events import on_disk_event
from hive.downloads.local import LocalRun
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.wire import events
from hive.wire.events import Event
from hive.wire.spec import DownloadSpec, request_of
from workers.bandwidth import BandwidthLimiter
from workers.fetch import Transfer, network_of
from workers.local.bandwidth import MachineLine
from workers.local.peers import MachinePeers
from workers.local.progress import Speaker
from workers.publish import Store
from workers.resolve import HUB_ATTEMPTS, HUB_ATTEMPTS_WITH_COPY, resolve_patiently
from workers.sources import Plan, open_to_caller
from workers.transfer import Control


class LocalDownload:
    """One download in this process. `show` gets its events, from a thread of its own."""

    def __init__(self, settings: Settings, spec: DownloadSpec, run: LocalRun, show: Callable[[Event], None]) -> None:
        # Whoever runs this reads the file anyhow.
        self._settings = settings = msgspec.structs.replace(open_to_caller(settings, spec.ref), allow_file_urls=True)
        self._spec = spec
        copies = None if spec.update else ModelCatalog(settings)
        #: What the disk has of it without a listing, for a Hub that is away.
        self._copy = copies.find_unlisted(spec.ref, spec.include, spec.exclude) if copies else None
        self._run = run
        line = MachineLine(settings.hive_dir, settings.max_bytes_per_second)
        self._bandwidth = BandwidthLimiter(line, spec.max_bytes_per_second)
        self._control = Control(self._bandwidth)
        self._store = Store(settings)
        self._speaker = Speaker(show, run, self._control)
        self._stopped = False

    def stop(self) -> None:
        """Stop where it is, from any thread or a signal's handler; what arrived is kept."""
        self._stopped = True
        self._control.cancel("stopped")

    def run(self) -> Event | None:
        """The whole download; gives its last event, or None where it was stopped.

        Raises:
            OSError: the intent log cannot be written.
            BaseException: what `show` raised.
        """
        began_s = time.monotonic()
        peers = MachinePeers(self._settings, self._run.id, self._bandwidth, for_url=self._spec.ref.url is not None)
        ended = completed = False
        try:
            with self._speaker:
                plan = self._bring(peers)
            ended = completed = True
            return self._complete(plan, time.monotonic() - began_s)
        except errors.HubUnavailable as error:
            if self._copy is None:
                ended = self._leaves_nothing()
                return self._failed(error)
            ended = completed = True
            return on_disk_event(self._copy.local_path, self._copy.size, len(self._copy.files), self._copy.note)
        except errors.HiveError as error:
            if self._speaker.broken is not None:
                raise self._speaker.broken from None
            if not self._stopped:
                ended = self._leaves_nothing()
                return self._failed(error)
            ended = self._run.cancelled
            return self._failed(errors.Cancelled()) if ended else None
        finally:
            peers.release_all()
            if ended:
                self._run.end(completed=completed)
            else:
                self._run.set_aside()

    def _bring(self, peers: MachinePeers) -> Plan:
        """Everything from the reference to the published model."""
        spec, speaker = self._spec, self._speaker
        network = network_of(self._settings, spec.ref)
        plan = resolve_patiently(
            spec.ref,
            request_of(spec),
            settings=self._settings,
            network=network,
            token=spec.hf_token or self._settings.token(),
            control=self._control,
            reporter=speaker,
            cooldown=peers.cooldown,
            attempts=HUB_ATTEMPTS if self._copy is None else HUB_ATTEMPTS_WITH_COPY,
        )
        run = self._run

        def note(partials: tuple[str, ...], bytes_total: int) -> None:
            run.note(bytes_done=run.bytes_done, bytes_total=bytes_total, partials=partials)

        Transfer(self._settings, plan, self._store, speaker, self._control, network, peers, run.id).bring(note)
        return plan

    def _complete(self, plan: Plan, seconds: float) -> events.Complete:
        figures = self._speaker.snapshot()
        return events.Complete(
            local_path=self._store.local_path(plan),
            status="complete",
            bytes_total=plan.total_bytes or figures.bytes_downloaded,
            files_total=len(plan.files),
            bytes_refetched=figures.bytes_refetched,
            verified=all(file.digest for file in plan.files),
            seconds=round(seconds, 3),
        )

    def _leaves_nothing(self) -> bool:
        """Whether a failure is the end: nothing has arrived that somebody may want, and no server waits for it."""
        return not self._speaker.snapshot().bytes_downloaded and not self._run.is_known

    def _failed(self, error: errors.HiveError) -> events.Error:
        figures = self._speaker.snapshot()
        return events.Error(
            message=events.shorten(error.message),
            code=error.code,
            status="cancelled" if isinstance(error, errors.Cancelled) else "failed",
            details=error.details or None,
            bytes_downloaded=figures.bytes_downloaded,
            bytes_total=figures.bytes_total,
        )
