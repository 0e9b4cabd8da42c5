"""What the server notes of a request on the disk, and what it does where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from hive.api.services import make_services
from hive.downloads.context import DownloadContext
from hive.downloads.intents import IntentLog
from hive.errors import StoreMissing
from hive.redis.client import RedisClient
from hive.settings import Settings
from tests.support.downloads import claim, complete, create


def post(api: str, model_ref: str, **body: object) -> requests.Response:
    return requests.post(f"{api}/v1/models/download", json={"model_ref": model_ref, **body}, timeout=60)


def act(api: str, download_id: str, word: str) -> None:
    assert requests.post(f"{api}/v1/downloads/{download_id}/{word}", timeout=60).status_code == 202


def test_a_request_is_noted_when_it_is_answered_and_follows_what_people_do(api: str, settings: Settings) -> None:
    intents = IntentLog(settings)
    download_id = post(api, "hf:org/noted", priority="low", hf_token="hf_canary").json()["download_id"]
    entry = intents.read(download_id)
    assert entry is not None
    assert (entry.ref, entry.priority, entry.paused, entry.cancelled) == ("hf:org/noted", "low", False, False)
    act(api, download_id, "pause")
    assert (paused := intents.read(download_id)) is not None
    assert paused.paused
    act(api, download_id, "resume")
    requests.put(f"{api}/v1/downloads/{download_id}/priority", json={"priority": "high"}, timeout=60)
    assert (resumed := intents.read(download_id)) is not None
    assert (resumed.paused, resumed.priority) == (False, "high")
    assert all(b"canary" not in path.read_bytes() for path in settings.hive_dir.rglob("*.json"))
    assert requests.delete(f"{api}/v1/downloads/{download_id}", timeout=60).status_code == 202
    assert intents.ids() == []


def test_a_lost_download_is_there_for_whoever_asks(api: str, store: RedisClient) -> None:
    download_id = post(api, "hf:org/lost").json()["download_id"]
    for path in (f"/v1/downloads/{download_id}", f"/v1/downloads/{download_id}?wait=0.1s"):
        store.flushall()
        shown = requests.get(f"{api}{path}", timeout=60)
        assert (shown.status_code, shown.json()["status"]) == (200, "queued")
    store.flushall()
    assert requests.delete(f"{api}/v1/downloads/{download_id}", timeout=60).status_code == 202
    store.flushall()
    assert requests.get(f"{api}/v1/downloads/{download_id}", timeout=60).status_code == 404, "it has ended"


@pytest.mark.parametrize("purge", [True, False])
def test_a_store_that_cannot_be_written_hinders_nothing_but_a_purge(api: str, settings: Settings, purge: bool) -> None:
    Path(settings.hive_dir).mkdir(parents=True, exist_ok=True)
    (settings.hive_dir / "downloads").write_text("in the way")
    made = post(api, "hf:org/unwritten")
    assert made.status_code == 202
    query = "?purge=true" if purge else ""
    answer = requests.delete(f"{api}/v1/downloads/{made.json()['download_id']}{query}", timeout=60)
    assert answer.status_code == (507 if purge else 202)
    if purge:
        assert answer.json()["error"]["code"] == "STORE_NOT_WRITABLE"


@pytest.mark.anyio
async def test_a_store_that_is_silent_at_the_end_of_a_download_is_no_reason_to_refuse_the_end(
    redis_url: str, downloads: DownloadContext, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has ended has ended; the note goes later."""
    download_id = create(downloads)
    downloads.claims.finish(claim(downloads, download_id), 2, "complete", complete(), "/x")
    ended = downloads.tracker.read(download_id)
    assert ended is not None
    service = make_services(settings, redis_url).downloads

    def silent(_: str) -> None:
        raise StoreMissing

    monkeypatch.setattr(service._restore, "close", silent)
    await service.changed(ended)
    service.close()
