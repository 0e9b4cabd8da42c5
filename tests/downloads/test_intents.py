"""The intent log on the disk, what is made of it when Redis has lost everything, and what a purge removes."""

from __future__ import annotations

import errno
import os
import uuid
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.events import requeued_event
from hive.downloads.intents import Attempt, IntentLog, intent_of
from hive.downloads.record import Claim, Record
from hive.downloads.restore import Restore, restore
from hive.redis.client import RedisClient
from hive.settings import Settings
from hive.wire import keys
from hive.wire.events import Version, parse_message
from hive.wire.jobs import Request
from hive.wire.refs import dedup_key, parse_ref
from tests.support.downloads import claim, complete, download_context, downloading, new, read
from tests.support.intents import an_intent, folder, started
from workers.claim import ClaimedDownload
from workers.intent import AttemptIntent


def attempt_intent(settings: Settings, downloads: DownloadContext, record: Record, held: Claim) -> AttemptIntent:
    return AttemptIntent(ClaimedDownload(replace(downloads, settings=settings), record, held, "worker-1"))


def holding_of(settings: Settings, store: RedisClient, downloads: DownloadContext, record: Record) -> AttemptIntent:
    """A worker's hold on a queued download, noted."""
    held = claim(downloads, record.id)
    holding = attempt_intent(settings, downloads, read(downloads, record.id), held)
    holding.begin()
    return holding


# -- the files -------------------------------------------------------------------------------------------------------


def test_a_request_comes_back_as_it_was_written(intents: IntentLog) -> None:
    entry = an_intent(priority="high", retry_of="x", request_id="r-1", paused=True)
    intents.write(entry)
    assert intents.read(entry.id) == entry
    assert intents.ids() == [entry.id]
    intents.remove(entry.id)
    assert (intents.read(entry.id), intents.ids()) == (None, [])


def test_a_store_without_an_intent_log_has_no_downloads(intents: IntentLog) -> None:
    assert intents.ids() == []
    assert intents.read(str(uuid.uuid4())) is None
    assert intents.partials_of_others("x") == frozenset()
    intents.remove(str(uuid.uuid4()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"id": "half',
        b"\xff\xfe",
        b'{"id":"other","identity":"' + b"a" * 64 + b'","ref":"r","request":{"ref":"hf:org/m"}}',
        b'{"id":"%s","identity":"../..","ref":"r","request":{"ref":"hf:org/m"}}',
        b'{"id":"%s","identity":"' + b"a" * 64 + b'","ref":"r","request":{"ref":"file:///etc/passwd"}}',
    ],
)
def test_a_broken_file_is_set_aside_and_the_others_are_read(
    intents: IntentLog, restorer: Restore, settings: Settings, downloads: DownloadContext, content: bytes
) -> None:
    good, bad = an_intent(), str(uuid.uuid4())
    intents.write(good)
    path = folder(settings) / f"{bad}.json"
    path.write_bytes(content.replace(b"%s", bad.encode()))
    restorer.look(None)
    assert read(downloads, good.id).state == "queued"
    assert downloads.tracker.read(bad) is None
    assert intents.ids() == [good.id]
    assert path.with_name(f"{bad}.json.bad").exists()


def test_a_file_that_is_a_link_is_not_followed(intents: IntentLog, settings: Settings, tmp_path: Path) -> None:
    entry = an_intent()
    intents.write(entry)
    (tmp_path / "elsewhere").write_bytes((folder(settings) / f"{entry.id}.json").read_bytes())
    (folder(settings) / f"{entry.id}.json").unlink()
    (folder(settings) / f"{entry.id}.json").symlink_to(tmp_path / "elsewhere")
    assert intents.read(entry.id) is None


def test_what_people_want_is_written_over_the_request_where_the_disk_has_no_room_beside_it(
    intents: IntentLog, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = an_intent()
    intents.write(entry)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("hive.downloads.intents.write_file", full)
    for wanted in (msgspec.structs.replace(entry, cancelled=True, purge=True), entry):  # longer, and shorter again
        intents.write(wanted)
        assert intents.read(entry.id) == wanted
    with pytest.raises(OSError, match="No space left"):
        intents.write(an_intent("hf:org/other"))
    (path,) = folder(settings).glob(f"{entry.id}.json")
    os.link(path, tmp_path / "another-file-of-ours")
    with pytest.raises(OSError, match="No space left"):
        intents.write(msgspec.structs.replace(entry, cancelled=True))
    assert intents.read(entry.id) == entry


def test_an_older_worker_does_not_overwrite_the_hold_of_a_newer_one(intents: IntentLog) -> None:
    entry = an_intent()
    intents.write_attempt(entry.id, Attempt(attempt=2, fence=20))
    intents.write_attempt(entry.id, Attempt(attempt=1, fence=10))
    assert intents.read_attempt(entry.id) == Attempt(attempt=2, fence=20)


def test_another_hive_on_the_same_store_has_an_intent_log_of_its_own(
    intents: IntentLog, settings: Settings, tmp_path: Path
) -> None:
    entry = an_intent()
    intents.write(entry)
    other = IntentLog(msgspec.structs.replace(settings, home=str(tmp_path / "other-home")))
    assert other.ids() == []
    assert IntentLog(settings).ids() == [entry.id], "another process of the same hive has the same"


def test_no_query_and_no_token_is_written(settings: Settings, intents: IntentLog, downloads: DownloadContext) -> None:
    ref = parse_ref("https://host.example/m.gguf?signature=canary")
    made = new(
        dedup_key(ref),
        ref=ref.display,
        request=Request(ref="https://host.example/m.gguf"),
        secret=b"sealed",
        secret_ttl_s=60,
    )
    record = read(downloads, downloads.tracker.create(made)[0])
    intents.write(intent_of(record))
    text = (folder(settings) / f"{record.id}.json").read_text()
    assert "canary" not in text
    assert "sealed" not in text


# -- restoring -------------------------------------------------------------------------------------------------------


def test_a_queued_download_comes_back_under_its_id_with_all_that_was_asked_for(
    downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    before = started(downloads, intents)
    downloads.tracker.set_priority(before, "high")
    intents.write(intent_of(read(downloads, before.id)))
    store.flushall()
    restorer.look(None)
    after = read(downloads, before.id)
    assert (after.state, after.status, after.attempt, after.priority) == ("queued", "queued", 1, "high")
    assert (after.ref, after.dedup_key, after.request) == (before.ref, before.dedup_key, before.request)
    assert after.created_ms == before.created_ms
    assert after.fence > before.fence
    assert downloads.admission.pending() == [before.id]
    assert [r.id for r in downloads.tracker.page(limit=9).records] == [before.id]
    assert downloads.tracker.create(new(before.dedup_key))[1] == "joined"


def test_a_paused_download_comes_back_paused_and_can_be_resumed(
    downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    before = started(downloads, intents)
    downloads.claims.release(before, requeued_event(before, None, "paused"), counts=False, to="paused")
    intents.write(intent_of(read(downloads, before.id)))
    store.flushall()
    restorer.look(None)
    after = read(downloads, before.id)
    assert (after.state, after.status) == ("paused", "paused")
    assert downloads.admission.pending() == []
    assert store.smembers(keys.PAUSED) == {before.id.encode()}
    assert downloads.claims.release(after, requeued_event(after, None, "queued"), counts=False) == 2


def test_a_running_download_keeps_its_worker(
    settings: Settings, downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    record = started(downloads, intents)
    held = claim(downloads, record.id)
    attempt_intent(settings, downloads, read(downloads, record.id), held).begin()
    downloads.claims.publish(held, 5, downloading(50))
    store.flushall()
    restorer.look(None)
    after = read(downloads, record.id)
    assert (after.state, after.fence, after.worker) == ("running", held.fence, "worker-1")
    assert store.zscore(keys.LEASES, record.id) is not None
    assert downloads.claims.publish(held, 6, downloading(60)).held, "the worker goes on as if nothing had been"
    assert read(downloads, record.id).seq == 6
    assert downloads.claims.finish(held, 7, "complete", complete(), "/store/x")


def test_a_worker_that_is_faster_makes_the_record_itself(
    settings: Settings, downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    holding = holding_of(settings, store, downloads, started(downloads, intents))
    holding.secret = b"sealed"
    (download_id,) = intents.ids()
    fence = read(downloads, download_id).fence
    store.flushall()
    assert holding.keep()
    assert read(downloads, download_id).fence == fence
    assert downloads.tracker.read_secret(download_id) == b"sealed"
    restorer.look(None)
    assert read(downloads, download_id).fence == fence
    assert holding.keep(), "also where it is there already"


def test_a_worker_keeps_nothing_that_is_not_its_own(
    settings: Settings, downloads: DownloadContext, intents: IntentLog, store: RedisClient
) -> None:
    holding = holding_of(settings, store, downloads, started(downloads, intents))
    (download_id,) = intents.ids()
    record = read(downloads, download_id)
    downloads.claims.release(record, requeued_event(record, None), counts=False)
    assert not holding.keep(), "given to another"
    holding_of(settings, store, downloads, read(downloads, download_id))
    store.flushall()
    assert not holding.keep(), "a later attempt stands in the intent log"
    intents.remove(download_id)
    assert not holding.keep(), "it has ended"
    assert downloads.tracker.read(download_id) is None


def test_a_download_whose_worker_died_too_is_handed_on_and_the_death_does_not_count(
    settings: Settings, downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    from hive.downloads.reaper import take_over

    record = started(downloads, intents)
    holding_of(settings, store, downloads, record)
    store.flushall()
    restorer.look(None)
    store.zadd(keys.LEASES, {record.id: 1})
    lost = read(downloads, record.id)
    assert take_over(download_context(store, max_attempts=1), lost, expired_only=True, reason="gone")
    after = read(downloads, record.id)
    assert (after.state, after.attempt, after.stalls) == ("queued", 2, 0)


def test_what_was_given_back_waits_at_once_and_shows_how_far_it_was(
    settings: Settings, downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    record = started(downloads, intents)
    holding = holding_of(settings, store, downloads, record)
    holding.let_go(downloading(70, 100))
    store.flushall()
    restorer.look(None)
    after = read(downloads, record.id)
    assert (after.state, after.attempt, after.bytes_done) == ("queued", 2, 70)
    assert after.last_event.bytes_downloaded == 70  # type: ignore[union-attr]


def test_a_cancel_that_redis_forgot_is_carried_out(
    settings: Settings, downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    record = started(downloads, intents)
    holding = holding_of(settings, store, downloads, record)
    intents.write(intent_of(read(downloads, record.id), cancelled=True))
    store.flushall()
    assert not holding.keep()
    restorer.look(None)
    assert read(downloads, record.id).state == "cancelled"
    assert intents.ids() == []


def test_restoring_again_changes_nothing(
    downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    entry = an_intent()
    assert restore(store, entry, None, 6.0)
    before = read(downloads, entry.id)
    assert not restore(store, entry, None, 6.0)
    assert read(downloads, entry.id) == before


def test_a_restored_download_leaves_the_flight_to_one_that_was_asked_for_meanwhile(
    downloads: DownloadContext, restorer: Restore, store: RedisClient
) -> None:
    entry = an_intent()
    newer, _ = downloads.tracker.create(new(entry.dedup_key))
    assert restore(store, entry, None, 6.0)
    assert store.get(keys.single_flight(entry.dedup_key)) == newer.encode()
    assert read(downloads, entry.id).state == "queued"


def test_fences_grow_also_where_the_clock_of_the_new_redis_is_behind(
    downloads: DownloadContext, store: RedisClient
) -> None:
    entry, ahead = an_intent(), 9_000_000_000_000
    assert restore(store, entry, Attempt(attempt=3, fence=ahead, held=False), 6.0)
    assert read(downloads, entry.id).fence == ahead + 1


def test_everybody_who_listens_is_told(downloads: DownloadContext, store: RedisClient) -> None:
    with store.pubsub() as listening:
        listening.psubscribe(keys.DOWNLOAD_CHANNELS.pattern(0))
        listening.get_message(timeout=60)
        entry = an_intent()
        restore(store, entry, None, 6.0)
        told = parse_message(listening.get_message(timeout=60)["data"])
    assert told is not None
    assert told.version == Version(read(downloads, entry.id).fence, 1)


def test_what_has_ended_is_forgotten(
    settings: Settings, downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    record = started(downloads, intents)
    held = claim(downloads, record.id)
    downloads.claims.finish(held, 2, "complete", complete(), "/store/x")
    orphan = str(uuid.uuid4())
    intents.write_attempt(orphan, Attempt(attempt=1, fence=1))
    restorer.look(None)
    assert intents.ids() == []
    assert os.listdir(folder(settings)) == []


def test_it_is_time_to_look_when_the_mark_is_gone_or_another(
    downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    assert restorer.is_due(None)
    restorer.look(None)
    mark = store.get(keys.EPOCH)
    assert mark
    assert not restorer.is_due(mark)
    assert restorer.is_due(b"of another replica")
    entry = an_intent()
    intents.write(entry)
    store.flushall()
    restorer.look(store.get(keys.EPOCH))
    assert downloads.tracker.read(entry.id) is not None
    assert store.get(keys.EPOCH) not in (None, mark)


def test_no_connection_is_kept(restorer: Restore, intents: IntentLog, store: RedisClient) -> None:
    before = len(store.client_list())
    intents.write(an_intent())
    restorer.look(None)
    assert len(store.client_list()) == before


def test_two_replicas_bring_everything_back_once(
    settings: Settings,
    redis_url: str,
    downloads: DownloadContext,
    intents: IntentLog,
    restorer: Restore,
    store: RedisClient,
) -> None:
    entries = [an_intent(f"hf:org/model-{n}") for n in range(30)]
    for entry in entries:
        intents.write(entry)
    other = Restore(settings, redis_url, IntentLog(settings))
    restorer.look(None)
    other.look(store.get(keys.EPOCH))
    other.stop()
    assert sorted(downloads.admission.pending()) == sorted(entry.id for entry in entries)
