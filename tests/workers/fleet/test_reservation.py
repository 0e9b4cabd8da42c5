"""Room on the disk that several downloads share: who would not fit beside the others is refused at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hive.errors import Cancelled, DiskFull
from hive.redis.client import RedisClient, connect
from hive.wire import keys
from tests.support.content import MIB
from workers.fleet import reservation as module
from workers.fleet.reservation import Reservation
from workers.transfer import Control, Limits, data_path

ALL = Limits(keep_free_fraction=0.0)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)


def make(store: RedisClient, folder: Path, download_id: str, control: Control | None = None) -> Reservation:
    store.zadd(keys.LEASES, {download_id: 1})
    return Reservation(store, download_id, folder, ALL, control or Control())


def part_of(folder: Path, share: float) -> int:
    return int(shutil.disk_usage(folder).free * share)


def test_two_that_fit_alone_do_not_both_pass(store: RedisClient, tmp_path: Path) -> None:
    size = part_of(tmp_path, 0.6)
    first, second = make(store, tmp_path, "a"), make(store, tmp_path, "b")
    first.take([(tmp_path / "a", size)])
    with pytest.raises(DiskFull) as caught:
        second.take([(tmp_path / "b", size)])
    details = caught.value.details
    assert (details["needed"], details["reserved"]) == (size, size)
    assert 0 < details["available"] < size
    first.release()
    second.take([(tmp_path / "b", size)])


def test_all_files_of_a_download_count_before_the_first_is_fetched(store: RedisClient, tmp_path: Path) -> None:
    with pytest.raises(DiskFull):
        make(store, tmp_path, "a").take([(tmp_path / f"{n}", part_of(tmp_path, 0.3)) for n in range(4)])


def test_what_a_dead_worker_had_reserved_does_not_count(store: RedisClient, tmp_path: Path) -> None:
    size = part_of(tmp_path, 0.6)
    make(store, tmp_path, "a").take([(tmp_path / "a", size)])
    store.zrem(keys.LEASES, "a")
    make(store, tmp_path, "b").take([(tmp_path / "b", size)])
    assert store.hkeys(keys.RESERVED) == [b"b"]


def test_what_is_allocated_or_published_is_not_reserved_any_more(
    store: RedisClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UPDATE_INTERVAL_S", 0.0)
    ours = make(store, tmp_path, "a")
    ours.take([(tmp_path / "x", 4 * MIB), (tmp_path / "y", 2 * MIB)])
    assert store.hget(keys.RESERVED, "a") == str(6 * MIB).encode()
    data_path(tmp_path / "x").write_bytes(b"x" * 3 * MIB)
    ours.update()
    assert store.hget(keys.RESERVED, "a") == str(3 * MIB).encode()
    ours.done(tmp_path / "x")
    ours.update()
    assert store.hget(keys.RESERVED, "a") == str(2 * MIB).encode()
    ours.release()
    assert store.hlen(keys.RESERVED) == 0


def test_what_is_resumed_is_not_reserved_again(store: RedisClient, tmp_path: Path) -> None:
    data_path(tmp_path / "x").write_bytes(b"x" * 3 * MIB)
    make(store, tmp_path, "a").take([(tmp_path / "x", 4 * MIB)])
    assert store.hget(keys.RESERVED, "a") == str(MIB).encode()


def test_a_refusal_is_looked_at_again_while_the_others_allocate(
    store: RedisClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another one allocated is in the free space at once, and in its word a little later."""
    monkeypatch.setattr(module, "PATIENCE_S", 60.0)
    size = part_of(tmp_path, 0.6)
    make(store, tmp_path, "a").take([(tmp_path / "a", size)])
    looks: list[float] = []

    def sleep(control: Control, seconds: float) -> None:
        looks.append(seconds)
        store.hset(keys.RESERVED, "a", 0)

    monkeypatch.setattr(Control, "sleep", sleep)
    make(store, tmp_path, "b").take([(tmp_path / "b", size)])
    assert looks == [module.LOOK_INTERVAL_S]


def test_a_cancel_ends_the_wait_for_room(store: RedisClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 60.0)
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        make(store, tmp_path, "a", control).take([(tmp_path / "a", part_of(tmp_path, 2))])


def test_without_redis_the_free_space_counts(tmp_path: Path) -> None:
    with connect("redis://127.0.0.1:1/0", reply_timeout_s=0.5, retries=0) as away:
        alone = Reservation(away, "a", tmp_path, ALL, Control())
        alone.take([(tmp_path / "a", part_of(tmp_path, 0.6))])
        with pytest.raises(DiskFull):
            alone.take([(tmp_path / "b", part_of(tmp_path, 0.6))])
        alone.update()
        alone.release()
