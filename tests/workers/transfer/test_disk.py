"""Full, read-only and failing disks."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hive.errors import DiskFull, HiveError, StoreNotWritable
from tests.hub import HubServer
from tests.support.content import KIB, MIB
from tests.support.tmpfs import tmpfs
from tests.support.transfer import QUICK, big, get, holds, source, transfer_threads
from workers.transfer import Limits, data_path, journal_path
from workers.transfer.limits import GIB
from workers.transfer.state import disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of 8 MiB."""
    with tmpfs(tmp_path / "small", 8) as folder:
        yield folder


def test_a_file_that_does_not_fit_is_refused_before_the_first_byte(hub: HubServer, small_disk: Path) -> None:
    content = big(9 * MIB)
    with pytest.raises(DiskFull) as caught:
        get(source(hub.plain("f", content), content), small_disk / "f")
    assert caught.value.details["needed"] == content.size
    assert caught.value.details["available"] <= 8 * MIB
    assert data_path(small_disk / "f").stat().st_blocks == 0


def test_what_has_to_stay_free_stays_free(hub: HubServer, small_disk: Path) -> None:
    content = big(5 * MIB)
    what = source(hub.plain("f", content), content)
    with pytest.raises(DiskFull):
        get(what, small_disk / "f", replace(QUICK, keep_free_fraction=0.5))
    assert get(what, small_disk / "f", replace(QUICK, keep_free_fraction=0.05)).verified


def test_a_disk_that_fills_on_the_way_ends_the_fetch_and_a_retry_resumes(
    hub: HubServer, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = big(5 * MIB)
    what = source(hub.plain("f", content), content)
    # A filesystem that cannot allocate ahead, so that the end comes in the middle.
    monkeypatch.setattr(disk, "_fallocate", lambda fd, size: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no")))
    ballast = small_disk / "ballast"
    real = disk.check_room

    def fill(fd: int, needed: int, limits: Limits) -> None:
        real(fd, needed, limits)
        if not ballast.exists():
            ballast.write_bytes(b"\0" * 5 * MIB)

    monkeypatch.setattr(disk, "check_room", fill)
    with pytest.raises(DiskFull):
        get(what, small_disk / "f")
    assert journal_path(small_disk / "f").exists()
    assert transfer_threads() == []
    ballast.unlink()
    ballast.touch()
    hub.reset_log()
    get(what, small_disk / "f")
    assert holds(small_disk / "f", content)
    assert hub.bytes_sent("/f") < content.size


def test_a_file_whose_length_only_its_server_says_needs_no_more_room_than_that(
    hub: HubServer, small_disk: Path
) -> None:
    content = big(5 * MIB)
    get(source(hub.plain("f", content), pinned=False), small_disk / "f")
    assert holds(small_disk / "f", content)


def test_an_endless_body_stops_before_the_disk_is_full(hub: HubServer, small_disk: Path) -> None:
    url = hub.plain("f", big(GIB), ranges=False, length=False)
    with pytest.raises(DiskFull, match=r"GB to come, .* MB free"):
        get(source(url, pinned=False), small_disk / "f")
    assert hub.bytes_sent("/f") < 100 * MIB


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EROFS, StoreNotWritable),
        (errno.EACCES, StoreNotWritable),
        (errno.EIO, StoreNotWritable),
        (errno.ESTALE, StoreNotWritable),
        (errno.ENAMETOOLONG, StoreNotWritable),
    ],
)
@pytest.mark.parametrize("limits", [QUICK, replace(QUICK, small_file_bytes=16 * MIB)], ids=["parts", "one-get"])
def test_an_error_of_the_disk_is_said_plainly_and_nothing_is_left_running(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[HiveError],
    limits: Limits,
) -> None:
    content = big()
    real = os.pwrite

    def write(fd: int, data: memoryview, offset: int) -> int:
        if offset > MIB:
            raise OSError(number, os.strerror(number))
        return real(fd, data, offset)

    what = source(hub.plain("f", content), content)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", write)
        with pytest.raises(error) as caught:
            get(what, tmp_path / "f", limits)
    assert type(caught.value) is error
    assert os.strerror(number) in caught.value.message
    assert caught.value.details["path"] == f"{tmp_path}/f.part"
    assert transfer_threads() == []
    get(what, tmp_path / "f", limits)
    assert holds(tmp_path / "f", content)


def test_a_failing_journal_ends_the_fetch(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = big(8 * MIB)
    hub.limit_rate_bytes_per_s = 2 * MIB
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if b'"w":[[' in data:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(DiskFull):
        get(source(hub.plain("f", content), content), tmp_path / "f")


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:7], offset))
    fd = disk.open_data(tmp_path / "f")
    disk.write_all(fd, memoryview(b"0123456789" * 10), 3)
    os.close(fd)
    assert (tmp_path / "f").read_bytes() == b"\0\0\0" + b"0123456789" * 10


def test_allocation_makes_the_file_as_long_as_it_will_be(tmp_path: Path) -> None:
    fd = disk.open_data(tmp_path / "f")
    with contextlib.closing(os.fdopen(fd, "r+b")):
        disk.reserve(fd, 3 * MIB + 1, QUICK)
        assert os.fstat(fd).st_size == 3 * MIB + 1
        os.pwrite(fd, b"x" * KIB, 0)
        disk.reserve(fd, 3 * MIB + 1, QUICK)
        assert os.pread(fd, KIB, 0) == b"x" * KIB
