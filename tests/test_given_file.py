"""Files that settings name: whatever it is that they name, reading it ends, and says what is wrong."""

from __future__ import annotations

import os
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from hive import given_file
from hive.client.api_key import read_key
from hive.given_file import read_given_file
from hive.redis.probe import report
from hive.settings import Settings, SettingsError
from tests.support.waiting import wait_for

#: Bytes of a file without blocks on the disk.
HUGE = 100 << 30


def place(path: Path, kind: str) -> Path:
    """Something that is no file with a secret, at this path."""
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("other"), 0o600)
        path.symlink_to("other")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.truncate(HUGE)
    return path


KINDS = ("pipe", "link to a pipe", "device", "folder", "socket", "huge file")


def _settings(name: str) -> Callable[[str], object]:
    return lambda path: Settings.from_env({name: path})


def _redis(name: str) -> Callable[[str], object]:
    """A server that cannot be reached: its files are looked at before."""
    env = {"REDIS_URL": "rediss://127.0.0.1:1/0", "HIVE_REDIS_CHECKS": "warn"}
    return lambda path: report(Settings.from_env({**env, name: path}))


#: By variable: who reads the file, and what they raise.
READERS: dict[str, tuple[Callable[[str], object], type[Exception]]] = {
    "HIVE_REDIS_URL_FILE": (_settings("HIVE_REDIS_URL_FILE"), SettingsError),
    "HF_TOKEN_FILE": (_settings("HF_TOKEN_FILE"), SettingsError),
    "HF_TOKEN_PATH": (_settings("HF_TOKEN_PATH"), SettingsError),
    "REQUESTS_CA_BUNDLE": (_settings("REQUESTS_CA_BUNDLE"), SettingsError),
    "HIVE_CA_FILE": (_settings("HIVE_CA_FILE"), SettingsError),
    "HIVE_API_KEY_FILE": (lambda path: read_key(None, path), ValueError),
    "HIVE_REDIS_CA_FILE": (_redis("HIVE_REDIS_CA_FILE"), SettingsError),
}


#: What is told in the way in which an absent file is, in tests/redis/test_refusals.py: nobody waits for it.
OTHERS: dict[str, tuple[str, ...]] = defaultdict(tuple, HIVE_REDIS_CA_FILE=("folder", "socket"))


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in READERS for kind in KINDS if kind not in OTHERS[name]]
)
def test_what_is_no_file_to_read_is_refused_by_the_name_of_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.setattr(given_file, "WRITER_WAIT_S", 0.2)
    path = place(tmp_path / "given", kind)
    read, error = READERS[name]
    with pytest.raises(error) as told:
        read(str(path))
    shown = "SSL_CERT_FILE" if name == "HIVE_CA_FILE" else "ssl_ca_certs" if "REDIS_CA" in name else name
    assert shown in str(told.value)
    assert str(path) in str(told.value)


def test_a_pipe_that_somebody_writes_to_late_and_in_pieces_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_file, "WRITER_WAIT_S", 60.0)
    pipe = place(tmp_path / "pipe", "pipe")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read_given_file(pipe, 100)))
    reader.start()
    with open(pipe, "wb", buffering=0) as writer:  # waits for the reader
        writer.write(b"hf_")
        writer.write(b"token")
        assert not found, "its end has not come"
    reader.join(60)
    assert found == [b"hf_token"]


def test_a_pipe_without_end_is_read_to_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_file, "WRITER_WAIT_S", 60.0)
    pipe = place(tmp_path / "pipe", "pipe")
    errors: list[OSError] = []

    def read() -> None:
        try:
            read_given_file(pipe, 1000)
        except OSError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    with open(pipe, "wb", buffering=0) as writer:
        writer.write(b"x" * 2000)
        wait_for(lambda: errors)
    reader.join(60)
    assert errors[0].strerror == "it holds more than 1000 bytes"
