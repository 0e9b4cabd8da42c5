"""The key file: what it holds, who may read it, and what two writers at once do to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hive.auth import keys
from hive.auth.keys import (
    KEY,
    MAX_ENDED_OF_KEY,
    MAX_ENDED_SESSIONS,
    KeyFile,
    digest_of,
    new_session_id,
    remembered,
)
from hive.auth.scopes import Scope
from hive.errors import BadRequest, KeyFileUnusable, NotFound
from hive.processes.children import bound_to_us


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "home" / "keys.json")


def test_a_key_is_kept_as_its_digest_in_a_file_of_this_user_alone(file: KeyFile) -> None:
    made = file.add("ci", ["read", "pull"], owner="team", expires_in_s=60)

    assert KEY.fullmatch(made.text)
    assert made.text[5:13] == made.key.id
    held = file.path.read_text()
    assert made.text not in held
    assert made.text[14:] not in held
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700
    (found,) = file.read().keys
    assert found == made.key
    assert (found.sha256, found.scopes, found.owner) == (digest_of(made.text), ("read", "pull"), "team")
    assert found.expires_s == pytest.approx(time.time() + 60, abs=30)
    assert made.text not in repr(made)


def test_a_key_in_the_form_of_the_hub_looks_like_its_tokens_and_is_known_by_its_id(file: KeyFile) -> None:
    made, other = file.add("llama.cpp", ["pull"], in_hub_form=True), file.add("ci", ["pull"])
    assert re.fullmatch("hf_[0-9A-Za-z]{55}", made.text)
    assert [keys.id_of(each.text) for each in (made, other)] == [made.key.id, other.key.id]
    assert {key.sha256 for key in file.read().keys} == {digest_of(made.text), digest_of(other.text)}


@pytest.mark.parametrize("text", ["", "hive_", "hf_hive", "hf_" + "a" * 34, "hf_hive" + "a" * 30, "xhive_" + "a" * 52])
def test_what_is_no_key_has_no_id_and_a_token_of_the_hub_is_none(text: str) -> None:
    assert keys.id_of(text) == ""
    assert bool(keys.LIKE_KEY.fullmatch(text)) == (text == "hive_")


def test_a_key_without_an_owner_is_its_own(file: KeyFile) -> None:
    made = file.add("ci", ["read"])
    assert made.key.owner == made.key.id


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o602, 0o666, 0o777, 0o601])
def test_a_file_that_others_can_touch_is_refused_with_what_to_do(file: KeyFile, mode: int) -> None:
    file.add("ci", ["read"])
    file.path.chmod(mode)

    for call in (file.read, lambda: file.add("two", ["read"]), lambda: file.revoke("k"), lambda: file.note_uses({})):
        with pytest.raises(KeyFileUnusable, match=f"chmod 600 {file.path}"):
            call()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"keys": {}}',
        b'{"keys": [{"id": "x"}]}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"keys":[{"id":"aaaaaaaa","name":"n","sha256":"0","scopes":["read"],"owner":"o","created_s":0}]}',
        b'{"keys":[{"id":"aaaaaaaa","name":"n","sha256":"'
        + b"\xc3\xa9" * 64
        + b'","scopes":["read"],"owner":"o","created_s":0}]}',
        b'{"keys":[{"id":"UPPER123","name":"n","sha256":"0","scopes":[],"owner":"o","created_s":0}]}',
        b'{"keys":[{"id":"aaaaaaaa","name":"n","sha256":"0","scopes":["root"],"owner":"o","created_s":0}]}',
        b'{"keys":['
        + b",".join(
            [b'{"id":"aaaaaaaa","name":"n","sha256":"%064d","scopes":["read"],"owner":"o","created_s":0}' % 0] * 2
        )
        + b"]}",
    ],
)
def test_what_is_no_key_file_is_refused_and_left_as_it_is(file: KeyFile, content: bytes) -> None:
    file.path.parent.mkdir(mode=0o700)
    file.path.write_bytes(content)
    file.path.chmod(0o600)

    for call in (file.read, lambda: file.add("two", ["read"])):
        with pytest.raises(KeyFileUnusable):
            call()
    assert file.path.read_bytes() == content


@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling link is nothing"])
def test_what_is_no_regular_file_is_refused(file: KeyFile, kind: str) -> None:
    file.path.parent.mkdir(mode=0o700)
    if kind == "folder":
        file.path.mkdir(mode=0o700)
    elif kind == "fifo":
        os.mkfifo(file.path, 0o600)
    else:
        file.path.symlink_to("nowhere")
        assert file.read().keys == ()
        return
    with pytest.raises(KeyFileUnusable):
        file.read()


def test_a_revoked_key_stays_in_the_file_for_a_while_so_that_keys_stay_on(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = file.add("ci", ["read"])
    revoked = file.revoke(made.key.id)
    again = file.revoke(made.key.id)

    assert [key.id for key in file.read().keys] == [made.key.id]
    assert revoked.state(time.time()) == "revoked"
    assert again == revoked
    with pytest.raises(NotFound):
        file.revoke("zzzzzzzz")

    monkeypatch.setattr(keys, "DEAD_KEPT_S", -1.0)
    new = file.add("next", ["read"])
    assert [key.id for key in file.read().keys] == [new.key.id]


def test_a_key_ends_when_it_expires(file: KeyFile) -> None:
    key = file.add("ci", ["read"], expires_in_s=60).key
    assert key.expires_s is not None
    assert key.state(key.expires_s - 1) == "active"
    assert key.state(key.expires_s) == "expired"


@pytest.mark.parametrize(
    ("name", "scopes", "owner", "expires_in_s"),
    [
        ("", ["read"], "", None),
        ("n" * 65, ["read"], "", None),
        ("two\nlines", ["read"], "", None),
        ("\x1b[31m", ["read"], "", None),
        (" n", ["read"], "", None),
        ("n", [], "", None),
        ("n", ["root"], "", None),
        ("n", ["read"], "o\x00", None),
        ("n", ["read"], "", 0.0),
        ("n", ["read"], "", -1.0),
        ("n", ["read"], "", float("inf")),
        ("n", ["read"], "", float("nan")),
    ],
)
def test_a_key_that_cannot_be_is_not_made(
    file: KeyFile, name: str, scopes: list[Scope], owner: str, expires_in_s: float | None
) -> None:
    with pytest.raises(BadRequest):
        file.add(name, scopes, owner=owner, expires_in_s=expires_in_s)
    assert not file.path.exists()


def test_a_last_use_is_noted_and_never_goes_back(file: KeyFile) -> None:
    made = file.add("ci", ["read"])
    file.note_uses({made.key.id: 1000.0, "unknown1": 1000.0})
    file.note_uses({made.key.id: 1030.0})  # no news: within the minute
    file.note_uses({made.key.id: 500.0})
    assert [key.used_s for key in file.read().keys] == [1000.0]
    file.note_uses({made.key.id: 1060.0})
    assert [key.used_s for key in file.read().keys] == [1060.0]


def test_a_server_that_notes_something_does_not_bring_a_file_back_that_is_gone(file: KeyFile) -> None:
    made = file.add("ci", ["read"])
    file.path.unlink()
    calls: list[Callable[[], object]] = [
        lambda: file.note_uses({made.key.id: 1.0}),
        lambda: file.end_session("s", time.time() + 60),
    ]
    for call in calls:
        with pytest.raises(KeyFileUnusable):
            call()
    assert not file.path.exists()


def test_a_session_that_was_ended_is_remembered_until_it_would_have_expired(file: KeyFile) -> None:
    file.add("ci", ["read"])
    file.end_session("past", time.time() - 1)
    file.end_session("one", time.time() + 60)
    file.end_session("two", time.time() + 60)
    assert set(file.read().ended_sessions) == {"one", "two"}


def test_who_ends_many_sessions_brings_no_other_keys_back_to_life() -> None:
    theirs = {new_session_id("victim00"): 9.0, new_session_id("old-form").rpartition("-")[2]: 9.0}
    floods = {new_session_id(f"flood{n:03}"): 9.0 for n in range(150) for _ in range(MAX_ENDED_OF_KEY + 20)}
    kept = remembered({**theirs, **floods, new_session_id("expired0"): 1.0}, 2.0)
    assert theirs.items() <= kept.items()
    assert len(kept) == MAX_ENDED_SESSIONS
    assert "expired0" not in "".join(kept)
    newest = list(floods)[-1]
    assert newest in kept


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_file_of_another_user_is_refused_unless_the_folder_is_theirs_and_stays_theirs(file: KeyFile) -> None:
    file.add("ci", ["read"])
    os.chown(file.path, 12345, 12345)
    with pytest.raises(KeyFileUnusable, match="another user"):
        file.read()
    os.chown(file.path.parent, 12345, 12345)
    file.add("two", ["read"])
    assert (file.path.stat().st_uid, file.path.stat().st_mode & 0o777) == (12345, 0o600)


def test_a_link_to_a_key_file_stays_a_link(file: KeyFile, tmp_path: Path) -> None:
    file.add("ci", ["read"])
    linked = KeyFile(tmp_path / "link.json")
    linked.path.symlink_to(file.path)
    linked.add("two", ["read"])
    assert linked.path.is_symlink()
    assert [key.name for key in file.read().keys] == ["ci", "two"]


_WRITER = """
import sys
from pathlib import Path
from hive.auth.keys import KeyFile
file = KeyFile(Path(sys.argv[1]))
for n in range(int(sys.argv[3])):
    made = file.add(f"{sys.argv[2]}-{n}", ["read"])
    file.note_uses({made.key.id: 1000.0})
    if n % 2:
        file.revoke(made.key.id)
"""


def test_processes_that_write_at_once_lose_nothing(file: KeyFile) -> None:
    names = ("a", "b", "c")
    writers = [
        subprocess.Popen(bound_to_us([sys.executable, "-c", _WRITER, str(file.path), name, "15"])) for name in names
    ]
    while any(writer.poll() is None for writer in writers):
        if file.path.exists():
            json.loads(file.path.read_bytes())  # a reader sees a whole file at any time
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]

    found = file.read().keys
    assert {key.name for key in found} == {f"{name}-{n}" for name in names for n in range(15)}
    assert all(key.used_s == 1000.0 for key in found)
    assert sum(key.revoked_s is not None for key in found) == len(names) * 7
    assert [path.name for path in file.path.parent.iterdir() if "lock" not in path.name] == ["keys.json"]
