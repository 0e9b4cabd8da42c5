"""Xet against a real store in a folder: whole, resumed, cancelled, spoiled, broken off."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hive.errors import Cancelled, ChecksumMismatch
from hive.net.egress import Network
from tests.hub import HubServer, SyntheticFile, faults
from tests.support.content import MIB
from tests.support.transfer import Heard, holds, transfer_threads
from tests.support.waiting import AT_ONCE_S, wait_for
from tests.support.xet_store import XET_QUICK, XetFile, need_hf_xet, xet_file
from workers.transfer import Control, Fetched, HostPool, Limits, LocalCooldown, Location, Snapshot, data_path, fetch
from workers.transfer.transport import ExpectedContent, Transient, Unusable
from workers.transfer.xet.transport import Xet

CONTENT_BYTES = 4 * MIB
#: Bytes that the server has sent ahead to connections whose pieces others have taken a part of.
STOLEN_BYTES = MIB
#: Seconds of silence that a store is forgiven where something else has to end the wait for it.
PATIENT_S = 4 * AT_ONCE_S


@pytest.fixture
def file(hub: HubServer, tmp_path: Path) -> XetFile:
    need_hf_xet()
    return xet_file(hub, tmp_path, SyntheticFile(CONTENT_BYTES, 5))


def get(file: XetFile, partial: Path, limits: Limits = XET_QUICK, **options: Any) -> Fetched:
    """Fetch with Xet first."""
    with HostPool(Network(), limits) as pool, Xet(file.locate_token, pool, limits) as xet:
        ways = [xet.transport(file.hash, file.content.size)]
        return fetch(file.source, partial, limits=limits, shared=pool, transports=ways, **options)


class Slow:
    """A bandwidth that lets bytes through one piece at a time, and counts them."""

    def __init__(self, bytes_per_s: float) -> None:
        self.n_bytes = 0
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()

    def __call__(self, n_bytes: int) -> None:
        with self._lock:
            self.n_bytes += n_bytes
        time.sleep(n_bytes / self._bytes_per_s)


def test_a_file_comes_over_xet_alone(file: XetFile, tmp_path: Path) -> None:
    fetched = get(file, tmp_path / "f")
    assert holds(tmp_path / "f", file.content)
    assert fetched.verified
    assert fetched.bytes_refetched == 0
    assert file.bytes_over_http == 0
    assert len(file.hub.hits("*xet-read-token*")) == 1
    assert transfer_threads() == []


def test_a_small_file_comes_in_one_stream_in_the_callers_thread(file: XetFile, tmp_path: Path) -> None:
    get(file, tmp_path / "f", replace(XET_QUICK, small_file_bytes=CONTENT_BYTES + 1))
    assert holds(tmp_path / "f", file.content)
    assert file.bytes_over_http == 0


def test_another_process_resumes_after_a_kill(file: XetFile, tmp_path: Path) -> None:
    partial, content = tmp_path / "f", file.content
    arguments = [file.source.locate().url, file.token_url, file.hash, str(content.size), content.sha256(), str(partial)]
    child = subprocess.Popen([sys.executable, "-m", "tests.support.xet_child", *arguments, str(MIB)])
    try:
        journal = partial.with_name("f.journal")
        wait_for(lambda: journal.exists() and journal.stat().st_size > 1000, "a journal with some records")
    finally:
        child.kill()
        child.wait()
    heard, counted = Heard(), Slow(10**12)
    fetched = get(file, partial, control=Control(bandwidth=counted), on_progress=heard)
    assert holds(partial, content)
    assert fetched.verified
    assert heard.snapshots[0].bytes_done > 0
    assert counted.n_bytes <= content.size - heard.snapshots[0].bytes_done + XET_QUICK.read_bytes
    assert file.bytes_over_http == 0


def test_a_cancel_returns_at_once(file: XetFile, tmp_path: Path) -> None:
    control = Control(bandwidth=(counted := Slow(MIB)))
    cancelled_at: list[int] = []

    def cancel_in_the_middle(snapshot: Snapshot) -> None:
        if snapshot.bytes_done > MIB and not cancelled_at:
            control.cancel("enough")
            cancelled_at.append(counted.n_bytes)

    with pytest.raises(Cancelled):
        get(file, tmp_path / "f", control=control, on_progress=cancel_in_the_middle)
    assert counted.n_bytes - cancelled_at[0] <= XET_QUICK.connections_max * XET_QUICK.read_bytes, "a read of each"
    assert transfer_threads() == []
    get(file, tmp_path / "f")
    assert holds(tmp_path / "f", file.content)


def test_a_flipped_byte_in_the_store_is_caught_and_the_file_fetched_over_http(file: XetFile, tmp_path: Path) -> None:
    file.flip_a_byte()
    fetched = get(file, tmp_path / "f")
    assert fetched.verified
    assert holds(tmp_path / "f", file.content)
    assert fetched.bytes_refetched == CONTENT_BYTES
    assert file.bytes_over_http == CONTENT_BYTES


def test_wrong_bytes_over_both_ways_are_never_given(file: XetFile, tmp_path: Path) -> None:
    file.flip_a_byte()
    file.hub.faults.add(faults.wrong_byte(1000), "*model.safetensors")
    with pytest.raises(ChecksumMismatch):
        get(file, tmp_path / "f")
    assert not data_path(tmp_path / "f").exists()


def test_a_store_that_breaks_in_the_middle_costs_no_byte(file: XetFile, tmp_path: Path) -> None:
    broken_at: list[int] = []

    def break_in_the_middle(snapshot: Snapshot) -> None:
        if snapshot.bytes_done > MIB and not broken_at:
            file.break_store()
            broken_at.append(snapshot.bytes_done)

    control = Control(bandwidth=Slow(4 * MIB))
    fetched = get(file, tmp_path / "f", control=control, on_progress=break_in_the_middle)
    assert fetched.verified
    assert holds(tmp_path / "f", file.content)
    assert fetched.bytes_refetched == 0
    # What the two streams had already taken from the store when it broke still arrives.
    assert CONTENT_BYTES // 4 < file.bytes_over_http < CONTENT_BYTES - broken_at[0] + STOLEN_BYTES


@pytest.mark.parametrize("seen", ["off", "unknown file", "no token", "not a token"])
def test_what_xet_does_not_bring_comes_over_http(file: XetFile, tmp_path: Path, seen: str) -> None:
    if seen == "off":
        file.hub.repos["org/xet"].xet = False
    elif seen == "unknown file":
        file.hash = "ab" * 32
    elif seen == "no token":
        file.hub.faults.add(faults.status(403), "*xet-read-token*")
    else:
        file.hub.faults.add(faults.status(200, body="<html>"), "*xet-read-token*")
    fetched = get(file, tmp_path / "f")
    assert holds(tmp_path / "f", file.content)
    assert fetched.bytes_refetched == 0
    assert CONTENT_BYTES <= file.bytes_over_http < CONTENT_BYTES + STOLEN_BYTES
    assert len(file.hub.hits("*xet-read-token*")) <= 3


def test_a_token_that_comes_at_the_second_try_will_do(file: XetFile, tmp_path: Path) -> None:
    file.hub.faults.add(faults.status(500), "*xet-read-token*", count=1)
    get(file, tmp_path / "f")
    assert holds(tmp_path / "f", file.content)
    assert file.bytes_over_http == 0


@contextmanager
def black_hole() -> Iterator[str]:
    """A store that takes every request and answers none."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


def test_a_silent_store_is_left_for_http(file: XetFile, tmp_path: Path) -> None:
    with black_hole() as url:
        file.hub.api.xet_endpoint = url
        get(file, tmp_path / "f", replace(XET_QUICK, stall_all_s=0.5))
    assert holds(tmp_path / "f", file.content)
    assert CONTENT_BYTES <= file.bytes_over_http < CONTENT_BYTES + STOLEN_BYTES


def test_a_store_that_was_silent_once_rests_for_all_files_and_all_downloads(file: XetFile, tmp_path: Path) -> None:
    limits = replace(XET_QUICK, stall_all_s=0.5)
    cooldown, size = LocalCooldown(), file.content.size
    with black_hole() as url:
        file.hub.api.xet_endpoint = url
        with HostPool(Network(), limits, cooldown) as pool, Xet(file.locate_token, pool, limits) as xet:
            ways = [xet.transport(file.hash, size)]
            fetch(file.source, tmp_path / "f", limits=limits, shared=pool, transports=ways)
            assert holds(tmp_path / "f", file.content)
            with pytest.raises(Unusable, match="silent"):
                xet.transport(file.hash, size).open(0, 100, ExpectedContent(), Control())
        with HostPool(Network(), limits, cooldown) as pool, Xet(file.locate_token, pool, limits) as xet:
            way = xet.transport(file.hash, size)
            with pytest.raises(Unusable, match="silent"):
                way.open(0, 100, ExpectedContent(), Control())
            fetch(file.source, tmp_path / "g", limits=limits, shared=pool, transports=[way])
            assert holds(tmp_path / "g", file.content)
    # HTTP does not wait for a store.
    assert cooldown.remaining_s("127.0.0.1") == 0.0


def test_a_store_that_cannot_be_reached_rests_too(file: XetFile, tmp_path: Path) -> None:
    file.hub.api.xet_endpoint = "http://127.0.0.1:9"
    limits = replace(XET_QUICK, stall_s=1.0)
    with HostPool(Network(), limits) as pool, Xet(file.locate_token, pool, limits) as xet:

        def rests_after(name: str) -> bool:
            way = xet.transport(file.hash, file.content.size)
            fetch(file.source, tmp_path / name, limits=limits, shared=pool, transports=[way])
            assert holds(tmp_path / name, file.content)
            try:
                xet.transport(file.hash, file.content.size).open(0, 100, ExpectedContent(), Control()).close()
            except Unusable as unusable:
                return "silent" in str(unusable)
            return False

        # HTTP may have brought the whole file before Xet has failed often enough.
        names = itertools.count()
        wait_for(lambda: rests_after(f"f-{next(names)}"), "the store is left alone")


def test_a_file_that_the_store_does_not_know_says_nothing_of_the_store(file: XetFile, tmp_path: Path) -> None:
    with HostPool(Network(), XET_QUICK) as pool, Xet(file.locate_token, pool, XET_QUICK) as xet:
        unknown = xet.transport("ab" * 32, file.content.size)
        fetch(file.source, tmp_path / "f", limits=XET_QUICK, shared=pool, transports=[unknown])
        before = file.bytes_over_http
        known = xet.transport(file.hash, file.content.size)
        fetch(file.source, tmp_path / "g", limits=XET_QUICK, shared=pool, transports=[known])
        assert file.bytes_over_http == before


def test_a_cancel_ends_the_wait_for_a_silent_store(file: XetFile, tmp_path: Path) -> None:
    control = Control()
    with black_hole() as url:
        file.hub.api.xet_endpoint = url
        began: list[float] = []

        def cancel_once_asked() -> None:
            file.hub.log.wait_for("*xet-read-token*")
            began.append(time.monotonic())
            control.cancel()

        canceller = threading.Thread(target=cancel_once_asked)
        canceller.start()
        with pytest.raises(Cancelled):
            get(file, tmp_path / "f", replace(XET_QUICK, stall_s=PATIENT_S, stall_all_s=PATIENT_S), control=control)
        assert time.monotonic() - began[0] < AT_ONCE_S
        canceller.join()


def test_streams_that_fail_together_are_one_failure(file: XetFile) -> None:
    with HostPool(Network()) as pool, Xet(file.locate_token, pool, XET_QUICK) as xet:
        way = xet.transport("ab" * 32, CONTENT_BYTES)
        streams = [way.open(0, 100, ExpectedContent(), Control()) for _ in range(8)]
        for stream in streams:
            with pytest.raises(Transient, match="ended early"):
                list(stream.chunks())
            stream.close()
        with pytest.raises(Transient):
            list(way.open(0, 100, ExpectedContent(), Control()).chunks())
        with pytest.raises(Unusable):
            list(way.open(0, 100, ExpectedContent(), Control()).chunks())


def test_a_store_without_encryption_is_refused_by_a_hub_with_it(file: XetFile) -> None:
    with HostPool(Network()) as pool:
        xet = Xet(lambda: Location("https://hub.example/token"), pool, XET_QUICK)
        xet._tokens = Xet(file.locate_token, pool, XET_QUICK)._tokens
        with pytest.raises(Transient, match="without encryption"):
            xet.grant(Control())


def test_a_token_is_asked_for_again_before_it_ends(file: XetFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with HostPool(Network()) as pool, Xet(file.locate_token, pool, XET_QUICK) as xet:
        first = xet.grant(Control())
        assert xet.grant(Control()) is first
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3_590)
        assert xet.grant(Control()) is not first


def test_a_token_that_may_be_why_a_stream_failed_is_not_used_again(file: XetFile) -> None:
    with HostPool(Network()) as pool, Xet(file.locate_token, pool, XET_QUICK) as xet:
        way = xet.transport("ab" * 32, CONTENT_BYTES)
        for asked in (1, 2):
            stream = way.open(0, 100, ExpectedContent(), Control())
            assert len(file.hub.hits("*xet-read-token*")) == asked
            with pytest.raises(Transient):
                list(stream.chunks())
            stream.close()


def test_a_token_is_shown_nowhere(file: XetFile) -> None:
    with HostPool(Network()) as pool, Xet(file.locate_token, pool, XET_QUICK) as xet:
        grant = xet.grant(Control())
        assert len(grant.access_token) > 20
        assert grant.access_token not in repr(grant)
        assert grant.access_token not in f"{xet} {xet.transport(file.hash, 1)}"


def test_a_hash_of_another_form_is_refused() -> None:
    with HostPool(Network()) as pool:
        xet = Xet(lambda: Location("http://127.0.0.1:9/"), pool, XET_QUICK)
        for text in ("", "ab" * 31, "AB" * 32, "../" + "a" * 61):
            with pytest.raises(ValueError, match="not a Xet hash"):
                xet.transport(text, 1)


def test_hf_xet_writes_no_log_and_is_not_loaded_before_it_is_used(file: XetFile, tmp_path: Path) -> None:
    """In a process of its own, whose home folder is empty."""
    arguments = [file.source.locate().url, file.token_url, file.hash, str(file.content.size), file.content.sha256()]
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys, workers.download, workers.fetch\n"
        "assert 'hf_xet' not in sys.modules\n"
        "from tests.support.xet_child import main\n"
        "main()\n"
        "assert 'hf_xet' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, str(tmp_path / "f"), "inf"],
        env={"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*xet*")) == []
