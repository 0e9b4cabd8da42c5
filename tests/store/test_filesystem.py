"""Which filesystems other machines may have mounted too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hive.settings import Settings
from hive.store.filesystem import is_shared
from tests.support.settings import settings_for
from workers.fetch import SHARED_SYNC_BYTES, limits_of
from workers.transfer import Limits


def mounts_with(folder: Path, kind: str) -> Path:
    """A list of mounts in which the filesystem of this folder is of that kind."""
    device = os.stat(folder).st_dev
    found = folder / "mountinfo"
    found.write_text(
        "22 1 0:1 / /proc rw - proc proc rw\n"
        f"36 22 {os.major(device)}:{os.minor(device)} / /srv rw,noatime shared:1 - {kind} server:/models rw,hard\n"
    )
    return found


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "ceph", "virtiofs", "fuse", "fuse.sshfs", "fuse.glusterfs"])
def test_a_share_is_one_that_others_may_have(tmp_path: Path, kind: str) -> None:
    assert is_shared(tmp_path / "not" / "there" / "yet", mounts_with(tmp_path, kind))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "fuseblk", "overlay"])
def test_a_disk_of_this_machine_is_none(tmp_path: Path, kind: str) -> None:
    assert not is_shared(tmp_path, mounts_with(tmp_path, kind))


def test_nothing_is_known_where_the_system_tells_nothing(tmp_path: Path) -> None:
    assert not is_shared(tmp_path, tmp_path / "no such file")
    (tmp_path / "broken").write_text("\n36 22\n - nfs4\n")
    assert not is_shared(tmp_path, tmp_path / "broken")


def test_what_another_machine_may_have_to_go_on_from_is_synced_more_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: Settings = settings_for(tmp_path)
    assert limits_of(settings).sync_every_bytes == Limits().sync_every_bytes
    monkeypatch.setattr("workers.fetch.is_shared", lambda folder: folder == settings.hub_dir)
    assert limits_of(settings).sync_every_bytes == SHARED_SYNC_BYTES
