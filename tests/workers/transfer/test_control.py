"""Cancel, pause, hold, bandwidth."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hive.errors import Cancelled, UnsafeUrl, WorkerLost
from tests.hub import HubServer, faults
from tests.support.content import KIB, MIB
from tests.support.transfer import ONE, QUICK, background, big, get, holds, source, transfer_threads
from tests.support.waiting import AT_ONCE_S, wait_for
from workers.transfer import Control, Limits, data_path, journal_path

ONE_GET = replace(Limits(), small_file_bytes=16 * MIB)


@pytest.mark.parametrize("limits", [Limits(small_file_bytes=0), ONE_GET], ids=["parts", "one-get"])
@pytest.mark.parametrize("fault", [faults.stall(64 * KIB), faults.stall(0), faults.slow_connect(60)])
def test_cancel_ends_a_blocked_reader_at_once(
    hub: HubServer, tmp_path: Path, limits: Limits, fault: faults.Fault
) -> None:
    content = big()
    hub.faults.add(fault, "/f")
    with background(source(hub.plain("f", content), content), tmp_path / "f", limits) as run:
        hub.log.wait_for("/f")
        run.control.cancel("enough")
        assert run.end() < AT_ONCE_S
    assert isinstance(run.error, Cancelled)
    assert run.error.message == "enough"
    assert transfer_threads() == []


def test_cancel_ends_a_wait_between_two_attempts_at_once(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.status(429, {"Retry-After": "60"}), "/f")
    with background(source(hub.plain("f", content), content), tmp_path / "f", Limits(small_file_bytes=0)) as run:
        wait_for(lambda: "retrying" in run.heard.statuses, "a throttled fetch")
        run.control.cancel()
        assert run.end() < AT_ONCE_S


def test_cancel_raises_the_error_it_was_given(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    control = Control()
    control.cancel(WorkerLost())
    control.cancel("too late to matter")
    with pytest.raises(WorkerLost):
        get(source(hub.plain("f", content), content), tmp_path / "f", control=control)
    assert not hub.hits()


def test_an_error_of_one_connection_ends_the_others_at_once(hub: HubServer, tmp_path: Path) -> None:
    content = big(8 * MIB)
    hub.faults.add(faults.redirect_to("http://user@127.0.0.1/"), "/f", skip=2)
    hub.faults.add(faults.stall(KIB), "/f", skip=1, count=1)
    limits = replace(QUICK, stall_s=4 * AT_ONCE_S, stall_all_s=4 * AT_ONCE_S)
    with background(source(hub.plain("f", content), content), tmp_path / "f", limits) as run:
        assert run.end() < AT_ONCE_S
    assert isinstance(run.error, UnsafeUrl)
    assert transfer_threads() == []


def test_a_pause_stops_the_bytes_and_resume_goes_on(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    hub.limit_rate_bytes_per_s = MIB
    with background(source(hub.plain("f", content), content), tmp_path / "f") as run:
        wait_for(lambda: run.done > 256 * KIB, "a few bytes")
        run.control.pause()
        wait_for(lambda: "paused" in run.heard.statuses, "the pause")
        before = data_path(tmp_path / "f").read_bytes()
        threading.Event().wait(3 * QUICK.pause_keeps_connection_s)
        assert data_path(tmp_path / "f").read_bytes() == before
        assert run.error is None
        hub.limit_rate_bytes_per_s = None
        run.control.resume()
        run.end()
    assert run.fetched is not None
    assert run.fetched.verified


def test_a_pause_longer_than_every_time_out_ends_nothing(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    hub.limit_rate_bytes_per_s = MIB
    limits = replace(QUICK, give_up_s=0.5, stall_s=0.3, stall_all_s=0.4)
    with background(source(hub.plain("f", content), content), tmp_path / "f", limits) as run:
        wait_for(lambda: run.done > 256 * KIB, "a few bytes")
        run.control.pause()
        threading.Event().wait(1.0)
        run.control.resume()
        hub.limit_rate_bytes_per_s = None
        run.end()
    assert run.fetched is not None


def test_nothing_is_written_while_held(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    hub.limit_rate_bytes_per_s = MIB
    with background(source(hub.plain("f", content), content), tmp_path / "f") as run:
        wait_for(lambda: run.done > 256 * KIB, "a few bytes")
        run.control.hold()
        wait_for(lambda: "paused" in run.heard.statuses, "the hold")
        before = data_path(tmp_path / "f").read_bytes(), journal_path(tmp_path / "f").read_bytes()
        threading.Event().wait(5 * QUICK.journal_every_s)
        assert (data_path(tmp_path / "f").read_bytes(), journal_path(tmp_path / "f").read_bytes()) == before
        run.control.release()
        hub.limit_rate_bytes_per_s = None
        run.end()
    assert run.fetched is not None


def test_a_fenced_fetch_leaves_the_files_as_they_are(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    hub.limit_rate_bytes_per_s = MIB
    with background(source(hub.plain("f", content), content), tmp_path / "f") as run:
        wait_for(lambda: run.done > 256 * KIB, "a few bytes")
        run.control.hold()
        wait_for(lambda: "paused" in run.heard.statuses, "the hold")
        before = data_path(tmp_path / "f").read_bytes(), journal_path(tmp_path / "f").read_bytes()
        run.control.cancel("the lease was lost", fenced=True)
        run.end()
        assert (data_path(tmp_path / "f").read_bytes(), journal_path(tmp_path / "f").read_bytes()) == before
    assert isinstance(run.error, Cancelled)


def test_the_bandwidth_hook_sees_every_byte_and_may_slow_them(hub: HubServer, tmp_path: Path) -> None:
    content = big(MIB)
    seen: list[int] = []

    def bandwidth(n_bytes: int) -> None:
        seen.append(n_bytes)
        threading.Event().wait(n_bytes / (2 * MIB))

    began = time.monotonic()
    # A stall time-out shorter than the waits: a limit of the caller's is nobody's stall.
    limits = replace(ONE, stall_s=0.3, give_up_s=0.4, read_bytes=512 * KIB, part_min_bytes=MIB, part_max_bytes=MIB)
    get(source(hub.plain("f", content), content), tmp_path / "f", limits, control=Control(bandwidth))
    assert sum(seen) == content.size
    assert 0.4 < time.monotonic() - began < AT_ONCE_S
    assert holds(tmp_path / "f", content)


def test_a_child_follows_its_parent_and_not_the_other_way_round() -> None:
    parent = Control()
    parent.hold()
    with parent.child() as child:
        assert child.waiting == "held"
        parent.release()
        parent.pause()
        assert child.waiting == "paused"
        child.cancel("alone")
        assert not parent.cancelled
    with parent.child() as second:
        parent.cancel("both", fenced=True)
        assert second.fenced
        with pytest.raises(Cancelled, match="both"):
            second.gate()


def test_waking_a_control_that_is_cancelled_wakes_at_once() -> None:
    control = Control()
    control.cancel()
    woken: list[int] = []
    with control.waking(lambda: woken.append(1)):
        assert woken == [1]


def test_past_the_moment_of_the_right_to_write_everything_is_held_until_it_is_confirmed() -> None:
    """A process that was frozen wakes with all its threads: none may write before it is known whose the files are."""
    control = Control()
    control.confirm(time.monotonic() + 60)
    assert control.gate() == 0.0
    control.confirm(time.monotonic() - 0.001)
    assert control.waiting == "held"
    passed = threading.Event()
    with control.child() as child:
        assert child.waiting == "held"

        def write() -> None:
            child.gate()
            passed.set()

        thread = threading.Thread(target=write)
        thread.start()
        assert not passed.wait(0.1)
        control.confirm(time.monotonic() + 60)
        assert passed.wait(5)
        thread.join()
        assert {control.waiting, child.waiting} == {None}


def test_a_fence_ends_the_wait_of_one_who_woke_too_late() -> None:
    control = Control()
    control.confirm(time.monotonic() - 0.001)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            control.gate()
        except Cancelled as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    control.cancel("the lease was lost", fenced=True)
    thread.join(5)
    assert len(errors) == 1


def test_a_signal_that_wakes_another_thread_ends_the_wait_at_a_gate() -> None:
    """Redis is away, and the worker is told to stop: the handler runs in the thread that waits for the lease."""
    control = Control()
    control.hold()
    before = signal.signal(signal.SIGUSR1, lambda *_: control.cancel("told to stop"))
    sender = threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
    limit = threading.Timer(AT_ONCE_S, control.cancel, ("too late",))
    limit.start()
    try:
        with pytest.raises(Cancelled, match="told to stop"):
            _send_and_wait(sender, control)
    finally:
        limit.cancel()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def _send_and_wait(sender: threading.Thread, control: Control) -> None:
    sender.start()
    control.gate()
