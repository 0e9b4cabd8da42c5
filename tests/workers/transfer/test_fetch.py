"""The plain cases: sizes, digests, connections, progress."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hive.errors import ResourcesExhausted, StoreNotWritable
from tests.hub import HubServer
from tests.hub.content import Bytes, SyntheticFile, read_all
from tests.support.content import KIB, MIB
from tests.support.transfer import QUICK, Heard, big, get, holds, source, transfer_threads
from tests.support.waiting import AT_ONCE_S
from workers.transfer import Digest, Limits, Location, Source, discard, finish, journal_path


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1, 3 * MIB + 7])
@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("limits", [QUICK, Limits()], ids=["parts", "one-get"])
def test_a_file_of_any_size_arrives(hub: HubServer, tmp_path: Path, size: int, pinned: bool, limits: Limits) -> None:
    content = big(size)
    url = hub.plain("file", content)
    fetched = get(source(url, content, pinned=pinned), tmp_path / "f", limits)
    assert holds(tmp_path / "f", content)
    assert (fetched.size, fetched.verified, fetched.bytes_refetched) == (size, pinned, 0)
    assert fetched.digest_hex == content.sha256()


def test_a_git_file_is_verified_by_its_git_digest(hub: HubServer, tmp_path: Path) -> None:
    data = b"{}\n" * 100_000
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    url = hub.plain("config.json", data)
    for size in (len(data), None):
        what = Source(lambda: Location(url), size, Digest("git-sha1", oid), "config.json")
        assert get(what, tmp_path / "f").digest_hex == oid
        discard(tmp_path / "f")


def test_a_malformed_digest_is_refused_before_any_request(hub: HubServer, tmp_path: Path) -> None:
    url = hub.plain("f", b"x")
    with pytest.raises(ValueError, match="not a sha256 digest"):
        get(Source(lambda: Location(url), 1, Digest("sha256", "../../etc/passwd"), "f"), tmp_path / "f")
    assert not hub.hits()


def test_a_large_file_comes_over_several_connections(hub: HubServer, tmp_path: Path) -> None:
    content = big(8 * MIB)
    hub.limit_rate_bytes_per_s = 4 * MIB
    heard = Heard()
    get(source(hub.plain("f", content), content), tmp_path / "f", on_progress=heard)
    assert holds(tmp_path / "f", content)
    assert 4 <= max(snapshot.connections for snapshot in heard.snapshots) <= 16


def _few_threads(monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> None:
    """The system gives this process no more than so many threads of this name."""
    start = threading.Thread.start

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name == name and transfer_threads().count(name) >= most:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)


def test_a_file_comes_over_as_many_connections_as_there_are_threads_for(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = big(4 * MIB)
    hub.limit_rate_bytes_per_s = 4 * MIB
    heard = Heard()
    _few_threads(monkeypatch, "transfer-connection", 2)
    get(source(hub.plain("f", content), content), tmp_path / "f", on_progress=heard)
    assert holds(tmp_path / "f", content)
    assert max(snapshot.connections for snapshot in heard.snapshots) == 2


@pytest.mark.parametrize("lacks", ["hash", "journal", "sync", "connection"])
def test_a_fetch_without_its_threads_ends_with_a_way_out_and_leaves_nothing_open(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    content = big(MIB)
    what = source(hub.plain("f", content), content)
    _few_threads(monkeypatch, f"transfer-{lacks}", 0)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ResourcesExhausted, match="TasksMax"):
        get(what, tmp_path / "f")
    assert transfer_threads() == []
    assert len(os.listdir("/proc/self/fd")) <= before


def test_every_byte_is_asked_for_once_when_nothing_fails(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    fetched = get(source(hub.plain("f", content), content), tmp_path / "f", replace(QUICK, steal_min_bytes=10 * MIB))
    assert hub.bytes_sent("/f") == content.size
    assert fetched.bytes_refetched == 0


def test_an_idle_connection_takes_the_upper_half_of_a_slow_remainder(hub: HubServer, tmp_path: Path) -> None:
    content = big(MIB)
    hub.limit_rate_bytes_per_s = 16 * KIB
    limits = replace(QUICK, part_min_bytes=MIB, part_max_bytes=MIB)
    began = time.monotonic()
    get(source(hub.plain("f", content), content), tmp_path / "f", limits)
    # One connection would take a minute; the single part was shared.
    assert time.monotonic() - began < 3 * AT_ONCE_S
    assert len(hub.hits("/f")) > 2


def test_a_server_without_ranges_gives_one_stream(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    for pinned in (True, False):
        hub.reset_log()
        get(source(hub.plain("f", content, ranges=False), content, pinned=pinned), tmp_path / "f")
        assert holds(tmp_path / "f", content)
        assert [hit.status for hit in hub.hits("/f")] == [200]
        discard(tmp_path / "f")


def test_a_body_without_a_length_is_read_to_its_end(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    url = hub.plain("f", content, ranges=False, length=False, etag=False)
    fetched = get(source(url, pinned=False), tmp_path / "f")
    assert fetched.size == content.size
    assert holds(tmp_path / "f", content)


def test_a_file_without_validator_and_digest_comes_in_one_stream(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    url = hub.plain("f", content, etag='W/"weak"', last_modified=False)
    get(source(url, pinned=False), tmp_path / "f")
    assert holds(tmp_path / "f", content)
    assert sum(hit.bytes_sent for hit in hub.hits("/f") if hit.range is None) == content.size
    assert not journal_path(tmp_path / "f").exists()


def test_progress_never_goes_back_and_ends_with_the_whole(hub: HubServer, tmp_path: Path) -> None:
    content = big(8 * MIB)
    hub.limit_rate_bytes_per_s = 4 * MIB
    heard = Heard()
    callers: set[str] = set()

    def tell(snapshot: object) -> None:
        callers.add(threading.current_thread().name)
        heard(snapshot)  # type: ignore[arg-type]

    began = time.monotonic()
    get(source(hub.plain("f", content), content), tmp_path / "f", on_progress=tell)
    done = [snapshot.bytes_done for snapshot in heard.snapshots]
    assert done == sorted(done)
    assert len(done) <= (time.monotonic() - began) * 10 + 4
    assert {snapshot.bytes_total for snapshot in heard.snapshots} == {content.size}
    assert callers == {threading.current_thread().name}


def test_no_thread_and_no_socket_outlives_a_fetch(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    get(source(hub.plain("f", content), content), tmp_path / "f")
    assert transfer_threads() == []


def test_a_missing_folder_is_said_plainly(hub: HubServer, tmp_path: Path) -> None:
    content = Bytes(b"abc")
    with pytest.raises(StoreNotWritable, match="No such file"):
        get(source(hub.plain("f", content), content), tmp_path / "nowhere" / "f")


def test_a_link_in_place_of_the_data_file_is_not_followed(hub: HubServer, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "f.part").symlink_to(victim)
    content = Bytes(b"abc")
    with pytest.raises(StoreNotWritable):
        get(source(hub.plain("f", content), content), tmp_path / "f")
    assert victim.read_bytes() == b"precious"


def test_a_shorter_file_replaces_the_leftover_of_a_longer_one(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"z" * MIB)
    content = big(100 * KIB)
    get(source(hub.plain("f", content), content), tmp_path / "f")
    assert holds(tmp_path / "f", content)


def test_finish_moves_the_file_and_may_be_repeated(hub: HubServer, tmp_path: Path) -> None:
    content = big(SyntheticFile(10, 1).size)
    get(source(hub.plain("f", content), content), tmp_path / "f")
    for _ in range(2):
        finish(tmp_path / "f", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == read_all(content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]


def test_finish_without_data_and_without_target_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreNotWritable):
        finish(tmp_path / "f", tmp_path / "target")


def test_a_journal_left_behind_by_a_crash_in_finish_is_harmless(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    what = source(hub.plain("f", content), content)
    get(what, tmp_path / "f")
    (tmp_path / "f.part").rename(tmp_path / "target")
    assert journal_path(tmp_path / "f").exists()
    hub.reset_log()
    get(what, tmp_path / "f", replace(QUICK, steal_min_bytes=10 * MIB))
    assert holds(tmp_path / "f", content)
    assert hub.bytes_sent("/f") == content.size
