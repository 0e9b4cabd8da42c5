"""The store's id: named once, by the first server, and compared by workers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hive.settings import Settings
from hive.store.store_id import difference, ensure_identity, read_identity
from tests.support.mounts import mounted
from tests.support.settings import settings_for


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path)


def test_a_store_is_named_once(settings: Settings) -> None:
    assert read_identity(settings).id is None
    named = ensure_identity(settings)
    assert named.id is not None
    assert ensure_identity(settings) == read_identity(settings) == named
    assert [path.name for path in settings.hive_dir.iterdir()] == ["store-id"]


def test_servers_that_start_at_once_agree(settings: Settings) -> None:
    named = []
    threads = [threading.Thread(target=lambda: named.append(ensure_identity(settings))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(named) == 12
    assert len({identity.id for identity in named}) == 1


def test_a_name_that_is_none_is_replaced(settings: Settings) -> None:
    settings.hive_dir.mkdir(parents=True)
    (settings.hive_dir / "store-id").write_text("")
    assert ensure_identity(settings).id is not None


def test_a_store_without_links_is_named_too(settings: Settings) -> None:
    with mounted("exfat", settings.store_dir):
        assert ensure_identity(settings).id is not None


def test_two_stores_are_told_apart_with_both_paths_and_one_under_two_paths_is_one(tmp_path: Path) -> None:
    one, other = settings_for(tmp_path / "one"), settings_for(tmp_path / "other")
    servers = ensure_identity(one)
    missing = difference(read_identity(other), servers)
    assert missing is not None
    assert str(one.hive_dir) in missing
    assert str(other.hive_dir) in missing
    assert difference(ensure_identity(other), servers) is not None
    one.store_dir.rename(tmp_path / "moved")
    moved = Settings.from_env({"HIVE_STORE": str(tmp_path / "moved")})
    assert difference(read_identity(moved), servers) is None
