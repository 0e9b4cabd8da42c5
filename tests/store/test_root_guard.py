"""The folders of a store are those that a process began with, or nothing is read or written there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.errors import StoreMissing
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.dirfd import open_folder
from hive.store.inventory import all_targets, target
from hive.store.probe import probe
from hive.store.root_guard import GUARD
from hive.store.store_id import STORE_ID, ensure_identity, keep_to, missing
from hive.wire.refs import parse_ref
from tests.support.mounts import mounted
from tests.support.settings import settings_for


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A store in use: it has an id, a cache with something in it, and is guarded."""
    made = settings_for(tmp_path)
    identity = ensure_identity(made)
    (made.hub_dir / "models--org--name").mkdir(parents=True)
    keep_to(made, identity)
    yield made
    GUARD.forget()


def away(folder: Path) -> Path:
    """What a lazy umount leaves: the folder's name, and nothing in it."""
    gone = folder.with_name(f"{folder.name}-gone")
    folder.rename(gone)
    folder.mkdir()
    return gone


def back(gone: Path, folder: Path) -> None:
    for left in folder.iterdir():
        raise AssertionError(f"something was written where nothing is mounted: {left}")
    folder.rmdir()
    gone.rename(folder)


def test_a_store_that_is_there_is_there(settings: Settings) -> None:
    assert missing(settings) is None
    probe(settings)


def test_nothing_is_read_or_written_where_the_store_was(settings: Settings) -> None:
    gone = away(settings.store_dir)
    catalog = ModelCatalog(settings)
    for act in (
        lambda: probe(settings),
        lambda: catalog.list(),
        lambda: catalog.find(parse_ref("org/name")),
        lambda: catalog.tree("org/name", "0" * 40),
        lambda: all_targets(settings),
        lambda: target(settings, "org/name"),
        lambda: ensure_identity(settings),
    ):
        with pytest.raises(StoreMissing, match="restart hive"):
            act()
    found = missing(settings)
    assert found is not None
    assert found.details["path"].startswith(str(settings.store_dir))
    back(gone, settings.store_dir)
    assert missing(settings) is None
    assert [target.folder for target in all_targets(settings)] == ["models--org--name"]


def test_a_folder_that_is_gone_with_its_name_is_not_made_again(settings: Settings) -> None:
    gone = settings.store_dir.with_name("moved")
    settings.store_dir.rename(gone)
    with pytest.raises(StoreMissing):
        probe(settings)
    assert not settings.store_dir.exists()


def test_another_store_in_its_place_is_not_it(settings: Settings) -> None:
    gone = away(settings.store_dir)
    GUARD.forget()
    theirs = ensure_identity(settings)  # somebody else's, with an id of its own
    settings.store_dir.rename(settings.store_dir.with_name("theirs"))
    gone.rename(settings.store_dir)
    keep_to(settings, ensure_identity(settings))
    settings.store_dir.rename(gone)
    settings.store_dir.with_name("theirs").rename(settings.store_dir)
    assert GUARD.store_id != theirs.id
    assert missing(settings) is not None
    with pytest.raises(StoreMissing), open_folder(settings.hub_dir, create=True):
        pass


def test_a_cache_that_is_emptied_by_hand_is_made_again(settings: Settings) -> None:
    (settings.hub_dir / "models--org--name").rmdir()
    settings.hub_dir.rmdir()
    probe(settings)
    assert settings.hub_dir.is_dir()


def test_the_same_store_mounted_again_elsewhere_is_it(settings: Settings, tmp_path: Path) -> None:
    """Another device, other inodes: what a share is after its server was restarted."""
    text = (settings.hive_dir / STORE_ID).read_text()
    with mounted("tmpfs", settings.store_dir):
        assert missing(settings) is not None
        (settings.store_dir / "hive").mkdir()
        (settings.store_dir / "hive" / STORE_ID).write_text(text)
        assert missing(settings) is None
        probe(settings)
    assert missing(settings) is None


def test_a_cache_on_a_disk_of_its_own_that_goes_is_missing_though_the_id_is_there(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with mounted("tmpfs", settings.hub_dir):
        identity = ensure_identity(settings)
        probe(settings)  # makes the folder for partial files on that disk
        keep_to(settings, identity)
        try:
            assert missing(settings) is None
            assert os.system(f"umount -l {settings.hub_dir}") == 0
            with pytest.raises(StoreMissing):
                probe(settings)
            assert not list(settings.hub_dir.iterdir())
        finally:
            GUARD.forget()


def test_a_process_that_guards_nothing_makes_what_it_needs(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    assert missing(settings) is None
    probe(settings)
