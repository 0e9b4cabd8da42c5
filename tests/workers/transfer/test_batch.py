"""Many files with one set of connections."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hive.errors import Cancelled, FileNotFound, ResourcesExhausted
from tests.hub import HubServer, faults
from tests.hub.content import Bytes
from tests.support.content import KIB, MIB
from tests.support.transfer import QUICK, big, holds, source, transfer_threads
from tests.support.waiting import AT_ONCE_S, wait_for
from workers.transfer import BatchItem, Control, Limits, Snapshot, fetch_many

SMALL = replace(QUICK, small_file_bytes=64 * KIB)
#: The same where something else than a time-out has to end a stalled fetch.
PATIENT = replace(SMALL, stall_s=4 * AT_ONCE_S, stall_all_s=4 * AT_ONCE_S)


def jobs(hub: HubServer, folder: Path, n_files: int) -> list[BatchItem]:
    made = []
    for number in range(n_files):
        content = Bytes(b"%d\n" % number * 1000)
        made.append(BatchItem(source(hub.plain(f"small{number}", content), content), folder / f"small{number}"))
    return made


def test_many_small_files_share_a_few_connections(hub: HubServer, tmp_path: Path) -> None:
    n_files = 300
    done = list(fetch_many(jobs(hub, tmp_path, n_files), limits=Limits()))
    assert {job.partial.name for job, _ in done} == {f"small{number}" for number in range(n_files)}
    assert all(fetched.verified for _, fetched in done)
    assert len({hit.connection_id for hit in hub.hits("*")}) <= Limits().small_files_at_once
    assert len(hub.hits("*")) == n_files
    assert transfer_threads() == []


def test_large_and_small_files_go_side_by_side(hub: HubServer, tmp_path: Path) -> None:
    large = big(4 * MIB)
    mixed = [*jobs(hub, tmp_path, 20), BatchItem(source(hub.plain("large", large), large), tmp_path / "large")]
    heard: dict[str, Snapshot] = {}

    def tell(job: BatchItem, snapshot: Snapshot) -> None:
        heard[job.partial.name] = snapshot

    assert len(list(fetch_many(mixed, limits=SMALL, on_progress=tell))) == 21
    assert holds(tmp_path / "large", large)
    assert heard["large"].bytes_total == large.size


def test_a_batch_without_a_thread_says_which_limit_to_raise(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    items = jobs(hub, tmp_path, 2)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ResourcesExhausted, match="ulimit -u"):
        list(fetch_many(items, limits=SMALL))


def test_the_first_error_ends_the_others_and_is_raised(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    hub.faults.add(faults.stall(64 * KIB), "/large")
    hub.faults.add(faults.status(404), "/small13")
    mixed = [BatchItem(source(hub.plain("large", content), content), tmp_path / "large"), *jobs(hub, tmp_path, 30)]
    control = Control()
    began = time.monotonic()
    with pytest.raises(FileNotFound):
        list(fetch_many(mixed, limits=PATIENT, control=control))
    assert time.monotonic() - began < AT_ONCE_S
    assert not control.cancelled
    assert transfer_threads() == []


def test_leaving_the_loop_early_ends_the_rest(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    hub.faults.add(faults.stall(64 * KIB), "/large")
    mixed = [BatchItem(source(hub.plain("large", content), content), tmp_path / "large"), *jobs(hub, tmp_path, 5)]
    arriving = fetch_many(mixed, limits=PATIENT)
    next(arriving)
    began = time.monotonic()
    arriving.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < AT_ONCE_S
    assert transfer_threads() == []


def test_a_cancel_reaches_every_file(hub: HubServer, tmp_path: Path) -> None:
    control = Control()
    arriving = fetch_many(jobs(hub, tmp_path, 200), limits=SMALL, control=control)
    for _ in range(5):
        next(arriving)
    control.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        list(arriving)
    assert len(hub.hits("*")) < 200
    assert transfer_threads() == []


def test_a_signal_that_wakes_another_thread_ends_it_too(hub: HubServer, tmp_path: Path) -> None:
    """As one does that comes in the moment before this thread waits: its handler runs here, and nothing wakes it."""
    content = big(4 * MIB)
    item = BatchItem(source(hub.plain("large", content), content), tmp_path / "large")
    hub.limit_rate_bytes_per_s = 64 * KIB
    control = Control()
    before = signal.signal(signal.SIGUSR1, lambda *_: control.cancel("told to stop"))

    def send() -> None:
        wait_for(lambda: hub.hits("/large"), "the transfer is under way")
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(Cancelled, match="told to stop"):
            list(fetch_many([item], limits=PATIENT, control=control))
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def test_no_job_is_no_work() -> None:
    assert list(fetch_many([])) == []
