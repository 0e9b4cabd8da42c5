"""Whose a download is: who made it and who joined it, who lists it, and what is left of that when Redis forgets."""

from __future__ import annotations

import pytest

from hive.auth.principal import ANONYMOUS, NOBODY, Principal
from hive.downloads.context import DownloadContext
from hive.downloads.intents import IntentLog, intent_of
from hive.downloads.record import MAX_OWNERS
from hive.downloads.restore import Restore
from hive.redis_client import RedisClient
from hive.wire import keys
from tests.support.downloads import complete, download_context, new, read

ALICE = Principal("k1", "alice", frozenset({"read", "pull"}))
BOB = Principal("k2", "bob", frozenset({"read", "pull"}))
ADMIN = Principal("k3", "ops", frozenset({"read", "pull", "run", "admin"}))


def asked(downloads: DownloadContext, owner: str, dedup_key: str = "model-a", **more: object) -> tuple[str, str]:
    return downloads.tracker.create(new(dedup_key, owner=owner, **more))


def listed(downloads: DownloadContext, principal: Principal, **more: object) -> list[str]:
    return [record.id for record in downloads.tracker.page(limit=50, principal=principal, **more).records]  # type: ignore[arg-type]


def test_each_owner_lists_their_own_and_who_administers_all(downloads: DownloadContext) -> None:
    hers, _ = asked(downloads, "alice", "a")
    his, _ = asked(downloads, "bob", "b")
    nobodys, _ = asked(downloads, "", "c")
    assert listed(downloads, ALICE) == [hers]
    assert listed(downloads, BOB) == [his]
    assert sorted(listed(downloads, ADMIN)) == sorted(listed(downloads, ANONYMOUS)) == sorted([hers, his, nobodys])
    assert listed(downloads, NOBODY) == []
    assert listed(downloads, ALICE, keep=frozenset({"queued"})) == [hers]
    assert listed(downloads, ALICE, keep=frozenset({"complete"})) == []


def test_two_who_ask_for_one_model_share_one_download(downloads: DownloadContext) -> None:
    made = asked(downloads, "alice", priority="low")
    joined = asked(downloads, "bob", priority="high")
    assert (made[1], joined) == ("created", (made[0], "joined"))
    record = read(downloads, made[0])
    assert (record.owners, record.maker, record.is_shared) == (("alice", "bob"), "alice", True)
    assert record.priority == "high", "the most urgent of both"
    assert listed(downloads, ALICE) == listed(downloads, BOB) == [made[0]]
    assert asked(downloads, "bob") == joined, "to ask twice gives one share"
    assert read(downloads, made[0]).owners == ("alice", "bob")


def test_a_model_on_disk_that_two_ask_for_has_one_record_and_both_list_it(downloads: DownloadContext) -> None:
    first = asked(downloads, "alice", event=complete("/x"), local_path="/x")
    assert asked(downloads, "bob", event=complete("/x"), local_path="/x") == (first[0], "known")
    assert listed(downloads, ALICE) == listed(downloads, BOB) == [first[0]]


def test_without_keys_a_record_has_the_fields_that_it_always_had(
    downloads: DownloadContext, store: RedisClient
) -> None:
    download_id, _ = asked(downloads, "")
    asked(downloads, "")
    assert b"owners" not in store.hgetall(keys.record(download_id))
    assert not store.keys("hive:owner*")
    assert read(downloads, download_id).owners == ()


def test_what_was_made_without_a_key_is_seen_by_who_joins_it(downloads: DownloadContext) -> None:
    download_id, _ = asked(downloads, "")
    assert asked(downloads, "alice") == (download_id, "joined")
    record = read(downloads, download_id)
    assert (record.owners, record.maker, record.is_shared) == (("alice",), "", True)
    assert listed(downloads, ALICE) == [download_id]
    assert listed(downloads, BOB) == []


def test_as_many_share_a_download_as_may_and_the_next_one_has_another(downloads: DownloadContext) -> None:
    first, _ = asked(downloads, "owner-0")
    for number in range(1, MAX_OWNERS):
        assert asked(downloads, f"owner-{number}") == (first, "joined")
    other = asked(downloads, "one-more")
    assert other[1] == "created"
    assert other[0] != first
    assert asked(downloads, "and-another") == (other[0], "joined")
    assert len(read(downloads, first).owners) == MAX_OWNERS


@pytest.mark.parametrize("name", ["ali", "alice2", "lice", "ALICE", "al.ce"])
def test_a_name_that_is_part_of_another_is_another(downloads: DownloadContext, name: str) -> None:
    download_id, _ = asked(downloads, "alice")
    asked(downloads, name)
    assert read(downloads, download_id).owners == ("alice", name)


def test_a_page_of_ones_own_is_not_shortened_by_what_others_have(
    downloads: DownloadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive.downloads.tracker.MAX_SCANNED", 3)
    hers = [asked(downloads, "alice", f"a{number}")[0] for number in range(2)]
    for number in range(10):
        asked(downloads, "bob", f"b{number}")
    page = downloads.tracker.page(limit=10, principal=ALICE)
    assert sorted(record.id for record in page.records) == sorted(hers)
    assert page.cursor is None, "a cursor of a foreign download would be its id"


def test_the_index_forgets_what_has_expired_whoever_notices(store: RedisClient) -> None:
    downloads = download_context(store, max_records=1)
    download_id, _ = asked(downloads, "alice")
    store.delete(keys.record(download_id))
    asked(downloads, "bob", "b")
    assert store.zrange(keys.owner_index("alice"), 0, -1) == []


def test_an_unreadable_record_leaves_the_index_too(downloads: DownloadContext, store: RedisClient) -> None:
    download_id, _ = asked(downloads, "alice")
    store.hset(keys.record(download_id), "fence", "x")
    assert downloads.tracker.read(download_id) is None
    assert store.zrange(keys.owner_index("alice"), 0, -1) == []


def test_owners_come_back_when_redis_has_lost_its_data(
    downloads: DownloadContext, store: RedisClient, intents: IntentLog, restorer: Restore
) -> None:
    download_id, _ = asked(downloads, "alice", "a" * 64)
    asked(downloads, "bob", "a" * 64)
    intents.write(intent_of(read(downloads, download_id)))
    store.flushall()
    assert restorer.bring_back(download_id)
    assert read(downloads, download_id).owners == ("alice", "bob")
    assert listed(downloads, BOB) == [download_id]
