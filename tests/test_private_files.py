"""Who may read and change what hive writes: nothing of HIVE_HOME, and a key that others can touch is refused."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.auth.keys import KeyFile
from hive.errors import StoreNotWritable
from hive.key_file import read_key_file
from hive.processes.embedded_redis import EmbeddedRedis
from hive.processes.log_file import open_log
from hive.secrets import Credentials, Purpose, SecretKeyError, check_key, ensure_key, fingerprint, seal, unseal
from hive.store.dirfd import copy_file, open_folder, write_file

PURPOSE = Purpose("download", "id")


@pytest.fixture
def home() -> Iterator[Path]:
    """A HIVE_HOME with a path that is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="hive-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(root: Path) -> list[str]:
    """What others could read or change below a folder that they can enter."""
    found = []
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            if path.lstat().st_mode & 0o077 and not path.is_symlink():
                found.append(str(path))
        folders[:] = [name for name in folders if (Path(folder) / name).stat().st_mode & 0o077]
    return found


def test_nothing_of_the_home_is_open_to_others_whatever_the_umask(no_umask: None, home: Path) -> None:
    home.chmod(0o755)
    ensure_key(home / "secret.key")
    KeyFile(home / "keys.json").add("ci", ["read"])
    with open_log(home / "hive.log") as log:
        log.write(b"line\n")
    redis = EmbeddedRedis(home).start()
    try:
        assert open_to_others(home) == []
    finally:
        redis.stop()
    assert open_to_others(home) == []


def test_content_of_the_store_is_changed_by_nobody_else(no_umask: None, tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        write_file(folder, "a", b"x")
        copy_file(folder, "a", folder, "b")
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o664}


def test_folders_of_the_store_let_nobody_else_put_another_file_in_place_of_one(no_umask: None, tmp_path: Path) -> None:
    with open_folder(tmp_path / "data" / "store", "hub", "models--a--b", create=True):
        pass
    made = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    assert len(made) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o775}


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o604, 0o602, 0o660, 0o620, 0o777, 0o601])
def test_a_secret_key_that_others_can_touch_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    key = tmp_path / "secret.key"
    sealed = seal(Credentials(hf_token="hf_x"), key, PURPOSE)
    key.chmod(mode)
    with pytest.raises(StoreNotWritable, match="chmod 600"):
        check_key(key)
    with pytest.raises(StoreNotWritable, match="chmod 600"):
        seal(Credentials(), key, PURPOSE)
    with pytest.raises(StoreNotWritable, match="chmod 600"):
        fingerprint("x", key)
    with pytest.raises(SecretKeyError, match="chmod 600"):
        unseal(sealed, key, PURPOSE)
    key.chmod(0o600)
    assert unseal(sealed, key, PURPOSE).hf_token == "hf_x"
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"], "nothing is left of the look"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_key_of_this_user_or_for_a_group_to_read_is_taken(tmp_path: Path, mode: int) -> None:
    key = tmp_path / "secret.key"
    ensure_key(key)
    key.chmod(mode)
    check_key(key)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_secret_key_of_another_user_is_refused_unless_the_folder_is_theirs(tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    ensure_key(key)
    os.chown(key, 12345, 12345)
    with pytest.raises(StoreNotWritable, match="another user"):
        check_key(key)
    os.chown(tmp_path, 12345, 12345)
    check_key(key)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "link to a pipe"])
def test_a_secret_key_that_is_no_plain_file_is_refused_and_not_waited_for(home: Path, kind: str) -> None:
    key = home / "secret.key"
    if kind == "pipe":
        os.mkfifo(key, 0o600)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(key))
    elif kind == "device":
        key.symlink_to("/dev/zero")
    elif kind == "folder":
        key.mkdir(0o700)
    else:
        os.mkfifo(home / "pipe", 0o600)
        key.symlink_to(home / "pipe")
    with pytest.raises(StoreNotWritable):
        check_key(key)
    with pytest.raises(SecretKeyError):
        unseal(b"2.AAAA", key, PURPOSE)


def test_where_a_filesystem_has_no_modes_the_key_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As exFAT shows them: every file like every other."""
    key = tmp_path / "secret.key"
    ensure_key(key)
    key.chmod(0o777)
    real = os.fstat

    def without_modes(descriptor: int) -> os.stat_result:
        mode, *others = real(descriptor)
        return os.stat_result((int(mode) | 0o777, *others))

    monkeypatch.setattr(os, "fstat", without_modes)
    assert read_key_file(key)
