"""What one owner may have: downloads that wait, records, bytes of a day; and what is forgotten counts no more."""

from __future__ import annotations

import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.record import AttemptBytes
from hive.redis.client import RedisClient
from hive.wire import keys
from tests.support.downloads import claim, complete, download_context, downloading, new, read


def capped(store: RedisClient, **limits: int) -> DownloadContext:
    return download_context(store, max_queued=1000, **limits)


def ask(downloads: DownloadContext, owner: str, name: str, **more: object) -> tuple[str, str]:
    return downloads.tracker.create(new(f"{owner}-{name}", owner=owner, **more))


def outcomes(downloads: DownloadContext, owner: str, count: int, first: int = 0) -> list[str]:
    return [ask(downloads, owner, str(n))[1] for n in range(first, first + count)]


def test_one_owner_fills_their_own_share_of_the_queue(store: RedisClient) -> None:
    downloads = capped(store, max_queued_per_key=3, max_records_per_key=100)
    assert outcomes(downloads, "alice", 5) == ["created"] * 3 + ["own_full"] * 2
    assert outcomes(downloads, "bob", 3) == ["created"] * 3
    assert outcomes(downloads, "", 5) == ["created"] * 5, "who has no key is not counted"
    assert ask(downloads, "alice", "0")[1] == "joined", "what is under way is joined"
    claim(downloads, ask(downloads, "alice", "0")[0])
    assert outcomes(downloads, "alice", 2, first=10) == ["created", "own_full"], "one that runs does not wait"


def test_records_of_an_owner_are_bounded_whatever_their_state(store: RedisClient) -> None:
    downloads = capped(store, max_queued_per_key=100, max_records_per_key=4)
    ids = [ask(downloads, "alice", str(n))[0] for n in range(4)]
    for download_id in ids[:2]:
        downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    on_disk = {"event": complete("/y"), "local_path": "/y"}
    assert ask(downloads, "alice", "5")[1] == ask(downloads, "alice", "6", **on_disk)[1] == "own_crowded"
    assert ask(downloads, "bob", "1")[1] == "created"
    store.delete(keys.record(ids[0]))
    assert ask(downloads, "alice", "7")[1] == "created", "a record that has expired counts no more"
    assert ask(downloads, "alice", "8")[1] == "own_crowded"


@pytest.mark.parametrize("ends", [False, True])
def test_bytes_of_a_day_are_counted_for_who_made_the_download(store: RedisClient, ends: bool) -> None:
    downloads = capped(store, max_bytes_per_key_and_day=1000)
    hers = ask(downloads, "alice", "1")[0]
    held = claim(downloads, hers)
    downloads.claims.publish(held, 2, downloading(600), AttemptBytes(600))
    assert ask(downloads, "alice", "2")[1] == "created"
    downloads.claims.publish(held, 3, downloading(900), AttemptBytes(900))
    if ends:
        downloads.claims.finish(held, 4, "complete", complete(), "/x", attempt_bytes=AttemptBytes(1000))
    else:
        downloads.claims.publish(held, 4, downloading(1000), AttemptBytes(1000))
    assert ask(downloads, "alice", "3")[1] == "spent"
    assert ask(downloads, "bob", "1")[1] == "created"
    on_disk = {"event": complete("/y"), "local_path": "/y"}
    assert ask(downloads, "alice", "4", **on_disk)[1] == "created", "what is on disk costs nothing"
    (quota,) = store.keys("hive:quota:*")
    assert store.hgetall(quota) == {b"alice": b"1000"}
    assert 0 < store.ttl(quota) <= 172_800
    store.rename(quota, keys.quota(int(quota.rpartition(b":")[2]) - 1))
    assert ask(downloads, "alice", "3")[1] == "created", "another day"


def test_without_limits_nothing_is_refused(store: RedisClient) -> None:
    downloads = capped(store, max_queued_per_key=0, max_records_per_key=0)
    assert set(outcomes(downloads, "alice", 30)) == {"created"}


def made_by(downloads: DownloadContext, owner: str, *names: str) -> list[str]:
    """Ids of downloads that anybody may join."""
    return [downloads.tracker.create(new(name, owner=owner))[0] for name in names]


def join(downloads: DownloadContext, owner: str, name: str, **more: object) -> str:
    return downloads.tracker.create(new(name, owner=owner, **more))[1]


def test_who_joins_takes_one_of_their_own_records(store: RedisClient) -> None:
    downloads = capped(store, max_queued_per_key=100, max_records_per_key=2)
    made_by(downloads, "alice", "a", "b")
    assert [join(downloads, "bob", name) for name in ("a", "b")] == ["joined", "joined"]
    (more,) = made_by(downloads, "carol", "c")
    assert join(downloads, "bob", "c") == "own_crowded"
    assert read(downloads, more).owners == ("carol",), "who was refused has no share"
    assert [join(downloads, "bob", name) for name in ("a", "b")] == ["joined", "joined"], "what they have they have"
    assert join(downloads, "", "c") == "joined", "who has no key is not counted"
    on_disk = {"event": complete("/y"), "local_path": "/y"}
    assert join(downloads, "carol", "d", **on_disk) == "created"
    assert join(downloads, "bob", "d", **on_disk) == "own_crowded"
    assert join(downloads, "dave", "d", **on_disk) == "known"


def test_who_joins_what_waits_takes_one_of_their_own_places_in_the_queue(store: RedisClient) -> None:
    downloads = capped(store, max_queued_per_key=1, max_records_per_key=100)
    (first,) = made_by(downloads, "alice", "a")
    made_by(downloads, "carol", "c")
    assert join(downloads, "bob", "a") == "joined"
    assert join(downloads, "bob", "c") == "own_full"
    claim(downloads, first)
    assert join(downloads, "bob", "c") == "joined", "what runs does not wait"
    (running,) = made_by(downloads, "dave", "d")
    claim(downloads, running)
    assert join(downloads, "bob", "d") == "joined", "nor does it when it is joined"


def test_shared_bytes_are_the_first_owners_and_who_has_spent_theirs_does_not_join(store: RedisClient) -> None:
    """Else two keys would have no limit: one asks, the other joins, and the first gives up its share at once."""
    downloads = capped(store, max_bytes_per_key_and_day=1000)
    (shared,) = made_by(downloads, "alice", "a")
    assert join(downloads, "bob", "a") == "joined"
    held = claim(downloads, shared)
    downloads.claims.publish(held, 2, downloading(600), AttemptBytes(600))
    downloads.tracker.leave(shared, "alice")
    downloads.claims.publish(held, 3, downloading(1700), AttemptBytes(1700))
    (quota,) = store.keys("hive:quota:*")
    assert store.hgetall(quota) == {b"alice": b"600", b"bob": b"1100"}, "whose it is pays from then on"
    made_by(downloads, "alice", "b")
    assert join(downloads, "bob", "b") == "spent"
    assert join(downloads, "bob", "a") == "joined", "what is theirs goes on"
