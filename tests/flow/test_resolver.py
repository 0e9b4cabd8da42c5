"""References are looked at apart from the download slots: the queue knows what waits in it, and a typo ends at once."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from hive.client import Client
from hive.errors import FileNotFound, ModelNotFound, VariantNotFound, WorkersSilent
from hive.redis.client import RedisClient
from hive.settings import Settings
from hive.wire.events import Downloading
from tests.hub import SyntheticFile, faults
from tests.hub.server import HubServer
from tests.support.content import MIB
from tests.support.processes import Server, Workers
from tests.support.redis import secrets_in
from tests.support.service import TOKEN, Service, hive, slow, under_way
from tests.support.waiting import AT_ONCE_S, wait_for
from workers.resolver import THREADS, announce

#: Seconds within which a reference that means nothing must end, whatever waits before it.
SOON_S = 4 * AT_ONCE_S


@pytest.fixture
def busy(env: dict[str, str], hub: HubServer) -> Iterator[Service]:
    """A service whose one worker has a download of minutes in hand."""
    service = Service(env, workers=1)
    try:
        model = slow(hub, 0.02 * MIB)  # up to 16 connections, so three minutes at least
        under_way(service, model, at_least=1)
        yield service
    finally:
        service.stop()


def test_what_can_never_be_had_ends_within_seconds_though_the_worker_is_busy(busy: Service, hub: HubServer) -> None:
    hub.create("org/gated", {"model.safetensors": b"w"}, gated="auto")
    hub.create("org/quants", {"m-Q4_K_M.gguf": b"four", "m-Q8_0.gguf": b"eight..."})
    hub.create("org/plain", {"config.json": b"{}"})
    wrong = {
        "hf:org/none": "MODEL_NOT_FOUND",
        "hf:org/plain@none": "REVISION_NOT_FOUND",
        "hf:org/plain/none.bin": "FILE_NOT_FOUND",
        "hf:org/quants:Q2_K": "VARIANT_NOT_FOUND",
        "hf:org/gated": "MODEL_ACCESS_DENIED",
    }
    began_s = time.monotonic()
    watched = {ref: busy.watch(busy.post(ref)["download_id"]) for ref in wrong}
    for ref, client in watched.items():
        client.wait(SOON_S)
        assert (client.last["stage"], client.last["code"], client.done) == ("error", wrong[ref], 1)
        assert client.last["status"] == "failed"
    assert time.monotonic() - began_s < SOON_S
    variants = watched["hf:org/quants:Q2_K"].last["details"]["variants"]
    assert {variant["name"] for variant in variants} == {"Q4_K_M", "Q8_0"}


def test_a_typo_on_the_command_line_is_told_at_once_behind_a_full_queue(busy: Service, hub: HubServer) -> None:
    hub.create("org/quants", {"m-Q4_K_M.gguf": b"four", "m-Q8_0.gguf": b"eight..."})
    waiting = [busy.post(f"hf:org/quants:{name}")["download_id"] for name in ("Q4_K_M", "Q8_0")]
    failed = hive(busy, "pull", "-q", "org/none")
    assert (failed.returncode, failed.stdout, "[MODEL_NOT_FOUND]" in failed.stderr) == (1, "", True), failed.stderr
    failed = hive(busy, "pull", "-q", "org/quants:Q2_K")
    assert (failed.returncode, "[VARIANT_NOT_FOUND]" in failed.stderr) == (1, True), failed.stderr
    assert failed.stderr.splitlines()[1].startswith("hint: hive pull org/quants:Q")
    assert [busy.show(download_id)["status"] for download_id in waiting] == ["queued", "queued"]


def test_a_dry_run_through_a_server_shows_the_plan_and_downloads_nothing(service: Service, hub: HubServer) -> None:
    hub.create("org/model", {"config.json": b"{}", "model.safetensors": SyntheticFile(2 * MIB, seed=5)})
    shown = hive(service, "pull", "--dry-run", "org/model")
    assert (shown.returncode, shown.stderr) == (0, "org/model: 2 files, 2.1 MB, 2.1 MB to download\n")
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["FILE", "SIZE", "ON", "DISK"],
        ["config.json", "2", "B", "no"],
        ["model.safetensors", "2.1", "MB", "no"],
    ]
    plan = json.loads(hive(service, "pull", "--dry-run", "--json", "org/model").stdout)
    assert (plan["name"], plan["bytes_total"], plan["bytes_missing"]) == ("org/model", 2 * MIB + 2, 2 * MIB + 2)
    refused = hive(service, "pull", "--dry-run", "org/none", "org/model")
    assert (refused.returncode, "[MODEL_NOT_FOUND]" in refused.stderr) == (1, True)
    assert "model.safetensors" in refused.stdout, "the other is shown all the same"
    with Client(service.server.url) as client:
        assert client.downloads() == []


def test_the_queue_shows_name_size_files_place_and_reason(busy: Service, hub: HubServer) -> None:
    hub.create("org/model", {"m-Q4_K_M.gguf": SyntheticFile(3 * MIB, seed=3), "mmproj-F16.gguf": b"eyes"})
    hub.create("org/snap", {"config.json": b"{}", "model.safetensors": b"weights"})
    first, second = (busy.post(ref)["download_id"] for ref in ("hf:org/model", "hf:org/snap"))
    watcher = busy.watch(first)

    def named(download_id: str) -> dict[str, Any] | None:
        shown = busy.show(download_id)
        return shown if shown.get("name") else None

    shown: dict[str, Any] = wait_for(lambda: named(first), "its name")
    size = 3 * MIB + 4
    assert (shown["status"], shown["name"], shown["ahead"]) == ("queued", "org/model:Q4_K_M", 0)
    progress = shown["progress"]
    assert (progress["bytes_total"], progress["files_total"], progress["bytes_downloaded"]) == (size, 2, 0)
    assert (progress["stage"], progress["status"], progress["name"]) == ("downloading", "queued", "org/model:Q4_K_M")
    assert shown["waiting_for"] == "a free worker"
    behind: dict[str, Any] = wait_for(lambda: named(second), "its name")
    assert (behind["name"], behind["ahead"], behind["waiting_for"]) == ("org/snap", 1, "1 ahead")
    assert behind["progress"]["files_total"] == 2
    wait_for(lambda: watcher.last.get("files_total") == 2, "the stream to say the same")
    listed = requests.get(f"{busy.server.url}/v1/downloads?status=queued", timeout=60).json()["data"]
    assert {item["id"]: item["ahead"] for item in listed} == {first: 0, second: 1}
    requests.put(f"{busy.server.url}/v1/settings/downloads", json={"max_running": 1}, timeout=60)
    assert busy.show(first)["waiting_for"] == "limit of 1 running"
    paused = requests.post(f"{busy.server.url}/v1/downloads/{first}/pause", timeout=60).json()
    assert "ahead" not in paused
    watcher.close()


def test_a_download_that_a_worker_takes_at_once_is_not_asked_for_twice(service: Service, hub: HubServer) -> None:
    hub.create("org/model", {"config.json": b"{}"})
    assert service.bring("hf:org/model")["stage"] == "complete"
    assert len(hub.hits("/api/models/org/model/revision/*")) == 1, [hit.path for hit in hub.hits()]


def test_a_plan_says_what_would_come_and_downloads_nothing(service: Service, hub: HubServer) -> None:
    files = {"config.json": b"{}", "model.safetensors": SyntheticFile(2 * MIB, seed=5)}
    repo = hub.create("org/model", files)  # type: ignore[arg-type]
    with Client(service.server.url) as client:
        plan = client.plan("hf:org/model")
        assert (plan.name, plan.repo, plan.commit, plan.local_path) == (
            "org/model",
            "org/model",
            repo.at("main").sha,
            None,
        )
        assert (plan.bytes_total, plan.bytes_missing) == (2 * MIB + 2, 2 * MIB + 2)
        assert {(file.path, file.size, file.on_disk) for file in plan.files} == {
            ("config.json", 2, False),
            ("model.safetensors", 2 * MIB, False),
        }
        assert {file.path: (file.digest or "").partition(":")[0] for file in plan.files} == {
            "config.json": "git-sha1",
            "model.safetensors": "sha256",
        }
        assert plan.room is not None
        assert plan.room.enough
        assert client.downloads() == []
        service.bring("hf:org/model/config.json")
        half = client.plan("hf:org/model")
        assert [(file.path, file.on_disk) for file in half.files if file.on_disk] == [("config.json", True)]
        assert half.bytes_missing == 2 * MIB
        path = service.bring("hf:org/model")["local_path"]
        asked = len(hub.hits())
        whole = client.plan("hf:org/model")
        assert (whole.local_path, whole.bytes_missing, whole.bytes_total) == (path, 0, 2 * MIB + 2)
        assert all(file.on_disk and file.digest for file in whole.files)
        assert len(hub.hits()) == asked, "what is on the disk needs no Hub"


def test_a_plan_lists_the_quantisations_that_could_be_had_instead(service: Service, hub: HubServer) -> None:
    hub.create("org/quants", {"m-Q4_K_M.gguf": b"four", "m-Q8_0.gguf": b"eight...", "mmproj-f16.gguf": b"eyes"})
    hub.create("org/plain", {"config.json": b"{}"}).license = "apache-2.0"
    expected = [("Q4_K_M", 4, ("m-Q4_K_M.gguf",)), ("Q8_0", 8, ("m-Q8_0.gguf",))]
    with Client(service.server.url) as client:
        found = client.plan("hf:org/quants")
        assert (found.variant, found.bytes_total) == ("Q4_K_M", 8)
        assert [(one.name, one.size, one.files) for one in found.variants] == expected
        assert service.bring("hf:org/quants")["stage"] == "complete"
        on_disk = client.plan("hf:org/quants")
        assert on_disk.local_path
        assert [(one.name, one.size, one.files) for one in on_disk.variants] == expected
        plain = client.plan("hf:org/plain")
        assert (plain.variants, plain.license, found.license) == ((), "apache-2.0", None)


def test_a_plan_is_refused_as_the_download_would_be(service: Service, hub: HubServer) -> None:
    hub.create("org/quants", {"m-Q4_K_M.gguf": b"four", "m-Q8_0.gguf": b"eight..."})
    with Client(service.server.url) as client:
        with pytest.raises(ModelNotFound):
            client.plan("hf:org/none")
        with pytest.raises(VariantNotFound) as refused:
            client.plan("hf:org/quants:Q2_K")
        assert len(refused.value.details["variants"]) == 2
        assert (refused.value.details["repo"], refused.value.details["revision"]) == ("org/quants", None)
    answer = requests.post(f"{service.server.url}/v1/models/plan", json={"model_ref": "hf:org/none"}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["request_id"]) == (404, answer.headers["x-request-id"])
    bad = requests.post(f"{service.server.url}/v1/models/plan", json={"model_ref": "x", "priority": "low"}, timeout=60)
    assert bad.status_code == 400


def test_the_token_of_a_plan_opens_a_gated_model_and_lies_nowhere(
    service: Service, hub: HubServer, store: RedisClient
) -> None:
    hub.access.issue(TOKEN, "org/gated")
    hub.create("org/gated", {"model.safetensors": b"w"}, gated="auto")
    with Client(service.server.url) as client:
        assert client.plan("hf:org/gated", hf_token=TOKEN).bytes_total == 1
    assert secrets_in(store, TOKEN) == []
    assert TOKEN not in service.server.output + service.workers.output


def test_without_a_worker_a_plan_is_refused_at_once(env: dict[str, str]) -> None:
    server = Server(env)
    try:
        server.wait_until_ready()
        began_s = time.monotonic()
        with Client(server.url) as client, pytest.raises(WorkersSilent):
            client.plan("hf:org/name")
        assert time.monotonic() - began_s < AT_ONCE_S
        asked = requests.post(f"{server.url}/v1/models/download", json={"model_ref": "hf:org/a"}, timeout=60).json()
        with Client(server.url) as client:
            waiting = client.get(asked["download_id"])
        assert waiting.waiting_for == "a worker: none is running"
        assert isinstance(waiting.progress, Downloading)
    finally:
        server.stop()


@pytest.fixture
def allowing(env: dict[str, str], hub: HubServer) -> dict[str, str]:
    """The environment of a service that may fetch URLs of the stand-in."""
    env["HIVE_ALLOW_HOSTS"] = hub.endpoint.removeprefix("http://")
    return env


def test_a_url_that_can_never_be_had_ends_within_seconds_though_the_worker_is_busy(
    allowing: dict[str, str], busy: Service, hub: HubServer
) -> None:
    page = hub.plain("/page.gguf", b"replaced")
    hub.faults.add(faults.presented(b"<html>sign in</html>", "text/html"), "/page.gguf")
    wrong = {f"{hub.endpoint}/none.gguf": "FILE_NOT_FOUND", page: "NOT_A_MODEL"}
    began_s = time.monotonic()
    for url, client in {url: busy.watch(busy.post(url)["download_id"]) for url in wrong}.items():
        client.wait(SOON_S)
        assert (client.last["status"], client.last["code"]) == ("failed", wrong[url])
    assert time.monotonic() - began_s < SOON_S
    queued = busy.post(hub.plain("/real.bin", SyntheticFile(3 * MIB, seed=3)))["download_id"]
    wait_for(lambda: busy.show(queued)["progress"].get("bytes_total") == 3 * MIB, "its size")
    assert busy.show(queued)["name"] == "real.bin"


def test_servers_that_do_not_answer_keep_nobody_waiting_for_the_hub(
    env: dict[str, str], hub: HubServer, store: RedisClient
) -> None:
    hub.create("org/model", {"config.json": b"{}"})
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(THREADS + 2) as pool:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        service = Service({**env, "HIVE_ALLOW_HOSTS": address}, workers=1)
        url = f"{service.server.url}/v1/models/plan"

        def ask(ref: str) -> int:
            return requests.post(url, json={"model_ref": ref}, timeout=60).status_code

        try:
            asked = [pool.submit(ask, f"http://{address}/{n}.bin") for n in range(THREADS + 2)]
            wait_for(lambda: len(store.keys("hive:plan:*")) == len(asked), "they wait")
            began_s = time.monotonic()
            assert ask("org/model") == 200
            assert time.monotonic() - began_s < SOON_S
            assert not any(each.done() for each in asked)
        finally:
            service.stop()


def test_the_plan_of_a_url_has_its_size_where_the_server_says_it(
    allowing: dict[str, str], service: Service, hub: HubServer
) -> None:
    url = hub.plain("/real.bin", SyntheticFile(3 * MIB, seed=3))
    with Client(service.server.url) as client:
        plan = client.plan(url)
        assert (plan.name, plan.bytes_total, plan.bytes_missing) == ("real.bin", 3 * MIB, 3 * MIB)
        with pytest.raises(FileNotFound):
            client.plan(f"{hub.endpoint}/none.bin")
        hub.faults.add(faults.status(503), "/real.bin")
        assert client.plan(url).bytes_total is None
    shown = hive(service, "pull", "--dry-run", hub.plain("/other.bin", SyntheticFile(2 * MIB, seed=3)))
    assert shown.stderr == "other.bin: 1 file, 2.1 MB, 2.1 MB to download\n", shown.stderr


def test_a_plan_while_the_hub_is_away_is_that_of_the_disk(service: Service, hub: HubServer) -> None:
    hub.create("org/model", {"config.json": b"{}", "model.safetensors": b"weights"})
    path = service.bring("hf:org/model")["local_path"]
    for listing in Path(service.env["HIVE_STORE"]).rglob("trees/*.json"):
        listing.unlink()
    hub.faults.add(faults.status(503), "/api/*")
    with Client(service.server.url) as client:
        plan = client.plan("hf:org/model")
    assert (plan.local_path, plan.bytes_missing) == (path, 0)


def test_who_asks_before_the_resolver_has_begun_waits_for_it(
    env: dict[str, str], hub: HubServer, settings: Settings
) -> None:
    hub.create("org/model", {"model.safetensors": b"w"})
    server = Server(env)
    try:
        server.wait_until_ready()
        announce(settings)
        with ThreadPoolExecutor(1) as pool, Client(server.url) as client:
            asked = pool.submit(client.plan, "hf:org/model")
            workers = Workers(env, 1)
            try:
                assert asked.result(60).bytes_total == 1
            finally:
                workers.stop()
    finally:
        server.stop()
