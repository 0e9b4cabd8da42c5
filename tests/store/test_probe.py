"""The store as it is: what its filesystem can do is found out by trying, and what it refuses is named at once."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from hive.errors import DiskFull, StoreNotWritable
from hive.settings import Settings
from hive.store import probe as module
from hive.store.filesystem import StoreLimits, check_names, partial_place, same_filesystem
from hive.store.probe import StoreHealth, probe
from tests.support.mounts import mounted, read_only
from tests.support.settings import settings_for
from tests.support.store import everything_below


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path)


def test_an_ordinary_disk_can_do_everything_and_nothing_is_left_on_it(settings: Settings) -> None:
    assert probe(settings).sentences() == []
    assert everything_below(settings.store_dir) == {"hub", "hive", "hive/partial"}


def test_a_filesystem_without_links_and_case_is_seen_to_be_one(settings: Settings) -> None:
    with mounted("exfat", settings.store_dir):
        limits = probe(settings)
        assert (limits.symlinks, limits.hardlinks, limits.case_sensitive) == (False, False, False)
        assert everything_below(settings.store_dir) == {"hub", "hive", "hive/partial"}


def test_a_disk_that_is_read_only_is_refused_with_its_path(settings: Settings) -> None:
    with mounted("tmpfs", settings.store_dir):
        probe(settings)
        read_only(settings.store_dir)
        with pytest.raises(StoreNotWritable, match="Read-only file system") as caught:
            probe(settings)
    assert caught.value.details["path"].startswith(str(settings.store_dir))


def test_a_disk_without_a_single_inode_left_is_full(settings: Settings) -> None:
    with mounted("tmpfs", settings.store_dir, "nr_inodes=4"):
        settings.hub_dir.mkdir()
        (settings.store_dir / "hive" / "partial").mkdir(parents=True)
        with pytest.raises(DiskFull, match=r"no inode left .*No space left on device: /"):
            probe(settings)


def test_a_store_in_place_of_which_there_is_a_file_is_named(settings: Settings) -> None:
    settings.store_dir.write_text("a file")
    with pytest.raises(StoreNotWritable, match=str(settings.store_dir)):
        probe(settings)


def test_partial_files_lie_where_the_cache_lies_that_is_a_link_to_another_disk(
    settings: Settings, tmp_path: Path
) -> None:
    with mounted("tmpfs", tmp_path / "disk") as disk:
        (disk / "models").mkdir()
        settings.store_dir.mkdir()
        settings.hub_dir.symlink_to(disk / "models")
        assert not same_filesystem(settings.hub_dir, settings.hive_dir)
        assert partial_place(settings).path == settings.hub_dir / ".hive" / "partial"
        assert partial_place(settings, for_url=True).path == settings.hive_dir / "partial"
        assert probe(settings).sentences() == []


def test_two_mounts_of_one_disk_are_two_filesystems_to_a_rename(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with mounted("bind", settings.hub_dir, str(tmp_path / "elsewhere")):
        assert os.stat(settings.hub_dir).st_dev == os.stat(settings.store_dir).st_dev
        assert not same_filesystem(settings.hub_dir, settings.hive_dir)
        probe(settings)


def test_a_cache_that_is_a_mount_of_its_own_keeps_everything_of_hive_s_inside(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "cache") as cache:
        settings = Settings.from_env({"HF_HUB_CACHE": str(cache)})
        assert settings.hive_dir == cache / ".hive"
        probe(settings)
        assert everything_below(tmp_path) == {"cache", "cache/.hive", "cache/.hive/partial"}


@pytest.mark.parametrize(
    ("limits", "paths", "said"),
    [
        (StoreLimits(max_name_bytes=143), ["ok", "deep/" + "x" * 144 + "/f"], "144 bytes"),
        (StoreLimits(case_sensitive=False), ["README.md", "readme.md"], "one name"),
        (StoreLimits(case_sensitive=False), ["A/x", "a/x"], "one name"),
        (StoreLimits(unicode_kept=False), ["caf\u00e9", "cafe\u0301"], "one name"),
        (StoreLimits(case_sensitive=False), ["caf\u00c9", "cafe\u0301"], "one name"),
        (StoreLimits(case_sensitive=False), ["Weights", "weights/a.bin"], "a file, and a folder"),
    ],
)
def test_names_that_the_disk_cannot_hold_side_by_side_are_refused_before_a_byte(
    limits: StoreLimits, paths: list[str], said: str
) -> None:
    with pytest.raises(StoreNotWritable, match=said):
        check_names(paths, limits, Path("/store/hub"))
    check_names(paths, StoreLimits(), Path("/store/hub"))


async def _refusals(health: StoreHealth) -> str | None:
    error = await health.refusal()
    return error.message if error else None


def test_readiness_says_why_not_and_recovers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    health = StoreHealth(settings)

    async def look() -> list[str | None]:
        settings.store_dir.write_text("in the way")
        first = await _refusals(health)
        settings.store_dir.unlink()
        return [first, await _refusals(health)]

    first, second = asyncio.run(look())
    assert first is not None
    assert str(settings.store_dir) in first
    assert second is None


def test_that_it_is_another_store_is_told_before_an_answer_that_still_counts(settings: Settings) -> None:
    async def look() -> list[str | None]:
        health = StoreHealth(settings)
        before = await _refusals(health)
        health.objection = "Is a mount missing?"
        return [before, await _refusals(health)]

    assert asyncio.run(look()) == [None, "Is a mount missing?"]


def test_a_filesystem_that_hangs_is_told_and_keeps_nobody_waiting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.05)
    back = threading.Event()
    monkeypatch.setattr(module, "probe", lambda _: back.wait(30))

    async def look() -> str | None:
        try:
            return await _refusals(StoreHealth(settings))
        finally:
            back.set()

    said = asyncio.run(look())
    assert said is not None
    assert "does not answer" in said


@pytest.mark.parametrize("paths", [["weights", "weights/a/b.bin"], ["a/b/c", "x", "a"], ["a/b", "c", "a/b"]])
def test_a_listing_that_no_filesystem_can_hold_is_refused(paths: list[str]) -> None:
    with pytest.raises(StoreNotWritable, match=r"a file, and a folder|one name"):
        check_names(paths, StoreLimits(), Path("/store/hub"))
