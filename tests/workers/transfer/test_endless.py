"""A body without an end fills no disk, and what cannot be resumed does not stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hive.errors import Cancelled, DownloadError, HiveError, LengthUnknown
from hive.settings import Settings
from tests.hub import HubServer, faults
from tests.support.content import KIB, MIB
from tests.support.transfer import ONE, QUICK, background, big, get, holds, source
from tests.support.waiting import wait_for
from workers.fetch import limits_of
from workers.transfer import Control, Location, Source, data_path, journal_path

#: The cap of these tests.
CAP_BYTES = MIB
CAPPED = replace(QUICK, undeclared_max_bytes=CAP_BYTES)


@contextmanager
def fails(tmp_path: Path, error: type[HiveError]) -> Iterator[None]:
    with pytest.raises(error):
        yield
    assert list(tmp_path.iterdir()) == []


def test_a_body_without_a_length_is_stopped_at_the_cap(hub: HubServer, tmp_path: Path) -> None:
    url = hub.plain("f", big(64 * MIB), etag=False, last_modified=False, ranges=False, length=False)
    hub.limit_rate_bytes_per_s = 8 * MIB
    with fails(tmp_path, LengthUnknown):
        get(source(url, pinned=False), tmp_path / "f", CAPPED)
    assert hub.bytes_sent("/f") < 16 * MIB
    assert len(hub.hits("/f")) == 1


def test_a_digest_does_not_lift_the_cap(hub: HubServer, tmp_path: Path) -> None:
    content = big(8 * MIB)
    url = hub.plain("f", content, ranges=False, length=False)
    pinned = source(url, content)
    with fails(tmp_path, LengthUnknown):
        get(replace(pinned, size=None), tmp_path / "f", CAPPED)


def test_a_body_that_says_its_length_is_not_capped(hub: HubServer, tmp_path: Path) -> None:
    content = big(2 * MIB)
    get(source(hub.plain("f", content, etag=False), pinned=False), tmp_path / "f", CAPPED)
    assert holds(tmp_path / "f", content)


def test_a_body_of_just_the_cap_is_taken(hub: HubServer, tmp_path: Path) -> None:
    content = big(CAP_BYTES)
    get(source(hub.plain("f", content, ranges=False, length=False), pinned=False), tmp_path / "f", CAPPED)
    assert holds(tmp_path / "f", content)


@pytest.mark.parametrize("ranges", [True, False])
def test_what_cannot_be_resumed_does_not_stay_after_a_failure(hub: HubServer, tmp_path: Path, ranges: bool) -> None:
    url = hub.plain("f", big(), etag=False, last_modified=False, ranges=ranges)
    hub.faults.add(faults.cut(at_offset=MIB), "/f")
    with fails(tmp_path, DownloadError):
        get(source(url, pinned=False), tmp_path / "f")


def test_what_cannot_be_resumed_does_not_stay_after_a_cancel(hub: HubServer, tmp_path: Path) -> None:
    hub.limit_rate_bytes_per_s = MIB
    url = hub.plain("f", big(8 * MIB), etag=False, last_modified=False)
    with background(source(url, pinned=False), tmp_path / "f") as run:
        wait_for(lambda: run.done > 64 * KIB, "a few bytes")
        run.control.cancel("enough")
        run.end()
    assert isinstance(run.error, Cancelled)
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_that_failed_does_not_stay(hub: HubServer, tmp_path: Path) -> None:
    content = big(MIB)
    hub.faults.add(faults.cut(at_offset=MIB // 2), "/f")
    with fails(tmp_path, DownloadError):
        get(source(hub.plain("f", content), content), tmp_path / "f", replace(QUICK, small_file_bytes=16 * MIB))


def test_what_can_be_resumed_stays(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.short_body(at_offset=MIB), "/f", count=1)
    hub.faults.add(faults.status(404), "/f", skip=6)
    with pytest.raises(HiveError):
        get(source(hub.plain("f", content), content), tmp_path / "f", replace(ONE, attempts_max=1))
    assert journal_path(tmp_path / "f").exists()
    before = data_path(tmp_path / "f").stat().st_size
    # Nor does a later call that fails before its first answer take it away.
    hub.faults.clear()
    hub.faults.add(faults.status(404), "/f")
    with pytest.raises(HiveError):
        get(source(hub.plain("f", content), content), tmp_path / "f", ONE)
    assert data_path(tmp_path / "f").stat().st_size == before
    hub.faults.clear()
    assert get(source(hub.plain("f", content), content), tmp_path / "f", ONE).verified


def test_files_that_belong_to_somebody_else_are_left_alone(hub: HubServer, tmp_path: Path) -> None:
    hub.limit_rate_bytes_per_s = MIB
    url = hub.plain("f", big(8 * MIB), etag=False, last_modified=False)
    with background(Source(lambda: Location(url), None, None, "f"), tmp_path / "f") as run:
        wait_for(lambda: run.done > 64 * KIB, "a few bytes")
        run.control.cancel("the lease was lost", fenced=True)
        run.end()
    assert data_path(tmp_path / "f").exists()


def test_a_cancel_before_the_first_byte_leaves_nothing(tmp_path: Path) -> None:
    control = Control()
    control.cancel()
    with fails(tmp_path, Cancelled):
        get(source("http://127.0.0.1:9/f", pinned=False), tmp_path / "f", control=control)


def test_the_cap_is_a_setting() -> None:
    assert limits_of(Settings.from_env({})).undeclared_max_bytes == 50 << 30
    assert limits_of(Settings.from_env({"HIVE_MAX_UNDECLARED_BYTES": "1048576"})).undeclared_max_bytes == MIB
