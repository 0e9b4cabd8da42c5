"""Locks on partial files: one hive at a time writes one, whoever dies, and on any disk."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

from hive.store import partial_lock
from hive.store.filesystem import Place
from hive.store.partial_lock import PartialLocks
from tests.support.waiting import wait_for

NAME = "ab" * 32


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "hive", ("partial",))


def test_one_hive_at_a_time_has_a_partial_file(place: Place) -> None:
    one, other = PartialLocks(place, "one"), PartialLocks(place, "other")
    assert one.acquire(NAME)
    assert one.acquire(NAME)
    assert not other.acquire(NAME)
    assert other.acquire("cd" * 32)
    one.release(NAME)
    assert other.acquire(NAME)
    other.release_all()
    assert list(place.path.iterdir()) == []


def test_within_a_hive_the_lease_decides_and_not_the_lock(place: Place) -> None:
    stopped, next_attempt = PartialLocks(place, "one"), PartialLocks(place, "one")
    assert stopped.acquire(NAME)
    assert next_attempt.acquire(NAME)
    next_attempt.release(NAME)
    assert not PartialLocks(place, "other").acquire(NAME)


def test_a_full_disk_has_locks_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever removes something there needs one."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    one, other = PartialLocks(place, "one"), PartialLocks(place, "other")
    assert one.acquire(NAME)
    assert not other.acquire(NAME)
    one.release(NAME)
    assert other.acquire(NAME)
    other.release_all()


def test_a_killed_process_has_nothing_any_more(place: Place) -> None:
    pid = os.fork()
    if pid == 0:
        PartialLocks(place, "one").acquire(NAME)
        signal.pause()
        os._exit(0)
    other = PartialLocks(place, "other")
    wait_for(lambda: (place.path / f"{NAME}.lock").exists() and not other.acquire(NAME), "it has no lock")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert other.acquire(NAME)


class TestWithoutLocks:
    """On a filesystem that has none a note with an age stands for the lock."""

    @pytest.fixture(autouse=True, params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
    def no_locks(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        def refuse(*_: object) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", refuse)

    def test_a_fresh_note_of_another_hive_counts_and_an_old_one_does_not(self, place: Place) -> None:
        one, other = PartialLocks(place, "one"), PartialLocks(place, "other")
        assert one.acquire(NAME)
        assert not other.acquire(NAME)
        then = time.time() - partial_lock.STALE_S - 1
        os.utime(place.path / f"{NAME}.lock", (then, then))
        assert other.acquire(NAME)
        other.release_all()
        one.release_all()

    def test_a_note_is_kept_fresh_for_as_long_as_it_is_held(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also beside one whose note somebody has removed."""
        monkeypatch.setattr(partial_lock, "TOUCH_S", 0.01)
        one = PartialLocks(place, "one")
        assert one.acquire("removed")
        assert one.acquire(NAME)
        (place.path / "removed.lock").unlink()
        note = place.path / f"{NAME}.lock"
        os.utime(note, (1, 1))
        wait_for(lambda: note.stat().st_mtime > 1, "nobody touches it")
        one.release_all()
        assert not note.exists()
