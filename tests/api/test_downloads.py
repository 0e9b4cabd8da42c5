"""Starting, listing and cancelling downloads at a real server."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests

from hive.downloads.context import DownloadContext
from hive.redis.client import RedisClient
from hive.secrets import purpose_of, unseal
from hive.settings import Settings
from hive.wire import keys
from hive.wire.jobs import job_id
from hive.wire.refs import parse_ref
from tests.support.downloads import claim, complete, create, downloading
from tests.support.processes import Server, environment
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

TOKEN = "hf_canary_0123456789"


def post(api: str, **body: Any) -> requests.Response:
    return requests.post(f"{api}/v1/models/download", json=body, timeout=60)


def error_of(answer: requests.Response) -> str:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "details", "request_id", "type", "param"}
    code: str = body["error"]["code"]
    return code


def test_a_download_is_answered_at_once_with_an_id(api: str, downloads: DownloadContext, store: RedisClient) -> None:
    answer = post(api, model_ref="hf:org/name")
    body = answer.json()
    assert (answer.status_code, body["local_path"], body["joined"]) == (202, None, False)
    assert str(uuid.UUID(body["download_id"])) == body["download_id"]
    record = downloads.tracker.read(body["download_id"])
    assert record is not None
    assert (record.state, record.ref) == ("queued", "hf:org/name")
    assert store.lrange("rq:queue:hive", 0, -1) == [job_id(record.id, 1).encode()]


def test_the_same_request_joins_and_another_quantisation_does_not(api: str) -> None:
    first = post(api, model_ref="hf:org/name:Q4_K_M").json()
    assert post(api, model_ref="org/name:q4_k_m").json() == {**first, "joined": True}
    assert post(api, model_ref="hf:org/name", revision="main", include=["*.gguf"]).json()["joined"] is False
    assert post(api, model_ref="hf:org/name:Q8_0").json()["joined"] is False
    assert post(api, model_ref="hf:org/name@main:Q4_K_M").json()["joined"] is True


def test_requests_that_race_on_two_replicas_share_one_download(
    api: str, server_env: dict[str, str], redis_url: str, store: RedisClient
) -> None:
    other = Server(server_env)
    try:
        wait_for(lambda: requests.get(f"{other.url}/readyz", timeout=60).status_code == 200)
        answers: list[dict[str, Any]] = []
        gate = threading.Barrier(16)

        def ask(url: str) -> None:
            gate.wait()
            answers.append(post(url, model_ref="hf:org/raced").json())

        threads = [threading.Thread(target=ask, args=(url,)) for url in (api, other.url) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        other.stop()
    assert len({answer["download_id"] for answer in answers}) == 1
    assert sorted(answer["joined"] for answer in answers) == [False] + [True] * 15
    assert store.llen("rq:queue:hive") == 1


def test_a_file_from_a_url_that_is_on_disk_needs_its_id_only(api: str) -> None:
    assert post(api, model_ref="https://example.org/a/model.gguf?signature=abc").status_code == 202


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "INVALID_REQUEST"),
        (b"{", 400, "INVALID_REQUEST"),
        (b"null", 400, "INVALID_REQUEST"),
        (b"[]", 400, "INVALID_REQUEST"),
        (b"\xff\xfe", 400, "INVALID_REQUEST"),
        (b"[" * 60_000, 400, "INVALID_REQUEST"),
        (b'{"a":' * 10_000, 400, "INVALID_REQUEST"),
        (b"{}", 400, "INVALID_REQUEST"),
        (b'{"model_ref": 7}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": ""}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "hf:org/name", "unknown": 1}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "hf:org/name", "update": "yes"}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "hf:org/name", "hf_token": "a b"}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "hf:org/name", "sha256": "abc"}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "hf:org/name", "name": "x.gguf"}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "https://host.example/f", "name": "../x.gguf"}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "https://host.example/f", "name": "a\\u0000.gguf"}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "https://host.example/f", "name": "nul.gguf"}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "hf:org/name", "include": [' + b'"x",' * 100 + b'"x"]}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "ftp://host/file"}', 400, "INVALID_MODEL_REF"),
        (b'{"model_ref": "file:///etc/passwd"}', 400, "UNSAFE_URL"),
        (b'{"model_ref": "hf:org/../name"}', 400, "INVALID_MODEL_REF"),
        (b'{"model_ref": "hf:org/name/../../x"}', 400, "INVALID_MODEL_REF"),
        (b'{"model_ref": "hf:org/na\\u0000me"}', 400, "INVALID_MODEL_REF"),
        (b'{"model_ref": "hf:org/name/\\ud800"}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "http://good\\\\@127.0.0.1/"}', 400, "INVALID_MODEL_REF"),
        (b'{"model_ref": "https://user:pass@host/file"}', 400, "INVALID_MODEL_REF"),
        (b'{"model_ref": "' + b"a" * 5000 + b'"}', 400, "INVALID_REQUEST"),
        (b'{"model_ref": "' + b"a" * 70_000 + b'"}', 413, "BODY_TOO_LARGE"),
    ],
)
def test_bad_input_gets_a_code_and_a_sentence(api: str, server: Server, body: bytes, status: int, code: str) -> None:
    answer = requests.post(f"{api}/v1/models/download", data=body, timeout=60)
    assert (answer.status_code, error_of(answer)) == (status, code)
    assert len(answer.json()["error"]["message"]) > 20
    assert "Traceback" not in answer.text
    assert "Traceback" not in server.output


def test_a_body_in_chunks_cannot_get_around_the_limit(api: str) -> None:
    answer = requests.post(f"{api}/v1/models/download", data=(b"a" * 1000 for _ in range(100)), timeout=60)
    assert (answer.status_code, error_of(answer)) == (413, "BODY_TOO_LARGE")


def test_a_token_lies_in_redis_encrypted_and_nowhere_else(
    api: str, server: Server, store: RedisClient, settings: Settings
) -> None:
    download_id = post(api, model_ref="hf:org/gated", hf_token=TOKEN).json()["download_id"]
    for key in store.keys("*"):
        assert TOKEN.encode() not in store.dump(key), key
    sealed = store.get(keys.secret(download_id))
    assert sealed is not None
    purpose = purpose_of("download", download_id, parse_ref("hf:org/gated"), settings.hf_endpoint)
    assert unseal(sealed, settings.secret_key_path, purpose).hf_token == TOKEN
    assert store.ttl(keys.secret(download_id)) > 0
    assert settings.secret_key_path.stat().st_mode & 0o777 == 0o600
    listed = requests.get(f"{api}/v1/downloads", timeout=60).text
    assert TOKEN not in listed
    assert TOKEN not in server.output


def test_the_query_of_a_url_is_treated_as_a_secret(api: str, server: Server, store: RedisClient) -> None:
    download_id = post(api, model_ref=f"https://example.org/m.gguf?X-Signature={TOKEN}").json()["download_id"]
    shown = requests.get(f"{api}/v1/downloads/{download_id}", timeout=60).json()
    assert shown["model_ref"] == "https://example.org/m.gguf?..."
    assert all(TOKEN.encode() not in store.dump(key) for key in store.keys("*"))
    assert TOKEN not in server.output


def test_a_download_is_shown_with_its_progress(api: str, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    downloads.claims.publish(claim(downloads, download_id), 2, downloading(25))
    shown = requests.get(f"{api}/v1/downloads/{download_id}", timeout=60).json()
    assert (shown["status"], shown["progress"]["bytes_downloaded"]) == ("downloading", 25)
    assert shown["created_at"] <= shown["started_at"] <= shown["updated_at"]
    assert shown["ended_at"] is None


def test_the_list_pages_with_a_cursor_and_filters_by_status(api: str, downloads: DownloadContext) -> None:
    ids = [create(downloads, f"model-{n}") for n in range(7)]
    downloads.claims.finish(claim(downloads, ids[3]), 2, "complete", complete(), "/x")
    seen, cursor = [], None
    while True:
        params = {"limit": "3", **({"cursor": cursor} if cursor else {})}
        page = requests.get(f"{api}/v1/downloads", params=params, timeout=60).json()
        seen += [item["id"] for item in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(ids)
    ended = requests.get(f"{api}/v1/downloads?status=ended", timeout=60).json()["data"]
    assert [item["id"] for item in ended] == [ids[3]]
    assert len(requests.get(f"{api}/v1/downloads?status=active", timeout=60).json()["data"]) == 6


def test_the_list_is_filtered_by_what_a_download_is_called(api: str, downloads: DownloadContext) -> None:
    ids = {name: create(downloads, name) for name in ("Gemma-3", "llama", "gemma-2")}

    def named(text: str) -> set[str]:
        answer = requests.get(f"{api}/v1/downloads", params={"model": text}, timeout=60)
        return {download["id"] for download in answer.json()["data"]}

    assert named("gEMMA") == {ids["Gemma-3"], ids["gemma-2"]}
    assert named("hf:org/llama") == {ids["llama"]}
    assert named("nothing") == set()
    assert named("") == set(ids.values())
    assert requests.get(f"{api}/v1/downloads", params={"model": "x" * 5000}, timeout=60).status_code == 400


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=201", "status=running", "cursor=abc", "cursor=%F0"])
def test_a_bad_query_is_told(api: str, query: str) -> None:
    answer = requests.get(f"{api}/v1/downloads?{query}", timeout=60)
    assert (answer.status_code, error_of(answer)) == (400, "INVALID_REQUEST")


def test_cancelling_a_waiting_download_ends_it_at_once(api: str, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    client = SseClient(f"{api}/v1/models/download/progress?id={download_id}")
    answer = requests.delete(f"{api}/v1/downloads/{download_id}", timeout=60)
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    client.wait()
    assert (client.last["stage"], client.last["code"], client.done) == ("error", "CANCELLED", 1)
    again = requests.delete(f"{api}/v1/downloads/{download_id}", timeout=60)
    assert (again.status_code, error_of(again)) == (409, "DOWNLOAD_ENDED")


def test_cancelling_a_running_download_asks_its_worker(api: str, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    assert requests.delete(f"{api}/v1/downloads/{download_id}", timeout=60).status_code == 202
    assert downloads.claims.renew(held).control == "cancel"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_and_malformed_ids_are_told_apart(api: str, method: str) -> None:
    unknown = requests.request(method, f"{api}/v1/downloads/{uuid.uuid4()}", timeout=60)
    assert (unknown.status_code, error_of(unknown)) == (404, "DOWNLOAD_NOT_FOUND")
    malformed = requests.request(method, f"{api}/v1/downloads/12", timeout=60)
    assert (malformed.status_code, error_of(malformed)) == (400, "INVALID_ID")


def test_a_full_queue_is_429(redis_url: str, tmp_path: Path) -> None:
    server = Server(environment(redis_url, tmp_path, HIVE_MAX_QUEUED="2", HIVE_DRAIN_S="0"))
    try:
        codes = [post(server.url, model_ref=f"hf:org/m{n}").status_code for n in range(3)]
        assert codes == [202, 202, 429]
    finally:
        server.stop()


def test_a_long_poll_answers_when_the_download_has_ended(api: str, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    held = claim(downloads, download_id)
    answers: list[dict[str, Any]] = []
    url = f"{api}/v1/downloads/{download_id}?wait=30s"
    thread = threading.Thread(target=lambda: answers.append(requests.get(url, timeout=60).json()))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    downloads.claims.finish(held, 2, "complete", complete(), "/x")
    thread.join(5)
    assert [answer["status"] for answer in answers] == ["complete"]
    assert requests.get(url, timeout=60).json()["status"] == "complete", "ended already: at once"


def test_a_long_poll_answers_with_the_present_state_when_its_time_is_up(api: str, downloads: DownloadContext) -> None:
    download_id = create(downloads)
    assert requests.get(f"{api}/v1/downloads/{download_id}?wait=0.2", timeout=60).json()["status"] == "queued"


@pytest.mark.parametrize("wait", ["soon", "-1", "56s", "1e9", "10m", ""])
def test_a_wait_that_is_none_is_told(api: str, downloads: DownloadContext, wait: str) -> None:
    answer = requests.get(f"{api}/v1/downloads/{create(downloads)}?wait={wait}", timeout=60)
    assert (answer.status_code, error_of(answer)) == (400, "INVALID_REQUEST")
