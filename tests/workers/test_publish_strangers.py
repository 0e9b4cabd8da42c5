"""Links that somebody planted in the store, and disks that refuse."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from hive.errors import DiskFull, DownloadError, StoreNotWritable
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.wire.refs import parse_ref
from tests.hub import HubServer
from tests.support.plans import MODEL, download, fetch_into, plan_for, repo_folder
from workers.publish import Store


@pytest.fixture
def settings(hub_settings: Settings) -> Settings:
    return hub_settings


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings)


@pytest.mark.parametrize(
    "planted",
    ["", "blobs", "snapshots", "snapshots/{commit}", "snapshots/{commit}/deep", "refs", "trees"],
)
def test_a_folder_that_is_a_link_is_not_followed(
    hub: HubServer, settings: Settings, tmp_path: Path, planted: str
) -> None:
    commit = hub.create("org/name", MODEL).at("main").sha
    outside = tmp_path / "outside"
    outside.mkdir()
    link = repo_folder(settings) / planted.format(commit=commit) if planted else repo_folder(settings)
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)

    with pytest.raises(StoreNotWritable, match="link"):
        download(settings, plan_for(settings, "org/name"))

    assert os.listdir(outside) == []


@pytest.mark.parametrize("planted", ["partial", "files"])
def test_hives_own_folders_are_not_followed_either(
    hub: HubServer, settings: Settings, tmp_path: Path, planted: str
) -> None:
    url = hub.plain("/file.gguf", b"content")
    (tmp_path / "outside").mkdir()
    settings.hive_dir.mkdir(parents=True)
    (settings.hive_dir / planted).symlink_to(tmp_path / "outside")

    with pytest.raises(StoreNotWritable, match="link"):
        download(settings, plan_for(settings, url))

    assert os.listdir(tmp_path / "outside") == []


def test_a_planted_file_link_is_replaced_and_its_target_untouched(
    hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    commit = hub.create("org/name", MODEL).at("main").sha
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep me")
    plan = plan_for(settings, "org/name")
    etag = next(file.etag for file in plan.files if file.path == "config.json")
    for place in (f"snapshots/{commit}/config.json", f"blobs/{etag}", "refs/main", f"trees/{commit}.json"):
        link = repo_folder(settings) / place
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(precious)

    download(settings, plan)

    assert precious.read_bytes() == b"keep me"
    assert scan_cache_dir(settings.hub_dir).warnings == []
    assert ModelCatalog(settings).find(parse_ref("org/name")) is not None


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, StoreNotWritable)]
)
def test_a_disk_that_refuses_is_reported_as_such(
    hub: HubServer,
    settings: Settings,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[DownloadError],
) -> None:
    hub.create("org/name", {"config.json": b"{}"})
    plan = plan_for(settings, "org/name")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.replace", refuse)

    with pytest.raises(error):
        fetch_into(store, plan, plan.files[0])


def test_a_filesystem_without_links_gets_the_files_themselves(
    hub: HubServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create("org/name", MODEL)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr("os.symlink", refuse)
    store = download(settings, plan := plan_for(settings, "org/name"))

    snapshot = Path(store.local_path(plan))
    assert not (snapshot / "deep/model.safetensors").is_symlink()
    assert store.missing(plan) == ()
    assert ModelCatalog(settings).find(parse_ref("org/name")) is not None
    assert scan_cache_dir(settings.hub_dir).warnings == []
