"""The key that encrypts credentials: made once, on any disk, or refused with what to do; what sealed ones open for."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import msgspec
import pytest
from cryptography.fernet import Fernet

from hive.errors import StoreNotWritable
from hive.key_file import is_private
from hive.secrets import (
    LEGACY_SKEW_S,
    Credentials,
    Purpose,
    SecretKeyError,
    check_key,
    ensure_key,
    purpose_of,
    seal,
    seal_text,
    unseal,
    unseal_text,
)
from hive.wire.refs import parse_ref
from tests.support.mounts import mounted, read_only

CREDENTIALS = Credentials(hf_token="hf_canary")
PURPOSE = Purpose("download", "one", "https://huggingface.co:443")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV])
def test_the_key_is_made_where_the_disk_has_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", refuse)
    key = tmp_path / "home" / "secret.key"

    assert unseal(seal(CREDENTIALS, key, PURPOSE), key, PURPOSE) == CREDENTIALS
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [path.name for path in key.parent.iterdir() if "lock" not in path.name] == ["secret.key"]


def test_the_key_is_made_on_a_real_disk_without_links(tmp_path: Path) -> None:
    with mounted("exfat", tmp_path / "stick") as disk:
        key = disk / "home" / "secret.key"
        assert unseal(seal(CREDENTIALS, key, PURPOSE), key, PURPOSE) == CREDENTIALS


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
    key.touch(0o600)
    with pytest.raises(StoreNotWritable, match="it holds no key"):
        seal(CREDENTIALS, key, PURPOSE)
    with pytest.raises(SecretKeyError, match="HIVE_SECRET_KEY_FILE"):
        unseal(b"", key, PURPOSE)


@pytest.mark.parametrize(
    "other",
    [
        Purpose("download", "two", PURPOSE.origin),
        Purpose("download", "one", "https://evil.example:443"),
        Purpose("download", "one", "http://huggingface.co:443"),
        Purpose("download", "one", "https://huggingface.co:444"),
        Purpose("plan", "one", PURPOSE.origin),
        Purpose("webhook", "one", PURPOSE.origin),
        Purpose("download", f"one{PURPOSE.origin}", ""),
        Purpose("download", 'one","https://huggingface.co:443', ""),
    ],
    ids=str,
)
def test_credentials_open_only_for_what_they_were_sealed_for(tmp_path: Path, other: Purpose) -> None:
    key = tmp_path / "secret.key"
    sealed = seal(CREDENTIALS, key, PURPOSE)
    assert unseal(sealed, key, PURPOSE) == CREDENTIALS
    with pytest.raises(SecretKeyError, match="another download or origin"):
        unseal(sealed, key, other)
    with pytest.raises(SecretKeyError):
        unseal_text(sealed, key, other)


def test_a_webhook_address_opens_only_for_its_download(tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    sealed = seal_text("https://hooks.example/secret", key, Purpose("webhook", "one"))
    assert unseal_text(sealed, key, Purpose("webhook", "one")) == "https://hooks.example/secret"
    for other in (Purpose("webhook", "two"), Purpose("download", "one")):
        with pytest.raises(SecretKeyError):
            unseal_text(sealed, key, other)


def test_what_was_altered_or_cut_does_not_open(tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    sealed = seal(CREDENTIALS, key, PURPOSE)
    for number in range(0, len(sealed), 7):
        altered = bytearray(sealed)
        altered[number] ^= 1
        for text in (bytes(altered), sealed[:number]):
            with pytest.raises(SecretKeyError):
                unseal(text, key, PURPOSE)


def test_the_same_credentials_are_never_sealed_alike(tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    assert len({seal(CREDENTIALS, key, PURPOSE) for _ in range(100)}) == 100


def test_what_the_version_before_sealed_opens_for_the_download_that_was_made_then(tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    ensure_key(key)
    now_s = 1_700_000_000
    sealed = Fernet(key.read_bytes()).encrypt_at_time(msgspec.json.encode(CREDENTIALS), now_s)
    assert unseal(sealed, key, PURPOSE, made_s=now_s) == CREDENTIALS
    assert unseal(sealed, key, PURPOSE, made_s=now_s - LEGACY_SKEW_S) == CREDENTIALS
    for made_s in (None, now_s + LEGACY_SKEW_S + 1, now_s - LEGACY_SKEW_S - 1, 0.0):
        with pytest.raises(SecretKeyError):
            unseal(sealed, key, PURPOSE, made_s)
    ensure_key(tmp_path / "other.key")
    with pytest.raises(SecretKeyError):
        unseal(sealed, tmp_path / "other.key", PURPOSE, made_s=now_s)


def test_a_token_is_for_the_hub_and_a_query_for_the_origin_of_its_url() -> None:
    endpoint = "https://huggingface.co"
    assert purpose_of("download", "one", parse_ref("hf:org/name"), endpoint) == PURPOSE
    assert purpose_of("download", "one", parse_ref("hf:org/name"), endpoint + ":443/") == PURPOSE
    of_url = purpose_of("download", "one", parse_ref("https://Files.Example:8443/a?sig=1"), endpoint)
    assert of_url.origin == "https://files.example:8443"


@pytest.mark.parametrize(
    ("mode", "private"), [(0o600, True), (0o400, True), (0o440, False), (0o640, False), (0o604, False)]
)
def test_an_own_file_is_private_when_nobody_else_reads_it(tmp_path: Path, mode: int, private: bool) -> None:
    file = tmp_path / "secret"
    file.touch()
    file.chmod(mode)
    assert is_private(file.stat()) is private


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
@pytest.mark.parametrize(
    ("mode", "private"), [(0o440, True), (0o400, True), (0o640, True), (0o460, False), (0o444, False)]
)
def test_a_file_that_an_orchestrator_mounts_for_a_group_is_private(tmp_path: Path, mode: int, private: bool) -> None:
    file = tmp_path / "secret"
    file.touch()
    os.chown(file, 12345, 12345)
    file.chmod(mode)
    assert is_private(file.stat()) is private
