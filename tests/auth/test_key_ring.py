"""The keys as a server has them in hand: read when their file changes, and closed when it is not right."""

from __future__ import annotations

import hmac
import logging
import time
from pathlib import Path

import pytest

from hive.auth import key_ring, keys
from hive.auth.failures import MAX_ADDRESSES, MAX_FAILURES, WINDOW_S, Failures
from hive.auth.key_ring import KeyRing, Latch
from hive.auth.keys import KeyFile
from hive.auth.principal import ANONYMOUS
from hive.errors import InvalidApiKey, KeyFileUnusable


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


@pytest.fixture
def ring(file: KeyFile) -> KeyRing:
    found = KeyRing(file)
    found.load()
    return found


def test_without_a_file_keys_are_off_and_nothing_ends(ring: KeyRing) -> None:
    assert not ring.on
    assert not ring.refresh()
    assert ring.is_alive(ANONYMOUS)


def test_the_first_key_turns_keys_on_and_nothing_turns_them_off(ring: KeyRing, file: KeyFile) -> None:
    made = file.add("ci", ["read"], owner="team")
    assert ring.refresh()
    assert ring.on
    principal = ring.principal(made.text)
    assert (principal.key_id, principal.owner) == (made.key.id, "team")
    assert principal.scopes == {"read"}
    assert ring.is_alive(principal)
    assert not ring.is_alive(ANONYMOUS)

    file.revoke(made.key.id)
    ring.refresh()
    assert ring.on
    assert not ring.is_alive(principal)
    with pytest.raises(InvalidApiKey):
        ring.principal(made.text)

    file.path.unlink()
    ring.refresh()
    assert ring.on
    with pytest.raises(KeyFileUnusable):
        ring.principal(made.text)


def test_keys_that_were_on_are_on_for_the_process_that_takes_the_place_of_another(file: KeyFile) -> None:
    ring = KeyRing(file, Latch(is_set=True))
    ring.load()
    assert ring.on
    with pytest.raises(KeyFileUnusable):
        ring.principal("hive_" + "x" * 52)


def test_a_change_of_the_mode_alone_is_seen(ring: KeyRing, file: KeyFile, caplog: pytest.LogCaptureFixture) -> None:
    made = file.add("ci", ["read"])
    ring.refresh()
    file.path.chmod(0o644)
    with caplog.at_level(logging.INFO, "hive.auth"):
        assert ring.refresh()
        assert not ring.refresh()
        with pytest.raises(KeyFileUnusable) as refused:
            ring.principal(made.text)
        assert str(file.path) not in str(refused.value)
        file.path.chmod(0o600)
        assert ring.refresh()
    assert ring.principal(made.text).key_id == made.key.id
    assert [record.getMessage() for record in caplog.records] == [
        "nobody is let in: the key file cannot be used",
        "the key file can be used again",
    ]


def test_right_and_wrong_keys_are_compared_once_with_a_whole_digest(
    ring: KeyRing, file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same steps for each, so that none is told from another by the time that it takes."""
    good = file.add("ci", ["read"])
    dead = file.add("old", ["read"])
    late = file.add("late", ["read"], expires_in_s=0.001)
    file.revoke(dead.key.id)
    ring.refresh()
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def noted(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    ring.principal(good.text)
    wrong = [
        dead.text,
        late.text,
        good.text[:-1],
        good.text + "x",
        "",
        "hive",
        f"hive_zzzzzzzz_{'x' * 43}",
        "\x00",
        "é",
    ]
    for text in wrong:
        with pytest.raises(InvalidApiKey):
            ring.principal(text)
    assert compared == [(64, 64)] * (1 + len(wrong))


def test_what_was_used_is_noted_once_a_minute(ring: KeyRing, file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    made = file.add("ci", ["read"])
    ring.refresh()
    ring.principal(made.text)
    ring.note_uses()
    assert file.read().keys[0].used_s is None
    monkeypatch.setattr(key_ring, "NOTE_INTERVAL_S", 0.0)
    ring.note_uses()
    assert file.read().keys[0].used_s == pytest.approx(time.time(), abs=60)
    before = file.path.stat()
    ring.note_uses()
    assert file.path.stat() == before


def test_too_many_wrong_keys_of_an_address_are_waited_for_and_others_are_not() -> None:
    failures = Failures()
    assert [failures.add("10.0.0.1") for _ in range(MAX_FAILURES)] == [None] * MAX_FAILURES
    wait_s = failures.add("10.0.0.1")
    assert wait_s is not None
    assert 0 < wait_s <= WINDOW_S
    assert failures.add("10.0.0.2") is None
    for number in range(MAX_FAILURES):
        failures.add(f"2001:db8:0:1::{number:x}")
    assert failures.add("2001:db8:0:1:ffff::1") is not None
    assert failures.add("2001:db8:0:2::1") is None
    assert failures.add("") is None
    assert failures.add("fe80::1%eth0") is None


def test_addresses_that_are_remembered_are_bounded() -> None:
    failures = Failures()
    for number in range(MAX_ADDRESSES + 100):
        failures.add(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(failures._windows) == MAX_ADDRESSES


def test_a_flood_of_wrong_keys_is_one_line_a_window(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures()
    for _ in range(3 * MAX_FAILURES):
        failures.add("10.0.0.1")
    assert [record.getMessage() for record in caplog.records] == ["wrong keys: refused for a while"]


def test_a_trouble_that_leaves_no_mark_on_the_file_ends_by_itself(
    ring: KeyRing, file: KeyFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = file.add("ci", ["read"])
    with monkeypatch.context() as patched:
        patched.setattr(keys, "MAX_FILE_BYTES", 1)  # stands for whatever keeps one look from reading it
        assert ring.refresh()
        assert not ring.refresh()
        with pytest.raises(KeyFileUnusable):
            ring.principal(made.text)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    ring.refresh()
    assert ring.principal(made.text).key_id == made.key.id
