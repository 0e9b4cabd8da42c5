"""What is left on disk after a death, and what the next fetch makes of it."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from hive.errors import DownloadError
from tests.hub import HubServer
from tests.hub.content import read_all
from tests.support.child import Child
from tests.support.content import KIB, MIB
from tests.support.transfer import QUICK, big, digest_of, get, holds, partly, source
from workers.transfer import Digest, Location, Source, data_path, journal_path
from workers.transfer import engine as engine_module
from workers.transfer.state.journal import Identity, Journal
from workers.transfer.state.part_map import Extent

#: Bytes a kill may cost with QUICK: one record's worth, and what sits in the sockets of sixteen connections.
KILL_COSTS_BYTES = QUICK.journal_every_bytes + 16 * QUICK.part_max_bytes


def test_a_cancelled_fetch_resumes_without_fetching_a_written_byte_again(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    what = partly(hub, content, tmp_path / "f")
    fetched = get(what, tmp_path / "f")
    assert holds(tmp_path / "f", content)
    assert fetched.bytes_refetched == 0
    assert hub.bytes_sent("/f") <= content.size * 3 // 4 + KILL_COSTS_BYTES


@pytest.mark.parametrize("pinned", [True, False], ids=["digest", "validator"])
def test_a_fetch_resumes_after_kill_9_at_any_moment(hub: HubServer, tmp_path: Path, pinned: bool) -> None:
    content = big(6 * MIB)
    url = hub.plain("f", content)
    hub.limit_rate_bytes_per_s = 2 * MIB
    chance = random.Random(7)
    arguments = [url, str(content.size), content.sha256() if pinned else "-", str(tmp_path / "f")]
    deaths = 0
    for _ in range(4):
        hub.reset_log()
        with Child([sys.executable, "-m", "tests.support.transfer_child", *arguments]) as child:
            hub.log.wait_for("/f", sent_bytes=chance.randrange(1, MIB))
            child.kill()
            child.wait()
            deaths += child.returncode == -9
    assert deaths == 4
    hub.limit_rate_bytes_per_s = None
    hub.hits("/f")
    hub.reset_log()
    get(source(url, content, pinned=pinned), tmp_path / "f")
    assert holds(tmp_path / "f", content)
    assert hub.bytes_sent("/f") < content.size


def test_a_kill_costs_no_more_than_one_record(hub: HubServer, tmp_path: Path) -> None:
    content = big(6 * MIB)
    url = hub.plain("f", content)
    hub.limit_rate_bytes_per_s = 2 * MIB
    arguments = [url, str(content.size), content.sha256(), str(tmp_path / "f")]
    with Child([sys.executable, "-m", "tests.support.transfer_child", *arguments]) as child:
        hub.log.wait_for("/f", sent_bytes=4 * MIB)
        child.kill()
    before = hub.bytes_sent("/f")
    hub.limit_rate_bytes_per_s = None
    get(source(url, content), tmp_path / "f")
    assert hub.bytes_sent("/f") - content.size <= KILL_COSTS_BYTES
    assert before >= 4 * MIB


def cut_tail(journal: Path) -> None:
    text = journal.read_bytes()
    journal.write_bytes(text[: len(text) - 7])


def garble_middle(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = b"deadbeef " + lines[len(lines) // 2][9:]
    journal.write_bytes(b"".join(lines))


def add_noise(journal: Path) -> None:
    with journal.open("ab") as file:
        file.write(b"\0" * 512)


@pytest.mark.parametrize("harm", [cut_tail, garble_middle, add_noise])
def test_a_torn_journal_costs_only_what_it_does_not_tell(
    hub: HubServer, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    content = big(4 * MIB)
    what = partly(hub, content, tmp_path / "f")
    harm(journal_path(tmp_path / "f"))
    get(what, tmp_path / "f")
    assert holds(tmp_path / "f", content)


def test_without_a_journal_nothing_on_disk_is_believed(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    what = partly(hub, content, tmp_path / "f")
    journal_path(tmp_path / "f").unlink()
    get(what, tmp_path / "f")
    assert holds(tmp_path / "f", content)
    assert hub.bytes_sent("/f") >= content.size


def test_a_shortened_data_file_loses_only_what_is_gone(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    what = partly(hub, content, tmp_path / "f")
    with data_path(tmp_path / "f").open("r+b") as file:
        file.truncate(MIB)
    get(what, tmp_path / "f")
    assert holds(tmp_path / "f", content)


def test_a_data_file_that_is_gone_is_fetched_anew(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    what = partly(hub, content, tmp_path / "f")
    data_path(tmp_path / "f").unlink()
    get(what, tmp_path / "f")
    assert holds(tmp_path / "f", content)


def test_after_a_reboot_only_what_was_synced_is_believed(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = big(4 * MIB)
    what = partly(hub, content, tmp_path / "f")
    # A cancel syncs; these bytes are written and recorded after it, and then the power goes.
    lines = journal_path(tmp_path / "f").read_bytes().splitlines(keepends=True)
    syncs = [number for number, line in enumerate(lines) if b'"s":' in line]
    assert len(syncs) >= 2
    journal_path(tmp_path / "f").write_bytes(b"".join(lines[: syncs[-1]]))
    with data_path(tmp_path / "f").open("r+b") as file:
        file.write(b"\0" * content.size)
    monkeypatch.setattr(engine_module, "boot_id", lambda: "another boot")
    fetched = get(what, tmp_path / "f")
    assert holds(tmp_path / "f", content)
    assert fetched.bytes_refetched == 0


@pytest.mark.parametrize("lost", ["nothing", "the boot", "a synced boot", "journal", "line", "bytes", "data", "both"])
def test_bytes_of_an_earlier_run_that_are_not_believed_are_told_as_given_up_before_they_come_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    content, partial = big(2 * MIB), tmp_path / "f"
    data, journal = data_path(partial), journal_path(partial)
    whole = read_all(content)
    data.write_bytes(whole)
    parts = [Extent(at, at + MIB, zlib.crc32(whole[at : at + MIB])) for at in (0, MIB)]
    synced = parts if lost == "a synced boot" else []
    Journal(journal, Identity(content.size, f"sha256:{content.sha256()}", ""), "boot", parts, synced).close()
    monkeypatch.setattr(engine_module, "boot_id", lambda: "another boot" if "boot" in lost else "boot")
    if lost == "line":
        # What stands behind it was told to readers and is not believed by whoever goes on.
        header, *others = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([header, b"torn\n", *others]))
    if lost in ("journal", "both"):
        journal.unlink()
    if lost in ("data", "both"):
        data.unlink()
    if lost == "bytes":
        os.truncate(data, MIB + 1)
    told: list[bytes] = []

    def nowhere() -> Location:
        raise DownloadError("Nobody is asked.")

    what = Source(
        locate=nowhere,
        size=content.size,
        digest=digest_of(content),
        name="file",
        on_give_up=lambda: told.append(journal.read_bytes() if journal.exists() else b""),
    )
    before = journal.read_bytes() if journal.exists() else b""
    with contextlib.suppress(DownloadError):
        get(what, partial)
    assert told == ([] if lost in ("nothing", "a synced boot", "both") else [before])


def test_a_journal_of_another_digest_is_not_believed(hub: HubServer, tmp_path: Path) -> None:
    old, new = big(4 * MIB, seed=1), big(4 * MIB, seed=2)
    partly(hub, old, tmp_path / "f")
    get(source(hub.plain("f", new), new), tmp_path / "f")
    assert holds(tmp_path / "f", new)
    assert hub.bytes_sent("/f") >= new.size


def test_a_url_that_changed_between_two_runs_is_fetched_from_the_start(hub: HubServer, tmp_path: Path) -> None:
    old, new = big(4 * MIB, seed=1), big(4 * MIB, seed=2)
    what = partly(hub, old, tmp_path / "f", pinned=False)
    hub.plain("f", new)
    get(what, tmp_path / "f")
    assert holds(tmp_path / "f", new)


def test_a_complete_url_is_asked_whether_it_is_still_the_same(hub: HubServer, tmp_path: Path) -> None:
    old, new = big(seed=1), big(seed=2)
    what = source(hub.plain("f", old), pinned=False)
    get(what, tmp_path / "f")
    hub.reset_log()
    get(what, tmp_path / "f")
    assert 0 < hub.bytes_sent("/f") < old.size // 2
    hub.plain("f", new)
    get(what, tmp_path / "f")
    assert holds(tmp_path / "f", new)


def test_a_complete_file_with_a_digest_needs_no_request(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    what = source(hub.plain("f", content), content)
    get(what, tmp_path / "f")
    hub.reset_log()
    assert get(what, tmp_path / "f").verified
    assert len(hub.log) == 0


def test_a_url_with_a_digest_resumes_though_its_size_is_not_given(hub: HubServer, tmp_path: Path) -> None:
    content = big(4 * MIB)
    partly(hub, content, tmp_path / "f")
    url = hub.plain("f", content)
    get(Source(lambda: Location(url), None, digest_of(content), "f"), tmp_path / "f")
    assert hub.bytes_sent("/f") < content.size


def test_an_old_journal_does_not_outlive_a_fetch_that_keeps_none(hub: HubServer, tmp_path: Path) -> None:
    content, other = big(4 * MIB), big(4 * MIB, seed=5)
    partly(hub, content, tmp_path / "f", pinned=False)
    url = hub.plain("g", other, etag=False, last_modified=False)
    get(source(url, pinned=False), tmp_path / "f")
    assert not journal_path(tmp_path / "f").exists()
    assert holds(tmp_path / "f", other)


def test_the_name_of_a_digest_never_reaches_the_disk(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="git-sha1"):
        Digest("git-sha1", "A" * 40).checked()
    assert Digest("sha256", "a" * 64).checked().hex == "a" * 64
    assert KIB == 1024
