"""Verification and collection of garbage over HTTP, and what a download under way means to them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import requests

from hive.api import background, maintenance
from hive.api.maintenance import TIDY_INTERVAL_S, tidy
from hive.api.services import Services, make_services
from hive.client import AsyncClient, Client, ServerUnreachable
from hive.downloads.context import DownloadContext
from hive.errors import BadRequest, Conflict, ModelInUse, ModelNotOnDisk, RedisUnavailable
from hive.redis.client import RedisClient
from hive.settings import Settings
from hive.wire import keys
from hive.wire.jobs import Request
from hive.wire.maintenance import Collected, Problem, Refetch, Removed, Verified
from tests.support.downloads import claim, downloading, new
from tests.support.gc import DIGEST, age, partial, stray_blob
from tests.support.processes import Server, stopping
from tests.support.store import COMMIT, WHOLE, put, put_url, sha256
from tests.support.waiting import AT_ONCE_S, wait_for, wait_for_async

pytestmark = pytest.mark.anyio


def under_way(downloads: DownloadContext, ref: str = "hf:org/name") -> str:
    """The id of a queued download."""
    return downloads.tracker.create(new(sha256(ref.encode()), ref=ref, request=Request(ref=ref)))[0]


def spoil(snapshot: Path, path: str) -> None:
    (snapshot / path).resolve().write_bytes(b"spoilt!")


def test_a_verification_says_line_by_line_what_is_wrong(api: str, settings: Settings) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    spoil(snapshot, "model.safetensors")
    answer = requests.post(f"{api}/v1/models/verify", timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.headers["x-accel-buffering"] == "no"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["event"] for line in lines][-2:] == ["problem", "end"]
    assert (lines[-2]["path"], lines[-2]["kind"]) == ("model.safetensors", "wrong_digest")
    assert (lines[-1]["problems"], lines[-1]["files"]) == (1, 3)


def test_the_client_names_models(api: str, settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    spoil(put(settings, "org/other", {"a": b"a"}), "a")
    with Client(api) as client:
        end = list(client.verify(["org/name"]))[-1]
        assert isinstance(end, Verified)
        assert (end.problems, end.files) == (0, 3)
        with pytest.raises(ModelNotOnDisk):
            list(client.verify(["org/none"]))
        with pytest.raises(ModelNotOnDisk):
            list(client.verify(["org/name:Q4_K_M"]))


async def test_the_asynchronous_client_reads_the_same(api: str, settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    async with AsyncClient(api) as client:
        assert isinstance([line async for line in client.verify()][-1], Verified)
        assert isinstance([line async for line in client.collect_garbage()][-1], Collected)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("models/verify", {"models": "org/name"}),
        ("models/verify", {"models": [""]}),
        ("models/verify", {"fetch": "yes"}),
        ("models/verify", {"other": 1}),
        ("gc", {"older_than_seconds": -1}),
        ("gc", {"older_than_seconds": "7d"}),
        ("gc", {"dry_run": 1}),
        ("gc", []),
    ],
)
def test_what_is_no_request_is_refused(api: str, path: str, body: Any) -> None:
    answer = requests.post(f"{api}/v1/{path}", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (BadRequest.status, BadRequest.code)


def test_wrong_files_are_set_aside_and_asked_for_again(
    api: str, settings: Settings, downloads: DownloadContext
) -> None:
    snapshot = put(settings, "org/name", {**WHOLE, "we[i]rd*.txt": b"odd"})
    spoil(snapshot, "model.safetensors")
    (snapshot / "we[i]rd*.txt").resolve().unlink()
    with Client(api) as client:
        lines = list(client.verify(fetch=True))
    [refetch] = [line for line in lines if isinstance(line, Refetch)]
    assert refetch.paths == ("model.safetensors", "we[i]rd*.txt")
    bad = settings.hive_dir / "partial" / f"{sha256(b'weights')}.bad"
    assert bad.read_bytes() == b"spoilt!"
    assert isinstance(lines[-1], Verified)
    assert lines[-1].downloads == (refetch.download_id,)
    record = downloads.tracker.read(refetch.download_id or "")
    assert record is not None
    assert record.request == Request(ref=f"hf:org/name@{COMMIT}", include=("model.safetensors", "we[[]i]rd[*].txt"))
    assert record.state == "queued"
    assert (snapshot / "config.json").read_bytes() == b"{}"
    assert not (snapshot / "model.safetensors").exists()


def test_a_second_wrong_file_of_the_same_digest_does_not_replace_the_first(api: str, settings: Settings) -> None:
    for repo in ("org/one", "org/two"):
        (put(settings, repo, {"a": b"the same"}) / "a").resolve().write_bytes(repo.encode())
    with Client(api) as client:
        assert len([line for line in client.verify(fetch=True) if isinstance(line, Refetch)]) == 2
    kept = {path.read_bytes() for path in (settings.hive_dir / "partial").glob("*.bad")}
    assert kept == {b"org/one", b"org/two"}


def test_a_model_that_a_download_is_using_is_not_mended(
    api: str, settings: Settings, downloads: DownloadContext
) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    spoil(snapshot, "model.safetensors")
    under_way(downloads)
    with Client(api) as client:
        [refetch] = [line for line in client.verify(fetch=True) if isinstance(line, Refetch)]
    assert (refetch.download_id, refetch.code) == (None, ModelInUse.code)
    assert (snapshot / "model.safetensors").read_bytes() == b"spoilt!"


def test_a_urls_file_is_asked_for_again_unless_its_query_was_secret(
    api: str, settings: Settings, downloads: DownloadContext
) -> None:
    for url in ("https://host.example/open.gguf", "https://host.example/signed.gguf?signature=1"):
        put_url(settings, url, b"content").write_bytes(b"CONTENT")
    with Client(api) as client:
        refetches = [line for line in client.verify(fetch=True) if isinstance(line, Refetch)]
    [done] = [line for line in refetches if line.download_id]
    [refused] = [line for line in refetches if not line.download_id]
    record = downloads.tracker.read(done.download_id or "")
    assert record is not None
    assert record.request.ref == "https://host.example/open.gguf"
    assert "query" in (refused.message or "")
    assert "signature" not in str(refetches)


def big(settings: Settings, mib: int = 4096) -> None:
    """A model that takes longer to read than a test does: a hole in the disk, but a hash has to be made of it."""
    snapshot = put(settings, "org/big", {"model.safetensors": b"x"})
    os.truncate((snapshot / "model.safetensors").resolve(), mib << 20)


def test_one_verification_at_a_time_and_a_client_that_goes_stops_it(api: str, settings: Settings) -> None:
    big(settings)
    with Client(api) as client:
        lines = client.verify()
        next(lines)
        with pytest.raises(Conflict):
            list(client.verify())
        assert requests.get(f"{api}/v1/health", timeout=60).status_code == 200
        lines.close()

        def is_free() -> bool:
            try:
                next(client.verify(["org/none"]))
            except Conflict:
                return False
            except ModelNotOnDisk:
                pass
            # A model that is not there is refused before the place is looked at: take the place for a moment.
            answer = requests.post(f"{api}/v1/models/verify", stream=True, timeout=60)
            answer.close()
            return answer.status_code == 200

        began_s = time.monotonic()
        wait_for(is_free, deadline_s=10)
        assert time.monotonic() - began_s < AT_ONCE_S


def test_a_server_that_stops_ends_the_answer_without_an_end(
    server_env: dict[str, str], api: str, settings: Settings
) -> None:
    big(settings, 65_536)
    server = Server(server_env)
    with stopping(server), Client(server.url) as client:
        server.wait_until_ready()
        lines = client.verify()
        next(lines)
        began_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began_s < AT_ONCE_S
        with pytest.raises(ServerUnreachable):
            list(lines)
    assert "Traceback" not in server.output


def test_silence_is_filled_with_empty_lines(api: str, settings: Settings) -> None:
    """A named pipe among the files would block a careless reader; here the long silence is that of a huge file."""
    big(settings)
    answer = requests.post(f"{api}/v1/models/verify", stream=True, timeout=60)
    lines = answer.iter_lines()
    assert json.loads(next(lines))["event"] == "progress"
    assert next(lines) == b""
    answer.close()


def test_a_slow_client_does_not_fill_the_servers_memory(api: str, settings: Settings) -> None:
    """It reads nothing for a while, and then gets all of it."""
    snapshot = settings.hub_dir / "models--org--many" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for number in range(3000):
        (snapshot / f"{number:05d}").symlink_to(f"../../blobs/{number:064x}")
    host, port = api.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.settimeout(60)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        client.connect((host, int(port)))
        headers = b"Host: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        client.sendall(b"POST /v1/models/verify HTTP/1.1\r\n" + headers)
        assert client.recv(13) == b"HTTP/1.1 200 ", "it has begun, and finds the place free"
        # While it is blocked, the place is taken: the thread waits and has not run through.
        for _ in range(3):
            wait_for(lambda: requests.post(f"{api}/v1/models/verify", timeout=60).status_code == 409)
        data = b""
        while chunk := client.recv(65_536):
            data += chunk
    assert data.count(b"dangling_link") == 3000
    assert b'"event":"end"' in data


def test_garbage_is_listed_and_then_removed(api: str, settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    blob, part = stray_blob(settings, "org/name", b"stray"), partial(settings, f"{DIGEST}.part")
    for dry_run in (True, False):
        answer = requests.post(f"{api}/v1/gc", json={"dry_run": dry_run}, timeout=60)
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert {line["kind"] for line in lines[:-1]} == {"blob", "partial"}
        assert (lines[-1]["dry_run"], lines[-1]["removed"], lines[-1]["bytes"]) == (dry_run, 2, 9)
        assert blob.exists() == part.exists() == dry_run


def test_what_has_not_come_whole_is_listed_with_who_wants_it(
    api: str, settings: Settings, downloads: DownloadContext
) -> None:
    assert requests.get(f"{api}/v1/partials", timeout=60).json() == {"object": "list", "data": []}
    download_id = under_way(downloads, "hf:org/wanted")
    wanted, nobodys = partial(settings, f"{DIGEST}.{download_id}.part"), partial(settings, f"{'cd' * 32}.part")
    nobodys.write_bytes(b"x" * 100_000)
    age(nobodys)
    wrong, empty = partial(settings, f"{'ef' * 32}.bad"), partial(settings, f"{'0a' * 32}.lock")
    empty.write_bytes(b"")
    found = requests.get(f"{api}/v1/partials", timeout=60).json()["data"]
    assert found[0]["path"] == f"hive/partial/{nobodys.name}", "what takes most comes first"
    by_path = {one.pop("path").rpartition("/")[2]: one for one in found}
    assert by_path.keys() == {wanted.name, nobodys.name, wrong.name}, "a lock alone takes no room"
    assert 100_000 <= by_path[nobodys.name]["bytes"] <= 110_000
    assert abs(by_path[nobodys.name]["modified_at"] - nobodys.stat().st_mtime) < 1
    seen = {name: (one["kind"], one["in_use"], one["model_ref"]) for name, one in by_path.items()}
    assert seen == {
        wanted.name: ("partial", True, "hf:org/wanted"),
        nobodys.name: ("partial", False, None),
        wrong.name: ("set_aside", False, None),
    }


def test_what_takes_room_is_not_what_a_file_with_holes_is_to_be(api: str, settings: Settings) -> None:
    os.truncate(partial(settings, f"{DIGEST}.part"), 1 << 30)
    (found,) = requests.get(f"{api}/v1/partials", timeout=60).json()["data"]
    assert found["bytes"] < 1 << 20


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_what_a_live_download_may_need_stays(
    api: str, settings: Settings, downloads: DownloadContext, state: str
) -> None:
    put(settings, "org/name", WHOLE)
    blob = stray_blob(settings, "org/name", b"published, and not linked yet")
    download_id = under_way(downloads)
    bring_to(downloads, download_id, state)
    small, other = partial(settings, f"{DIGEST}.{download_id}.part"), partial(settings, f"{DIGEST}.part")
    with Client(api) as client:
        gone = [line.path for line in client.collect_garbage() if isinstance(line, Removed)]
        assert gone == [f"hive/partial/{other.name}"]
        assert blob.exists()
        assert small.exists()
        with pytest.raises(ModelInUse):
            client.delete_model("org/name")
    assert (settings.hub_dir / "models--org--name" / "refs" / "main").exists()


def bring_to(downloads: DownloadContext, download_id: str, state: str) -> None:
    """Make a queued download running or paused."""
    record = downloads.tracker.read(download_id)
    assert record is not None
    if state == "running":
        claim(downloads, download_id)
    elif state == "paused":
        assert downloads.claims.release(record, downloading(status="paused"), counts=False, to="paused")
    found = downloads.tracker.read(download_id)
    assert found is not None
    assert found.state == state


def test_a_model_of_another_download_can_be_deleted(api: str, settings: Settings, downloads: DownloadContext) -> None:
    put(settings, "org/name", WHOLE)
    path = put_url(settings, "https://host.example/f", b"content")
    under_way(downloads, "hf:org/other")
    under_way(downloads, "https://host.example/g")
    with Client(api) as client:
        assert client.delete_model("org/name").deleted
        assert client.delete_model(f"url/{path.parent.name}/file.gguf").deleted


def test_a_url_that_is_being_fetched_cannot_be_deleted(
    api: str, settings: Settings, downloads: DownloadContext
) -> None:
    path = put_url(settings, "https://host.example/f?signature=1", b"content")
    under_way(downloads, "https://host.example/f")
    with Client(api) as client, pytest.raises(ModelInUse):
        client.delete_model(f"url/{path.parent.name}/file.gguf")
    assert path.exists()


def test_a_partial_file_under_lease_stays(api: str, settings: Settings, store: RedisClient) -> None:
    path = partial(settings, f"{DIGEST}.part")
    store.set(keys.file(DIGEST), b"somebody 1", px=60_000)
    with Client(api) as client:
        assert not [line for line in client.collect_garbage() if isinstance(line, Removed)]
    assert path.exists()


def test_problems_come_while_the_verification_goes_on(api: str, settings: Settings) -> None:
    spoil(put(settings, "org/a", {"a": b"a"}), "a")
    big(settings)
    with Client(api) as client:
        lines = client.verify()
        assert any(isinstance(line, Problem) for line, _ in zip(lines, range(3), strict=False))
        lines.close()


@pytest.fixture
async def services(settings: Settings, redis_url: str) -> AsyncIterator[Services]:
    """What an HTTP process works with, without the process."""
    made = make_services(settings, redis_url)
    yield made
    made.commands.close()


async def test_old_partials_go_once_an_hour_in_one_of_the_processes(
    api: str, settings: Settings, services: Services, redis_url: str, store: RedisClient
) -> None:
    path = partial(settings, f"{DIGEST}.part")
    blob = stray_blob(settings, "org/name", b"stray")
    other = make_services(settings, redis_url)
    try:
        assert await tidy(other)
        assert not path.exists()
        path = partial(settings, f"{DIGEST}.part")
        assert not await tidy(services)
        assert not await tidy(other)
        assert path.exists()
        assert 0 < store.ttl(keys.TIDY_TURN) <= TIDY_INTERVAL_S
        store.delete(keys.TIDY_TURN)
        assert await tidy(services)
        assert not path.exists()
        assert blob.exists()
    finally:
        other.commands.close()


async def test_the_hourly_collection_goes_on_after_a_failure(
    api: str, settings: Settings, services: Services, store: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = partial(settings, f"{DIGEST}.part")
    monkeypatch.setattr(background, "TIDY_CHECK_S", 0.01)
    failures = iter([RedisUnavailable(), RuntimeError("a mistake")])
    real = maintenance.tidy

    async def fail(found: Services) -> bool:
        for failure in failures:
            raise failure
        return await real(found)

    monkeypatch.setattr(maintenance, "tidy", fail)
    loop = asyncio.create_task(background.tidy_for_ever(services))
    await wait_for_async(lambda: not path.exists())
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


def test_without_redis_the_disk_is_verified_and_nothing_is_collected(
    server_env: dict[str, str], api: str, settings: Settings
) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    spoil(snapshot, "model.safetensors")
    blob, part = stray_blob(settings, "org/name", b"stray"), partial(settings, f"{DIGEST}.part")
    server = Server({**server_env, "REDIS_URL": f"unix://{settings.home_dir}/nobody.sock"})
    with stopping(server), Client(server.url) as client:
        with pytest.raises(RedisUnavailable):
            list(client.collect_garbage())
        [refetch] = [line for line in client.verify(fetch=True) if isinstance(line, Refetch)]
        assert (refetch.download_id, refetch.code) == (None, RedisUnavailable.code)
    assert blob.exists()
    assert part.exists()
    assert (snapshot / "model.safetensors").read_bytes() == b"spoilt!"


def test_young_partials_stay_for_their_retention(api: str, settings: Settings) -> None:
    path = partial(settings, f"{DIGEST}.part", seconds=settings.partial_ttl_s - 3600)
    with Client(api) as client:
        assert len(list(client.collect_garbage())) == 1
        age(path, settings.partial_ttl_s + 3600)
        assert len(list(client.collect_garbage())) == 2
