"""What a purge removes at the end of a download, and what it leaves."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hive.downloads.cleanup import close
from hive.downloads.context import DownloadContext
from hive.downloads.intents import Attempt, IntentLog, intent_of
from hive.downloads.restore import Restore
from hive.redis.client import RedisClient
from hive.settings import Settings
from hive.store.dirfd import write_file
from hive.store.given_up import given_up
from hive.store.layout import PARTIAL
from hive.wire import keys
from tests.support.downloads import claim, complete
from tests.support.intents import an_intent, folder, started

DIGEST, OTHER_DIGEST = "ab" * 32, "cd" * 32


def make_partials(settings: Settings, *names: str) -> Path:
    place = settings.hive_dir / PARTIAL
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (place / name).write_bytes(b"x" * 5000)
    return place


def test_a_purge_removes_what_only_this_download_wanted(
    settings: Settings, intents: IntentLog, store: RedisClient
) -> None:
    entry, other = an_intent(purge=True), an_intent("hf:org/other")
    place = make_partials(
        settings,
        *(f"{DIGEST}{ending}" for ending in (".part", ".journal", ".bad")),
        f"{'12' * 20}.{entry.id}.part",
        f"{OTHER_DIGEST}.part",
        f"{'34' * 20}.{other.id}.part",
        f"{'ef' * 32}.part",
    )
    intents.write(entry)
    intents.write(other)
    intents.write_attempt(entry.id, Attempt(attempt=1, fence=1, partials=(DIGEST, OTHER_DIGEST)))
    intents.write_attempt(other.id, Attempt(attempt=1, fence=2, partials=(OTHER_DIGEST,)))
    close(settings, store, intents, entry.id)
    assert sorted(os.listdir(place)) == sorted(
        [f"{OTHER_DIGEST}.part", f"{'34' * 20}.{other.id}.part", f"{'ef' * 32}.part"]
    )
    assert intents.ids() == [other.id]
    assert store.keys("hive:file:*") == []
    # Who was handed some of it, and asks for the rest, gets all.
    assert given_up(settings.hive_dir, DIGEST) > 0
    assert given_up(settings.hive_dir, OTHER_DIGEST) == 0


def test_a_purge_makes_room_on_a_disk_that_is_too_full_for_a_note(
    settings: Settings, intents: IntentLog, store: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = an_intent(purge=True)
    place = make_partials(settings, f"{DIGEST}.part", f"{DIGEST}.journal")
    intents.write(entry)
    intents.write_attempt(entry.id, Attempt(attempt=1, fence=1, partials=(DIGEST,)))

    def write_where_there_is_room(folder: int, name: str, data: bytes) -> None:
        if os.listdir(place):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_file(folder, name, data)

    monkeypatch.setattr("hive.store.given_up.write_file", write_where_there_is_room)
    close(settings, store, intents, entry.id)
    assert os.listdir(place) == []
    assert intents.ids() == []
    assert given_up(settings.hive_dir, DIGEST) > 0


@pytest.mark.parametrize("owner", ["another-download 7", "x"])
def test_a_purge_leaves_a_file_that_somebody_writes(
    settings: Settings, intents: IntentLog, store: RedisClient, owner: str
) -> None:
    entry = an_intent(purge=True)
    place = make_partials(settings, f"{DIGEST}.part")
    intents.write(entry)
    intents.write_attempt(entry.id, Attempt(attempt=1, fence=1, partials=(DIGEST,)))
    store.set(keys.file(DIGEST), owner)
    close(settings, store, intents, entry.id)
    assert os.listdir(place) == [f"{DIGEST}.part"]


def test_without_the_wish_everything_stays(settings: Settings, intents: IntentLog, store: RedisClient) -> None:
    entry = an_intent()
    place = make_partials(settings, f"{DIGEST}.part")
    intents.write(entry)
    intents.write_attempt(entry.id, Attempt(attempt=1, fence=1, partials=(DIGEST,)))
    close(settings, store, intents, entry.id)
    assert os.listdir(place) == [f"{DIGEST}.part"]
    assert intents.ids() == []


def test_a_purge_that_died_is_done_by_whoever_looks_next(
    settings: Settings, downloads: DownloadContext, intents: IntentLog, restorer: Restore, store: RedisClient
) -> None:
    record = started(downloads, intents)
    intents.write(intent_of(record, cancelled=True, purge=True))
    place = make_partials(settings, f"{DIGEST}.part")
    intents.write_attempt(record.id, Attempt(attempt=1, fence=1, partials=(DIGEST,)))
    held = claim(downloads, record.id)
    downloads.claims.finish(held, 2, "complete", complete(), "/store/x")
    restorer.look(None)
    assert os.listdir(place) == []


def test_a_name_that_leads_elsewhere_is_not_removed(
    settings: Settings, intents: IntentLog, store: RedisClient, tmp_path: Path
) -> None:
    entry = an_intent(purge=True)
    make_partials(settings)
    target = tmp_path / "precious.part"
    target.write_bytes(b"x")
    intents.write(entry)
    path = folder(settings) / f"{entry.id}.held.json"
    path.write_text('{"attempt":1,"fence":1,"partials":["../../../precious"]}')
    close(settings, store, intents, entry.id)
    assert target.exists()
