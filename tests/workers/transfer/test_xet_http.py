"""Xet over HTTP, from a stand-in of the store that hf_xet reads as it reads the real one: tokens that end, refused and
cut-off blocks, a store that fails, falls silent or lies in the middle of a file.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hive.errors import Cancelled, ChecksumMismatch
from hive.net.egress import Network
from tests.hub import HubServer, SyntheticFile, api, faults
from tests.support.content import KIB, MIB
from tests.support.transfer import Heard, holds, transfer_threads
from tests.support.waiting import AT_ONCE_S, wait_for
from tests.support.xet_server import XetServer
from tests.support.xet_store import XET_QUICK, XetFile, need_hf_xet, xet_file
from workers.transfer import Control, Fetched, HostPool, Limits, Snapshot, data_path, fetch
from workers.transfer.transport import ExpectedContent
from workers.transfer.xet import transport as xet_module
from workers.transfer.xet.transport import Xet

CONTENT_BYTES = 4 * MIB
#: Plans of 256 KiB, so that a piece has a middle; and little on its way, so that a fault in the middle is felt there.
QUICK = replace(XET_QUICK, xet_fetch_bytes=256 * KIB, xet_buffer_bytes=512 * KIB)
#: The same with one stream and one piece: all of the file under one token.
ONE_PIECE = replace(QUICK, xet_part_bytes=CONTENT_BYTES, connections_max=1)
#: Bytes beyond those asked for that a run may bring: chunks are whole, at both of its ends.
CHUNK_BYTES = 2 * 128 * KIB


@pytest.fixture
def file(hub: HubServer, tmp_path: Path) -> XetFile:
    need_hf_xet()
    return xet_file(hub, tmp_path, SyntheticFile(CONTENT_BYTES, 5))


@pytest.fixture
def store(file: XetFile) -> Iterator[XetServer]:
    with serving(file) as server:
        yield server


def serving(file: XetFile, version: int = 2) -> XetServer:
    """The file's store, over HTTP; the Hub says so from now on."""
    server = XetServer(file.folder, version=version)
    file.hub.api.xet_endpoint = server.endpoint
    return server


def get(file: XetFile, partial: Path, limits: Limits = QUICK, **options: Any) -> Fetched:
    """Fetch with Xet first."""
    with HostPool(Network(), limits) as pool, Xet(file.locate_token, pool, limits) as xet:
        ways = [xet.transport(file.hash, file.content.size)]
        return fetch(file.source, partial, limits=limits, shared=pool, transports=ways, **options)


def slowly(bytes_per_s: float = 4 * MIB) -> Control:
    return Control(bandwidth=lambda n_bytes: time.sleep(n_bytes / bytes_per_s))


def in_the_middle(act: Callable[[], None]) -> Callable[[Snapshot], None]:
    """Act once, when more than a quarter is there."""
    acted: list[int] = []

    def look(snapshot: Snapshot) -> None:
        if snapshot.bytes_done > CONTENT_BYTES // 4 and not acted:
            acted.append(snapshot.bytes_done)
            act()

    return look


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_comes_from_a_store_over_http(file: XetFile, tmp_path: Path, version: int) -> None:
    with serving(file, version) as store:
        fetched = get(file, tmp_path / "f")
        assert holds(tmp_path / "f", file.content)
        assert fetched.verified
        assert fetched.bytes_refetched == 0
        assert file.bytes_over_http == 0
        assert len(store.tokens_seen()) == 1
        assert store.bytes_of_blocks() > 0
        assert {hit.status for hit in store.log.hits("/blocks/*")} == {206}
        assert len(file.hub.hits("*xet-read-token*")) == 1


def test_no_request_is_for_more_than_a_run(file: XetFile, store: XetServer, tmp_path: Path) -> None:
    get(file, tmp_path / "f")
    assert max(hit.bytes_sent for hit in store.log.hits("/blocks/*")) <= 2 * QUICK.xet_fetch_bytes + CHUNK_BYTES


def test_a_token_that_the_store_refuses_midway_is_replaced(
    file: XetFile, store: XetServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        # The stand-in's tokens differ by their end.
        monkeypatch.setattr(api, "XET_TOKEN_TTL_S", api.XET_TOKEN_TTL_S + 60)
        store.refused.update(store.tokens_seen())

    fetched = get(file, tmp_path / "f", ONE_PIECE, control=slowly(), on_progress=in_the_middle(refuse))
    assert holds(tmp_path / "f", file.content)
    assert fetched.bytes_refetched == 0
    assert file.bytes_over_http == 0
    assert len(store.refused) == 1
    assert len(store.tokens_seen()) == 2


def test_a_token_that_ends_during_a_piece_is_replaced(
    file: XetFile, store: XetServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # hf_xet itself takes a token for ended half a minute before its end.
    monkeypatch.setattr(api, "XET_TOKEN_TTL_S", 32)
    fetched = get(file, tmp_path / "f", ONE_PIECE, control=slowly(CONTENT_BYTES / 4))
    assert holds(tmp_path / "f", file.content)
    assert fetched.bytes_refetched == 0
    assert file.bytes_over_http == 0
    assert len(store.tokens_seen()) > 1


def test_a_token_that_is_always_refused_leaves_the_file_to_http(
    file: XetFile, store: XetServer, tmp_path: Path
) -> None:
    store.faults.add(faults.status(401), "/v2/*")
    get(file, tmp_path / "f")
    assert holds(tmp_path / "f", file.content)
    assert store.bytes_of_blocks() == 0
    assert file.bytes_over_http >= CONTENT_BYTES
    assert len(file.hub.hits("*xet-read-token*")) <= QUICK.xet_failures_max


@pytest.mark.parametrize(
    "fault",
    [faults.status(403), faults.status(500), faults.cut(50 * KIB), faults.short_body(50 * KIB), faults.truncate(1000)],
    ids=["refused", "error", "cut", "short", "truncated"],
)
@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
def test_a_block_that_does_not_come_is_asked_for_again_and_then_left_to_http(
    file: XetFile, store: XetServer, tmp_path: Path, fault: faults.Fault, times: int | None
) -> None:
    store.faults.add(fault, "/blocks/*", count=times)
    fetched = get(file, tmp_path / "f")
    assert holds(tmp_path / "f", file.content)
    assert fetched.bytes_refetched == 0
    if times == 1:
        assert file.bytes_over_http == 0
    else:
        assert file.bytes_over_http >= CONTENT_BYTES


def test_a_store_that_fails_midway_costs_no_byte(file: XetFile, store: XetServer, tmp_path: Path) -> None:
    def fail() -> None:
        store.faults.add(faults.status(503))
        store.close_connections()

    fetched = get(file, tmp_path / "f", control=slowly(), on_progress=in_the_middle(fail))
    assert holds(tmp_path / "f", file.content)
    assert fetched.bytes_refetched == 0
    assert 0 < file.bytes_over_http <= CONTENT_BYTES * 3 // 4 + MIB


def test_a_store_that_falls_silent_midway_is_left_for_http(file: XetFile, store: XetServer, tmp_path: Path) -> None:
    def fall_silent() -> None:
        store.faults.add(faults.stall(1000), "/blocks/*")

    limits = replace(QUICK, stall_all_s=3.0)
    fetched = get(file, tmp_path / "f", limits, control=slowly(), on_progress=in_the_middle(fall_silent))
    assert holds(tmp_path / "f", file.content)
    assert fetched.bytes_refetched == 0
    assert 0 < file.bytes_over_http <= CONTENT_BYTES * 3 // 4 + MIB


def test_a_store_that_limits_requests_is_left_alone_and_then_asked_again(
    file: XetFile, store: XetServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xet_module, "REST_S", 0.3)
    # A stream's first two requests for plans, and as often as hf_xet asks again by itself.
    refused = store.faults.add(faults.too_many_requests(), "/v2/*", count=6)
    get(file, tmp_path / "f", ONE_PIECE)
    assert holds(tmp_path / "f", file.content)
    assert refused.struck == 6
    assert file.bytes_over_http == 0


def test_a_cancel_ends_the_wait_for_a_block(file: XetFile, store: XetServer, tmp_path: Path) -> None:
    store.faults.add(faults.stall(1000), "/blocks/*")
    control = Control()
    began: list[float] = []

    def cancel_once_asked() -> None:
        store.log.wait_for("/blocks/*", sent_bytes=1000)
        began.append(time.monotonic())
        control.cancel()

    canceller = threading.Thread(target=cancel_once_asked)
    canceller.start()
    with pytest.raises(Cancelled):
        get(file, tmp_path / "f", replace(XET_QUICK, stall_s=4 * AT_ONCE_S, stall_all_s=4 * AT_ONCE_S), control=control)
    assert time.monotonic() - began[0] < AT_ONCE_S
    canceller.join()
    assert transfer_threads() == []


def test_a_closed_stream_holds_nothing(file: XetFile, store: XetServer) -> None:
    # An error that somebody keeps may refer to it.
    with HostPool(Network(), QUICK) as pool, Xet(file.locate_token, pool, QUICK) as xet:
        stream = xet.transport(file.hash, CONTENT_BYTES).open(0, CONTENT_BYTES, ExpectedContent(), Control())
        given = stream.chunks()
        part = next(given)
        assert len(part) == QUICK.read_bytes
        stream.close()
        with pytest.raises(ValueError, match="released"):
            part[0]
        assert list(given) == []


def test_a_session_that_was_read_to_its_end_serves_the_next_piece(file: XetFile, store: XetServer) -> None:
    with HostPool(Network(), QUICK) as pool, Xet(file.locate_token, pool, QUICK) as xet:
        way = xet.transport(file.hash, CONTENT_BYTES)
        for start in (0, MIB):
            stream = way.open(start, start + MIB, ExpectedContent(), Control())
            assert sum(len(part) for part in stream.chunks()) == MIB
            stream.close()
            # Too late to end what belongs to the next stream.
            stream.abort()
    assert len({hit.headers["x-xet-session-id"] for hit in store.log.hits(origin="hub")}) == 1


def test_another_process_resumes_from_the_last_byte(file: XetFile, store: XetServer, tmp_path: Path) -> None:
    partial = tmp_path / "f"
    arguments = [file.source.locate().url, file.token_url, file.hash, str(CONTENT_BYTES), file.content.sha256()]
    child = subprocess.Popen([sys.executable, "-m", "tests.support.xet_child", *arguments, str(partial), str(MIB)])
    try:
        journal = partial.with_name("f.journal")
        wait_for(lambda: journal.exists() and journal.stat().st_size > 1000, "a journal with some records")
    finally:
        child.kill()
        child.wait()
    store.close_connections()
    store.log.reset()
    heard = Heard()
    fetched = get(file, partial, ONE_PIECE, on_progress=heard)
    assert holds(partial, file.content)
    assert fetched.bytes_refetched == 0
    found_bytes = heard.snapshots[0].bytes_done
    assert found_bytes > 0
    # A run more than is missing: what was there is in pieces, and each run brings whole chunks.
    assert store.bytes_of_blocks() < CONTENT_BYTES
    assert file.bytes_over_http == 0


def test_a_flipped_byte_of_a_served_block_is_caught(file: XetFile, store: XetServer, tmp_path: Path) -> None:
    file.flip_a_byte()
    fetched = get(file, tmp_path / "f")
    assert fetched.verified
    assert holds(tmp_path / "f", file.content)
    assert store.bytes_of_blocks() > 0
    assert fetched.bytes_refetched == CONTENT_BYTES
    assert file.bytes_over_http == CONTENT_BYTES


def test_wrong_bytes_from_the_store_and_over_http_are_never_given(
    file: XetFile, store: XetServer, tmp_path: Path
) -> None:
    file.flip_a_byte()
    file.hub.faults.add(faults.wrong_byte(1000), "*model.safetensors")
    with pytest.raises(ChecksumMismatch):
        get(file, tmp_path / "f")
    assert not data_path(tmp_path / "f").exists()


def test_many_streams_with_one_small_buffer_do_not_wait_for_each_other(
    file: XetFile, store: XetServer, tmp_path: Path
) -> None:
    limits = replace(QUICK, xet_streams_max=8, connections_start=8, connections_max=8)
    for n in range(10):
        get(file, tmp_path / f"f{n}", limits)
        data_path(tmp_path / f"f{n}").unlink()
    assert file.bytes_over_http == 0
