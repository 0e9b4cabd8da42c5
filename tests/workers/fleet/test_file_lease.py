"""Leases on partial files: one holder, kept while it lives, free when it is gone."""

from __future__ import annotations

import threading
from typing import Any

from hive.redis.client import RedisClient
from hive.wire import keys
from tests.support.waiting import DEADLINE_S, wait_for
from workers.fleet.file_lease import FileLeases


def leases(store: RedisClient, download_id: str, lease_s: float = 60, fence: int = 1) -> FileLeases:
    return FileLeases(store, download_id, fence, lease_s)


def test_the_second_learns_who_has_it(store: RedisClient) -> None:
    one, two = leases(store, "one"), leases(store, "two")
    assert one.acquire("f") is None
    assert one.acquire("f") is None, "again, after a lost reply"
    assert two.acquire("f") == "one"
    assert two.acquire("g") is None
    one.release("f")
    assert two.acquire("f") is None


def test_only_the_holder_can_release(store: RedisClient) -> None:
    one, two = leases(store, "one"), leases(store, "two")
    one.acquire("f")
    two.release("f")
    assert store.get(keys.file("f")) == b"one 1"


def test_an_attempt_inherits_from_its_predecessor_and_not_the_other_way_round(store: RedisClient) -> None:
    first, second = leases(store, "one", fence=9), leases(store, "one", fence=10)
    assert first.acquire("f") is None
    assert second.acquire("f") is None
    assert not first.renew()
    assert first.acquire("f") == "one"
    first.release("f")
    assert store.get(keys.file("f")) == b"one 10"


def test_a_dead_holders_files_become_free(store: RedisClient) -> None:
    assert leases(store, "dead", lease_s=0.2).acquire("f") is None
    wait_for(lambda: leases(store, "heir").acquire("f") is None)


def test_renewal_keeps_and_brings_back(store: RedisClient) -> None:
    one = leases(store, "one")
    one.acquire("f")
    one.acquire("g")
    store.delete(keys.file("f"))  # Redis lost it, and nobody took it
    assert one.renew()
    assert store.get(keys.file("f")) == b"one 1"
    assert store.pttl(keys.file("g")) > 50_000


def test_renewal_tells_when_a_file_was_taken(store: RedisClient) -> None:
    one = leases(store, "one")
    one.acquire("f")
    store.set(keys.file("f"), b"two 9")
    assert not one.renew()
    assert store.get(keys.file("f")) == b"two 9"


def test_all_are_released_at_the_end(store: RedisClient) -> None:
    one = leases(store, "one")
    for name in "abc":
        one.acquire(name)
    one.release_all()
    assert store.keys("hive:file:*") == []
    assert one.renew(), "nothing is held, so nothing was lost"


def test_what_is_released_while_it_is_renewed_is_free(store: RedisClient) -> None:
    one, sent, go = leases(store, "one"), threading.Event(), threading.Event()
    one.acquire("f")
    renew = one._renew_script

    def slow(**given: Any) -> Any:
        sent.set()
        go.wait(DEADLINE_S)
        return renew(**given)

    one._renew_script = slow  # type: ignore[assignment]
    renewing, releasing = threading.Thread(target=one.renew), threading.Thread(target=one.release, args=("f",))
    renewing.start()
    assert sent.wait(DEADLINE_S)
    releasing.start()
    releasing.join(0.2)  # without the lock it is over by now
    go.set()
    renewing.join()
    releasing.join()
    assert not store.exists(keys.file("f"))
