"""Many files with one set of connections: what a repository of two thousand small files needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hive.net.egress import Network
from workers.transfer import threads
from workers.transfer.control import SIGNAL_LOOK_S, Control
from workers.transfer.engine import fetch
from workers.transfer.http.pool import HostPool
from workers.transfer.limits import Limits
from workers.transfer.progress import Snapshot
from workers.transfer.source import Fetched, Source
from workers.transfer.transport import Transport


@dataclass(frozen=True)
class BatchItem:
    """One file of many."""

    source: Source
    partial: Path
    #: Other ways to the same bytes, tried before HTTP.
    transports: tuple[Transport, ...] = ()


def fetch_many(
    items: Iterable[BatchItem],
    *,
    control: Control | None = None,
    network: Network | None = None,
    on_progress: Callable[[BatchItem, Snapshot], None] | None = None,
    limits: Limits | None = None,
    shared: HostPool | None = None,
) -> Iterator[tuple[BatchItem, Fetched]]:
    """Fetch all, giving each as it is complete, in no order. Small files go eight at a time beside two large ones.

    `on_progress` is called from several threads. The first error ends the others and is raised after they have ended;
    what is on disk by then is resumed by the next call. Leaving the loop early ends them too. ResourcesExhausted where
    the system gives no thread.
    """
    limits = limits or Limits()
    with contextlib.ExitStack() as stack:
        pool = shared or stack.enter_context(HostPool(network or Network(), limits))
        ours = stack.enter_context((control or Control()).child())
        small = stack.enter_context(ThreadPoolExecutor(limits.small_files_at_once, "transfer-small"))
        large = stack.enter_context(ThreadPoolExecutor(limits.large_files_at_once, "transfer-large"))

        def one(item: BatchItem) -> Fetched:
            ours.check()
            tell = None if on_progress is None else (lambda snapshot: on_progress(item, snapshot))
            return fetch(
                item.source,
                item.partial,
                control=ours,
                on_progress=tell,
                limits=limits,
                shared=pool,
                transports=item.transports,
            )

        # Runs before the executors' own exits, which wait for their threads.
        stack.callback(ours.cancel, "another file of the batch failed")
        running: dict[Future[Fetched], BatchItem] = {}
        for item in items:
            executor: Executor = small if _is_small(item, limits) else large
            running[threads.starting(partial(executor.submit, one, item))] = item
        while running:
            done, _ = wait(running, SIGNAL_LOOK_S, FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


def _is_small(item: BatchItem, limits: Limits) -> bool:
    return item.source.size is not None and item.source.size < limits.small_file_bytes
