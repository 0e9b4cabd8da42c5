"""Small numbers, and a few words that the tests of the engine share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hive.errors import Cancelled
from tests.hub import HubServer
from tests.hub.content import Content, SyntheticFile, read_all
from tests.support.content import KIB, MIB
from tests.support.waiting import DEADLINE_S, wait_for
from workers.transfer import (
    Control,
    Digest,
    Fetched,
    Limits,
    Location,
    Network,
    Snapshot,
    Source,
    data_path,
    fetch,
)

#: The engine's numbers made so small that a file of 2 MiB has parts, connections, stalls and journals.
QUICK = Limits(
    part_min_bytes=64 * KIB,
    part_max_bytes=128 * KIB,
    small_file_bytes=0,
    steal_min_bytes=16 * KIB,
    read_bytes=32 * KIB,
    ramp_interval_s=0.02,
    solo_look_s=0.01,
    ramp_gain=0.0,
    saturated_bytes_per_s=10**15,
    stall_s=8.0,
    stall_all_s=8.0,
    give_up_s=20.0,
    backoff_min_s=0.005,
    backoff_max_s=0.02,
    journal_every_s=0.02,
    journal_every_bytes=256 * KIB,
    keep_free_fraction=0.0,
    tick_s=0.01,
    pause_keeps_connection_s=0.2,
)

#: The same with one connection: the order of requests is known.
ONE = replace(QUICK, connections_max=1)


@dataclass
class Heard:
    """What a fetch reported."""

    snapshots: list[Snapshot] = field(default_factory=list)

    def __call__(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    @property
    def statuses(self) -> set[str]:
        return {snapshot.status for snapshot in self.snapshots}


def digest_of(content: Content) -> Digest:
    return Digest("sha256", content.sha256())


def source(
    url: str,
    content: Content | None = None,
    *,
    pinned: bool = True,
    size: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Source:
    """A source at a URL: with the content's size and digest, or (not pinned) with nothing known."""
    known = content if pinned else None
    return Source(
        locate=lambda: Location(url, headers or {}),
        size=known.size if known is not None else size,
        digest=digest_of(known) if known is not None else None,
        name="file",
    )


def get(what: Source, partial: Path, limits: Limits = QUICK, **options: Any) -> Fetched:
    return fetch(what, partial, limits=limits, **options)


def holds(partial: Path, content: Content) -> bool:
    """Whether the data file has exactly this content."""
    return data_path(partial).read_bytes() == read_all(content)


@dataclass
class Background:
    """A fetch in a thread, and how it ended."""

    control: Control = field(default_factory=Control)
    heard: Heard = field(default_factory=Heard)
    fetched: Fetched | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def end(self) -> float:
        """Wait for the end; gives the seconds it took."""
        assert self.thread is not None
        began = time.monotonic()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        return time.monotonic() - began

    @property
    def done(self) -> int:
        return max((snapshot.bytes_done for snapshot in self.heard.snapshots), default=0)


@contextmanager
def background(
    what: Source, partial: Path, limits: Limits = QUICK, network: Network | None = None
) -> Iterator[Background]:
    """A fetch that goes on beside the test; cancelled at the block's end."""
    run = Background()

    def work() -> None:
        try:
            run.fetched = fetch(
                what, partial, control=run.control, on_progress=run.heard, limits=limits, network=network
            )
        except BaseException as error:
            run.error = error

    run.thread = threading.Thread(target=work, name="test-fetch")
    run.thread.start()
    try:
        yield run
    finally:
        run.control.cancel("the test is over")
        run.end()


def transfer_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("transfer-")]


def big(size: int = 2 * MIB, seed: int = 1) -> SyntheticFile:
    return SyntheticFile(size, seed)


def partly(hub: HubServer, content: Content, partial: Path, *, pinned: bool = True) -> Source:
    """A source of which about a half is on disk, after a clean cancel; the log is empty, the server quick."""
    what = source(hub.plain("f", content), content, pinned=pinned)
    hub.limit_rate_bytes_per_s = MIB
    with background(what, partial) as run:
        hub.log.wait_for("/f", sent_bytes=content.size // 2)
        wait_for(lambda: run.done > content.size // 4, "a quarter of the file")
        run.control.cancel()
        run.end()
        assert isinstance(run.error, Cancelled)
    hub.limit_rate_bytes_per_s = None
    hub.hits("/f")
    hub.reset_log()
    return what
