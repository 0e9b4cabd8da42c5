"""Whose a download is: who made it and who joined it, who lists it, and what is left of that when Redis forgets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hive.auth.principal import ANONYMOUS, NOBODY, Principal
from hive.downloads.context import DownloadContext
from hive.downloads.intents import IntentLog, intent_of
from hive.downloads.provisioner import ModelProvisioner, read_ref
from hive.downloads.record import MAX_OWNERS
from hive.downloads.resolutions import Resolutions
from hive.downloads.restore import Restore
from hive.downloads.tracker import Outcome
from hive.errors import TooManyWebhooks
from hive.net.urls import parse_url
from hive.redis.client import RedisClient
from hive.secrets import SecretKeyError
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.webhooks.outbox import MAX_PER_DOWNLOAD, WebhookOutbox
from hive.wire import keys
from hive.wire.spec import DownloadSpec
from tests.support.downloads import claim, complete, download_context, downloading, failed, new, read
from tests.support.pubsub import pending
from tests.support.webhook_receiver import SECRET

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


def told(pubsub: Any, download_id: str) -> int:
    """How often the servers were told that the owners have changed."""
    found = 0
    for message in pending(pubsub):
        if message["type"] == "pmessage":
            found += keys.OWNERS_CHANNELS.id_of(message["channel"], 0) == download_id
            assert keys.DOWNLOAD_CHANNELS.id_of(message["channel"], 0) in (None, download_id)
    return found


def test_who_gives_up_a_share_is_out_and_the_last_one_ends_the_download(
    downloads: DownloadContext, store: RedisClient
) -> None:
    download_id, _ = asked(downloads, "alice")
    asked(downloads, "bob")
    with store.pubsub() as pubsub:
        pubsub.psubscribe(keys.DOWNLOAD_CHANNELS.pattern(0))
        assert downloads.tracker.leave(download_id, "carol") == "gone"
        assert told(pubsub, download_id) == 0
        assert downloads.tracker.leave(download_id, "alice") == "left"
        assert told(pubsub, download_id) == 1
    record = read(downloads, download_id)
    assert (record.state, record.owners, record.control) == ("queued", ("bob",), "")
    assert (listed(downloads, ALICE), listed(downloads, BOB)) == ([], [download_id])
    assert downloads.tracker.leave(download_id, "alice") == "gone"
    assert downloads.tracker.leave(download_id, "bob") == "last"
    assert read(downloads, download_id).control == "cancel"


def test_nobody_joins_what_the_last_one_is_ending(downloads: DownloadContext) -> None:
    first, _ = asked(downloads, "alice")
    assert downloads.tracker.leave(first, "alice") == "last"
    for owner in ("bob", "alice"):
        second, outcome = asked(downloads, owner)
        assert (second != first, outcome) == (True, "created" if owner == "bob" else "joined")


def test_a_share_of_somebody_without_a_key_stays_when_another_gives_theirs_up(downloads: DownloadContext) -> None:
    download_id, _ = asked(downloads, "")
    asked(downloads, "alice")
    assert downloads.tracker.leave(download_id, "alice") == "left"
    record = read(downloads, download_id)
    assert (record.owners, record.is_shared, record.control) == ((), False, "")


def test_what_has_ended_is_left_as_it_is(downloads: DownloadContext) -> None:
    download_id, _ = asked(downloads, "alice", event=complete("/x"), local_path="/x")
    asked(downloads, "bob", event=complete("/x"), local_path="/x")
    assert downloads.tracker.leave(download_id, "alice") == "gone"
    assert read(downloads, download_id).owners == ("alice", "bob")


def test_webhooks_go_with_the_share_of_who_brought_them(
    downloads: DownloadContext, store: RedisClient, settings: Settings
) -> None:
    webhooks = WebhookOutbox(store, msgspec.structs.replace(settings, webhook_secret=SECRET))
    download_id, _ = asked(downloads, "alice")
    asked(downloads, "bob")
    url = parse_url("https://receiver.example/both")
    for owner in ("alice", "bob", ""):
        webhooks.add(download_id, url, owner)
    downloads.tracker.leave(download_id, "alice")
    record = read(downloads, download_id)
    assert downloads.claims.finish_unclaimed(record, "failed", failed())
    messages = webhooks.take(10)
    assert sorted(message.name[24:] for message in messages) == ["", keys.owner_mark("bob")]
    assert [str(target.url) for message in messages if (target := webhooks.target(message))] == [str(url)] * 2
    webhooks.add(download_id, url, "bob")
    late = next(message for message in webhooks.take(10) if message not in messages)
    assert late.id.startswith(f"{download_id}-1")
    assert "." not in late.id


def test_one_owner_cannot_use_up_the_webhooks_of_another(
    downloads: DownloadContext, store: RedisClient, settings: Settings
) -> None:
    webhooks = WebhookOutbox(store, msgspec.structs.replace(settings, webhook_secret=SECRET))
    download_id, _ = asked(downloads, "alice")
    asked(downloads, "bob")
    for number in range(MAX_PER_DOWNLOAD):
        webhooks.add(download_id, parse_url(f"https://receiver.example/{number}"), "alice")
    with pytest.raises(TooManyWebhooks):
        webhooks.add(download_id, parse_url("https://receiver.example/x"), "alice")
    webhooks.add(download_id, parse_url("https://receiver.example/x"), "bob")


def test_a_webhook_copied_to_another_download_does_not_open(
    downloads: DownloadContext, store: RedisClient, settings: Settings
) -> None:
    webhooks = WebhookOutbox(store, msgspec.structs.replace(settings, webhook_secret=SECRET))
    hers, _ = asked(downloads, "alice", "a")
    his, _ = asked(downloads, "bob", "b")
    webhooks.add(hers, parse_url("https://receiver.example/secret"), "alice")
    store.hset(keys.webhooks(his), mapping=store.hgetall(keys.webhooks(hers)))
    assert downloads.claims.finish_unclaimed(read(downloads, his), "failed", failed())
    (message,) = webhooks.take(10)
    with pytest.raises(SecretKeyError):
        webhooks.target(message)


def test_a_token_joins_what_has_none_and_is_lent_to_it(downloads: DownloadContext) -> None:
    download_id, _ = asked(downloads, "", event=downloading(0, 0, "queued"))
    assert not read(downloads, download_id).lent
    assert asked(downloads, "", permission="token a") == (download_id, "joined")
    assert read(downloads, download_id).lent
    tracker = downloads.tracker
    assert tracker.lend_secret(download_id, "token b", b"sealed b", 60) == "kept", "it is fetched with another's"
    assert tracker.lend_secret(download_id, "token a", b"sealed a", 60) == "lent"
    assert tracker.lend_secret(download_id, "token a", b"sealed again", 60) == "kept"
    assert tracker.read_secret(download_id) == b"sealed a"
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    assert tracker.lend_secret(download_id, "token a", b"sealed late", 60) == "ended"
    assert tracker.read_secret(download_id) is None


def test_a_token_that_comes_as_the_download_ends_for_want_of_it_gets_one_of_its_own(
    downloads: DownloadContext, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between joining it and lending it the token it may end, with an error that is not that of who joined."""
    tracker = downloads.tracker
    catalog, resolutions = ModelCatalog(settings), Resolutions(downloads.client)
    provisioner = ModelProvisioner(settings, tracker, downloads.queue, catalog, resolutions)
    spec = DownloadSpec(read_ref("hf:org/gated"))
    first = provisioner.start(spec, None).download_id
    create = tracker.create

    def create_and_end(*args: Any) -> tuple[str, Outcome]:
        found, outcome = create(*args)
        if found == first:
            downloads.claims.finish_unclaimed(read(downloads, first), "failed", failed())
        return found, outcome

    monkeypatch.setattr(tracker, "create", create_and_end)
    second = provisioner.start(spec._replace(hf_token="hf_ofWhoJoins"), None)
    assert second.download_id != first
    assert not second.joined
    assert tracker.read_secret(second.download_id)


def test_two_tokens_are_two_downloads_and_who_has_none_joins_either(downloads: DownloadContext) -> None:
    first, _ = asked(downloads, "", permission="token a")
    assert asked(downloads, "", permission="token a") == (first, "joined")
    assert not read(downloads, first).lent
    assert asked(downloads, "") == (first, "joined")
    assert read(downloads, first).lent
    second, outcome = asked(downloads, "", permission="token b")
    assert (outcome, second != first) == ("created", True)
    assert asked(downloads, "", permission="token b") == (second, "joined")
