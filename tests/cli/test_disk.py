"""What a stopped download has left: listed, shown, cancelled and removed from the disk, without a server."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from hive.cli import server as finding
from hive.downloads.local import LocalDownloads, LocalRun, local_realm
from hive.settings import Settings
from hive.store.filesystem import partial_place
from hive.store.given_up import given_up
from hive.store.partial_lock import PartialLocks
from hive.wire.refs import parse_ref
from hive.wire.spec import DownloadSpec
from tests.support.cli import Hive
from tests.support.gc import age
from tests.support.standin_server import StandIn
from tests.support.store import QUANTS, put

KEY = "a" * 64


@pytest.fixture(autouse=True)
def no_server(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers at the default address, whatever else runs on this machine."""
    monkeypatch.setattr(finding, "DEFAULT_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("HIVE_HOST", "127.0.0.1:1")


def begin(settings: Settings, ref: str = "org/name:Q4_K_M", key: str = KEY) -> tuple[LocalRun, Path]:
    """A download that is in hand, with a partial file of 4 of 10 kB."""
    run = LocalDownloads(settings).begin(DownloadSpec(ref=parse_ref(ref)))
    assert run is not None
    place = partial_place(settings)
    place.path.mkdir(parents=True, exist_ok=True)
    part = place.path / f"{key}.part"
    part.write_bytes(b"x" * 4000)
    run.note(bytes_done=4000, bytes_total=10_000, partials=(key,))
    return run, part


def stopped(settings: Settings, ref: str = "org/name:Q4_K_M", key: str = KEY) -> tuple[str, Path]:
    run, part = begin(settings, ref, key)
    run.set_aside()
    return run.id, part


def test_ls_shows_what_has_arrived_below_the_models(settings: Settings, hive: Hive) -> None:
    put(settings, "org/q", QUANTS)
    stopped(settings)
    rows = [line.split() for line in hive("ls").out.splitlines()]
    assert rows[-1] == ["org/name:Q4_K_M", "4.0", "kB", "-", "paused,", "40.0%", "of", "10.0", "kB"]
    assert "org/name:Q4_K_M" not in hive("ls", "-q").out


def test_ls_as_json_lists_whole_models_and_then_what_has_arrived_of_others(settings: Settings, hive: Hive) -> None:
    put(settings, "org/q", QUANTS)
    download_id, _ = stopped(settings)
    *models, partial = json.loads(hive("ls", "--json").out)
    assert [model["id"] for model in models] == hive("ls", "-q").out.split()
    assert {model["object"] for model in models} == {"model"}
    assert (partial["object"], partial["id"], partial["status"]) == ("download", download_id, "paused")
    assert partial["model_ref"] == "hf:org/name:Q4_K_M"
    assert (partial["progress"]["bytes_downloaded"], partial["progress"]["bytes_total"]) == (4000, 10_000)


def test_gc_names_what_it_keeps_for_downloads_that_have_not_ended(settings: Settings, hive: Hive) -> None:
    _, part = stopped(settings)
    age(part, 20 * 86_400)
    result = hive("gc")
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines() == [
        "Removed 0 things, 0 B",
        "Kept for downloads that have not ended: 4.0 kB of org/name:Q4_K_M (paused)",
        "hint: hive pull org/name:Q4_K_M",
        "hint: hive rm org/name:Q4_K_M",
    ]
    kept, end = map(json.loads, hive("gc", "--json").out.splitlines())
    assert (kept["event"], kept["in_use"], end["event"], end["kept"]) == ("kept", True, "end", 1)
    assert "org/name:Q4_K_M" in kept["message"]
    assert part.exists()


def test_gc_says_nothing_of_kept_where_nothing_is(hive: Hive) -> None:
    assert hive("gc").err == "Removed 0 things, 0 B\n"


def test_ps_and_show_tell_of_it(settings: Settings, hive: Hive) -> None:
    download_id, _ = stopped(settings)
    assert hive("ps", "-q").out == f"{download_id}\n"
    assert hive("ps").out.splitlines()[1].split()[:4] == [download_id[:8], "org/name:Q4_K_M", "paused", "40.0%"]
    for name in (download_id[:8], "org/name:Q4_K_M", "hf:org/name:Q4_K_M", "org/name"):
        assert json.loads(hive("show", name, "--json").out)["id"] == download_id


@pytest.mark.parametrize("name", ["org/name:Q4_K_M", "hf:org/name:Q4_K_M", "org/name"])
def test_rm_removes_what_has_arrived(settings: Settings, hive: Hive, name: str) -> None:
    _, part = stopped(settings)
    part.with_suffix(".journal").touch()  # so a server of this store may have handed some of it out
    result = hive("rm", "-y", name)
    assert (result.code, result.err) == (0, "Deleted what had arrived of org/name:Q4_K_M, 4.0 kB\n")
    assert not part.exists()
    assert given_up(settings.hive_dir, KEY) > 0
    assert LocalDownloads(settings).list() == []


@pytest.mark.parametrize("command", [("rm", "-y"), ("cancel", "--purge")])
def test_a_disk_on_which_not_a_byte_is_free_is_made_room_on(
    settings: Settings, hive: Hive, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    _, part = stopped(settings)
    part.with_suffix(".journal").touch()

    def full(*_: object, **__: object) -> None:
        if part.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("hive.downloads.intents.write_file", full)
    monkeypatch.setattr("hive.store.given_up.write_file", full)
    assert hive(*command, "org/name:Q4_K_M").code == 0
    assert not part.exists()
    assert LocalDownloads(settings).list() == []


def test_cancel_forgets_it_and_purge_removes_what_arrived(settings: Settings, hive: Hive) -> None:
    first, kept = stopped(settings)
    second, gone = stopped(settings, "org/other", "b" * 64)
    assert hive("cancel", first[:8]).code == 0
    assert hive("cancel", "org/other", "--purge").code == 0
    assert (kept.exists(), gone.exists()) == (True, False)
    assert hive("ps", "-q").out == ""
    assert hive("cancel", second).code == 1


def test_what_another_download_needs_is_not_removed(settings: Settings, hive: Hive) -> None:
    _, part = stopped(settings)
    stopped(settings, "org/other")
    hive("rm", "-y", "org/other")
    assert part.exists()
    hive("rm", "-y", "org/name:Q4_K_M")
    assert not part.exists()


def test_what_another_process_writes_is_not_removed(settings: Settings, hive: Hive) -> None:
    _, part = stopped(settings)
    locks = PartialLocks(partial_place(settings), local_realm("other"))
    assert locks.acquire(KEY)
    hive("rm", "-y", "org/name:Q4_K_M")
    locks.release_all()
    assert part.exists()


def test_a_model_that_a_pull_is_using_is_not_deleted(settings: Settings, hive: Hive) -> None:
    put(settings, "org/q", QUANTS)
    run, _ = begin(settings, "org/q:Q2_K")
    result = hive("rm", "-y", "org/q:Q8_0")
    assert result.code == 1
    assert "[MODEL_IN_USE]" in result.err
    run.set_aside()
    assert hive("rm", "-y", "org/q:Q8_0").code == 0


def test_a_repository_with_several_variants_is_shown_and_removed(settings: Settings, hive: Hive) -> None:
    put(settings, "org/q", QUANTS)
    shown = json.loads(hive("show", "org/q", "--json").out)
    assert len(shown) > 1
    result = hive("rm", "-y", "org/q")
    assert result.code == 0
    assert result.err.count("Deleted org/q:") == len(shown)
    assert hive("ls", "-q").out == ""


def test_several_are_removed_at_once_and_none_where_one_is_not_there(settings: Settings, hive: Hive) -> None:
    put(settings, "org/q", QUANTS)
    assert hive("rm", "-y", "org/q:Q8_0", "org/none").code == 1
    assert "org/q:Q8_0" in hive("ls", "-q").out
    assert hive("rm", "-y", "org/q:Q8_0", "org/q:Q4_K_M").code == 0
    assert "org/q:Q8_0" not in hive("ls", "-q").out


def test_a_paused_download_of_a_server_is_cancelled_on_the_disk_and_the_server_told(
    settings: Settings, home: Path, hive: Hive
) -> None:
    (home / "redis").mkdir()
    download_id, _ = stopped(settings)
    assert hive("cancel", download_id).code == 0
    assert hive("ps", "-q").out == ""
    intent = LocalDownloads(settings).intents.read(download_id)
    assert intent is not None
    assert (intent.cancelled, intent.local) == (True, True)


def test_a_server_of_another_user_gets_no_token_and_is_not_used_unasked(
    server: StandIn, hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setattr("hive.processes.peer.listener_uid", lambda address: 54321)
    monkeypatch.setattr(finding, "listener_uid", lambda address: 54321)
    named = hive("pull", "org/name")
    assert named.code == 0
    assert "HF_TOKEN stays here" in named.err
    assert [body.get("hf_token") for body in server.bodies()] == [None]
    monkeypatch.setattr(finding, "DEFAULT_ADDRESS", server.address)
    found = hive("ps", "-q")
    assert (found.code, found.out) == (0, "")
    assert "another user's, and is left alone" in found.err


@pytest.mark.parametrize(("alias", "name"), [("list", "ls"), ("delete", "rm"), ("download", "pull")])
def test_other_words_for_a_command_are_understood(hive: Hive, alias: str, name: str) -> None:
    assert hive(alias, "--help").out.splitlines()[2:] == hive(name, "--help").out.splitlines()[2:]
    assert f"  {alias} " not in hive("--help").out
