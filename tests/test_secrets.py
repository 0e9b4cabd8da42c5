"""The key that encrypts credentials: made once, on any disk, or refused with what to do."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from hive.errors import StoreNotWritable
from hive.secrets import Credentials, SecretKeyError, check_key, ensure_key, seal, unseal
from tests.support.mounts import mounted, read_only

CREDENTIALS = Credentials(hf_token="hf_canary")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV])
def test_the_key_is_made_where_the_disk_has_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", refuse)
    key = tmp_path / "home" / "secret.key"

    assert unseal(seal(CREDENTIALS, key), key) == CREDENTIALS
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [path.name for path in key.parent.iterdir() if "lock" not in path.name] == ["secret.key"]


def test_the_key_is_made_on_a_real_disk_without_links(tmp_path: Path) -> None:
    with mounted("exfat", tmp_path / "stick") as disk:
        key = disk / "home" / "secret.key"
        assert unseal(seal(CREDENTIALS, key), key) == CREDENTIALS


@pytest.mark.parametrize("links", [True, False])
def test_many_that_make_the_key_at_once_agree_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    key = tmp_path / "secret.key"
    found: list[bytes] = []

    def make() -> None:
        ensure_key(key)
        found.append(key.read_bytes())

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 16
    assert set(found) == {key.read_bytes()}


def test_a_home_that_cannot_be_written_is_named_with_what_to_set(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "home") as home:
        read_only(home)
        with pytest.raises(StoreNotWritable, match="HIVE_HOME") as caught:
            check_key(home / "secret.key")
    assert str(home) in caught.value.message
    assert caught.value.status == 507


def test_a_key_that_is_none_is_refused_on_both_sides(tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    key.write_text("")
    with pytest.raises(StoreNotWritable, match="it holds no key"):
        seal(CREDENTIALS, key)
    with pytest.raises(SecretKeyError, match="HIVE_SECRET_KEY_FILE"):
        unseal(b"", key)
