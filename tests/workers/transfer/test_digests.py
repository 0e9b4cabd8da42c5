"""Wrong bytes: found, mended where that is possible, never passed on."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hive.errors import ChecksumMismatch
from tests.hub import HubServer, faults
from tests.support.child import Child
from tests.support.content import KIB, MIB
from tests.support.transfer import ONE, QUICK, Heard, big, get, holds, partly, source
from workers.transfer import bad_path, data_path, journal_path


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_one_flipped_byte_on_disk_costs_the_fetch_of_its_part(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    what = source(hub.plain("f", content), content)
    get(what, tmp_path / "f", ONE)
    flip(data_path(tmp_path / "f"), content.size // 2 + 17)
    hub.reset_log()
    fetched = get(what, tmp_path / "f", ONE)
    assert holds(tmp_path / "f", content)
    assert fetched.verified
    assert 0 < hub.bytes_sent("/f") <= ONE.part_max_bytes
    assert fetched.bytes_refetched == hub.bytes_sent("/f")


def test_a_byte_flipped_between_two_runs_is_mended(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    what = partly(hub, content, tmp_path / "f")
    flip(data_path(tmp_path / "f"), 5)
    get(what, tmp_path / "f")
    assert holds(tmp_path / "f", content)
    assert hub.bytes_sent("/f") < content.size


@pytest.mark.parametrize("limits", [QUICK, replace(QUICK, small_file_bytes=16 * MIB)], ids=["parts", "one-get"])
def test_a_wrong_byte_from_the_server_once_costs_one_more_stream(
    hub: HubServer, tmp_path: Path, limits: type[None]
) -> None:
    content = big()
    hub.faults.add(faults.wrong_byte(MIB + 1), "/f", count=1)
    heard = Heard()
    fetched = get(source(hub.plain("f", content), content), tmp_path / "f", limits, on_progress=heard)  # type: ignore[arg-type]
    assert holds(tmp_path / "f", content)
    assert fetched.bytes_refetched == content.size
    assert hub.hits("/f")[-1].range is None
    done = [snapshot.bytes_done for snapshot in heard.snapshots]
    assert done == sorted(done)


@pytest.mark.parametrize("limits", [QUICK, replace(QUICK, small_file_bytes=16 * MIB)], ids=["parts", "one-get"])
def test_a_file_that_stays_wrong_is_set_aside_and_never_passed_on(
    hub: HubServer, tmp_path: Path, limits: type[None]
) -> None:
    content = big()
    hub.faults.add(faults.wrong_byte(MIB + 1), "/f")
    with pytest.raises(ChecksumMismatch):
        get(source(hub.plain("f", content), content), tmp_path / "f", limits)  # type: ignore[arg-type]
    assert bad_path(tmp_path / "f").stat().st_size == content.size
    assert not data_path(tmp_path / "f").exists()
    assert not journal_path(tmp_path / "f").exists()


def test_a_disk_that_spoils_the_same_byte_each_time_is_given_up(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = big()
    real = os.pwrite

    def write(fd: int, data: memoryview, offset: int) -> int:
        at = MIB - offset
        spoiled = bytearray(data)
        if 0 <= at < len(spoiled):
            spoiled[at] ^= 1
        return real(fd, spoiled, offset)

    monkeypatch.setattr(os, "pwrite", write)
    with pytest.raises(ChecksumMismatch):
        get(source(hub.plain("f", content), content), tmp_path / "f", ONE)
    # Three times the part, once the whole.
    assert 2 * content.size < hub.bytes_sent("/f") < 3 * content.size
    assert bad_path(tmp_path / "f").exists()


def test_other_content_of_the_same_size_half_way_is_never_accepted(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    url = hub.plain("f", content)
    hub.faults.add(faults.other_content(big(seed=9)), "/f", skip=4)
    with pytest.raises(ChecksumMismatch):
        get(source(url, content), tmp_path / "f")


def test_a_killed_mend_goes_on(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    what = source(hub.plain("f", content), content)
    get(what, tmp_path / "f")
    flip(data_path(tmp_path / "f"), 3 * MIB)
    hub.reset_log()
    hub.faults.add(faults.stall(16 * KIB), "/f", count=1)
    arguments = [hub.plain("f", content), str(content.size), content.sha256(), str(tmp_path / "f")]
    with Child([sys.executable, "-m", "tests.support.transfer_child", *arguments]) as child:
        hub.log.wait_for("/f", sent_bytes=KIB)
        child.kill()
    get(what, tmp_path / "f")
    assert holds(tmp_path / "f", content)
    assert hub.bytes_sent("/f") < MIB
