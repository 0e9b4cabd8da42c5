"""Verification and collection of garbage while real downloads run."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import pytest
import requests
from huggingface_hub import scan_cache_dir, snapshot_download

from hive.client import Client
from hive.settings import Settings
from hive.wire.maintenance import Removed, Verified
from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.gc import age, stray_blob
from tests.support.processes import Server, stopping
from tests.support.service import Service
from tests.support.store import put
from tests.support.waiting import wait_for

#: Files that are published one after the other, and one that takes a while.
SMALL = {f"part-{number}.bin": SyntheticFile(2 * MIB, seed=number) for number in range(6)}
LARGE = SyntheticFile(48 * MIB, seed=99)


@pytest.fixture
def store_dir(env: dict[str, str]) -> Path:
    return Path(env["HIVE_STORE"])


def collect(service: Service) -> list[str]:
    """What a collection removes that keeps nothing for long."""
    with Client(service.server.url) as client:
        return [line.path for line in client.collect_garbage(older_than_s=0) if isinstance(line, Removed)]


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def start_large(service: Service, hub: HubServer, store_dir: Path) -> str:
    """A download that has published some blobs, which nothing links to yet, and is at its large file."""
    hub.create("org/model", {**SMALL, "model.safetensors": LARGE})
    hub.limit_rate_bytes_per_s = 6 * MIB
    download_id: str = service.post("hf:org/model")["download_id"]
    blobs = store_dir / "hub" / "models--org--model" / "blobs"
    partials = store_dir / "hive" / "partial"
    wait_for(lambda: len(files_below(blobs)) >= 1 and any(partials.glob("*.journal")))
    assert not list((store_dir / "hub" / "models--org--model" / "snapshots").iterdir())
    return download_id


def test_a_collection_does_no_harm_to_a_download_under_way(service: Service, hub: HubServer, store_dir: Path) -> None:
    client = service.watch(start_large(service, hub, store_dir))
    for _ in range(5):
        # As if the download had been at it for a month.
        for path in files_below(store_dir):
            with contextlib.suppress(FileNotFoundError):  # it became whole meanwhile, and has its place in the cache
                age(path)
        assert collect(service) == []
    hub.limit_rate_bytes_per_s = None
    client.wait(60)
    assert client.last["stage"] == "complete", client.last
    snapshot = Path(client.last["local_path"])
    assert file_sha256(str(snapshot / "model.safetensors")) == LARGE.sha256()
    assert client.last.get("bytes_refetched", 0) == 0
    age(store_dir)
    assert collect(service) == []
    assert scan_cache_dir(store_dir / "hub").warnings == []


def test_a_paused_download_finds_everything_again_and_a_cancelled_one_does_not(
    service: Service, hub: HubServer, store_dir: Path
) -> None:
    download_id = start_large(service, hub, store_dir)
    url = f"{service.server.url}/v1/downloads/{download_id}"
    assert requests.post(f"{url}/pause", timeout=60).status_code == 202
    wait_for(lambda: service.show(download_id)["status"] == "paused")
    before = sorted(files_below(store_dir / "hive" / "partial") + files_below(store_dir / "hub"))
    age(store_dir, 20 * 86_400)
    assert collect(service) == []
    assert sorted(files_below(store_dir / "hive" / "partial") + files_below(store_dir / "hub")) == before
    refused = requests.delete(f"{service.server.url}/v1/models/org/model", timeout=60)
    assert refused.status_code in (404, 409)
    assert requests.delete(url, timeout=60).status_code == 202
    wait_for(lambda: service.show(download_id)["status"] == "cancelled")
    wait_for(lambda: not files_below(store_dir / "hive" / "downloads"))
    age(store_dir, 20 * 86_400)
    gone = collect(service)
    assert any(path.startswith("hive/partial/") for path in gone)
    assert any("/blobs/" in path for path in gone)
    assert files_below(store_dir / "hive" / "partial") == []
    assert not (store_dir / "hub" / "models--org--model").exists()
    hub.limit_rate_bytes_per_s = None
    assert service.bring("hf:org/model")["stage"] == "complete"


def test_a_wrong_file_is_mended_and_nothing_else_is_fetched(service: Service, hub: HubServer, store_dir: Path) -> None:
    hub.create("org/model", {**SMALL, "model.safetensors": LARGE, "config.json": b"{}"})
    snapshot = Path(service.bring("hf:org/model")["local_path"])
    (snapshot / "part-1.bin").resolve().write_bytes(b"x" * 2 * MIB)
    (snapshot / "config.json").resolve().unlink()
    sent = hub.bytes_sent("*")
    with Client(service.server.url) as client:
        end = list(client.verify(["org/model"], fetch=True))[-1]
    assert isinstance(end, Verified)
    assert (end.problems, len(end.downloads)) == (2, 1)
    last = service.watch(end.downloads[0]).wait().last
    assert last["stage"] == "complete", last
    assert file_sha256(str(snapshot / "part-1.bin")) == SMALL["part-1.bin"].sha256()
    assert (snapshot / "config.json").read_bytes() == b"{}"
    assert hub.bytes_sent("*.bin") - sent < 3 * MIB
    with Client(service.server.url) as client:
        again = list(client.verify())[-1]
    assert isinstance(again, Verified)
    assert (again.problems, again.files) == (0, len(SMALL) + 2)


def test_what_huggingface_hub_downloaded_is_right(service: Service, hub: HubServer, store_dir: Path) -> None:
    hub.create("org/theirs", {"config.json": b"{}", "model.safetensors": SyntheticFile(MIB, seed=5), "a/b.txt": b"b"})
    cache = store_dir / "hub"
    snapshot_download("org/theirs", endpoint=hub.endpoint, cache_dir=cache)
    partly = snapshot_download("org/theirs", endpoint=hub.endpoint, cache_dir=cache, allow_patterns=["*.json"])
    with Client(service.server.url) as client:
        end = list(client.verify())[-1]
        assert isinstance(end, Verified)
        assert (end.problems, end.files) == (0, 3)
    age(store_dir)
    assert collect(service) == []
    assert Path(partly, "a/b.txt").read_bytes() == b"b"


def test_a_server_killed_in_the_middle_of_a_collection_leaves_the_models_whole(
    env: dict[str, str], settings: Settings
) -> None:
    whole = {f"file-{number}": b"%d" % number for number in range(20)}
    put(settings, "org/name", whole)
    for number in range(3000):
        stray_blob(settings, "org/name", b"stray %d" % number)
    age(settings.hub_dir)
    server = Server(env)
    try:
        server.wait_until_ready()
        answer = requests.post(f"{server.url}/v1/gc", stream=True, timeout=60)
        assert json.loads(next(answer.iter_lines()))["kind"] == "blob"
        server.signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        answer.close()
    finally:
        server.stop()
    blobs = settings.hub_dir / "models--org--name" / "blobs"
    assert len(list(blobs.iterdir())) > len(whole)
    with stopping(Server(env)) as again:
        assert isinstance(again, Server)
        wait_for(lambda: requests.get(f"{again.url}/readyz", timeout=60).status_code == 200)
        age(settings.hub_dir)
        with Client(again.url) as client:
            list(client.collect_garbage())
            assert [model.id for model in client.models()] == ["org/name"]
            end = list(client.verify())[-1]
    assert isinstance(end, Verified)
    assert (end.files, end.problems) == (len(whole), 0)
    assert len(list(blobs.iterdir())) == len(whole)
