"""`hive cancel --purge`: the partial files go with the download, and never those of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.processes import Workers
from tests.support.service import CONTENT, SLOW_BYTES_PER_S, Service, act, hive, start_two, under_way
from tests.support.waiting import wait_for


@pytest.fixture
def slow_model(hub: HubServer) -> str:
    files = {"m-Q4_K_M.gguf": CONTENT, "mmproj-f16.gguf": SyntheticFile(MIB, seed=9)}
    hub.create("org/slow", files)
    hub.limit_rate_bytes_per_s = SLOW_BYTES_PER_S
    return "hf:org/slow"


def partials(service: Service) -> list[str]:
    folder = Path(service.env["HIVE_STORE"]) / "hive" / "partial"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def cancel(service: Service, download_id: str, query: str = "?purge=true") -> requests.Response:
    return requests.delete(f"{service.server.url}/v1/downloads/{download_id}{query}", timeout=60)


def test_a_running_download_leaves_nothing_behind(service: Service, hub: HubServer, slow_model: str) -> None:
    download_id, client = under_way(service, slow_model)
    assert partials(service)
    assert hive(service, "cancel", "--purge", download_id).returncode == 0
    assert client.wait().last["code"] == "CANCELLED"
    wait_for(lambda: partials(service) == [])
    hub.limit_rate_bytes_per_s = None
    hub.reset_log()
    assert service.bring(slow_model)["stage"] == "complete"
    assert hub.bytes_sent("*Q4_K_M.gguf", origin="cdn") >= CONTENT.size


def test_without_purge_what_arrived_stays(service: Service, hub: HubServer, slow_model: str) -> None:
    download_id, client = under_way(service, slow_model)
    assert cancel(service, download_id, "").status_code == 202
    client.wait()
    wait_for(lambda: not list((Path(service.env["HIVE_STORE"]) / "hive" / "downloads").glob("*/*.json")))
    assert any(name.endswith(".journal") for name in partials(service))
    assert cancel(service, download_id).status_code == 409, "it has ended"
    assert cancel(service, download_id, "?purge=maybe").status_code == 400


def test_a_paused_and_a_waiting_download_are_purged_by_the_server(
    service: Service, hub: HubServer, slow_model: str
) -> None:
    download_id, client = under_way(service, slow_model)
    act(service, download_id, "pause")
    wait_for(lambda: client.last.get("status") == "paused")
    service.workers.stop()
    assert partials(service)
    assert act(service, download_id, "resume").status_code == 202
    assert cancel(service, download_id).status_code == 202
    assert partials(service) == [], "gone when the answer comes"
    assert client.wait().last["code"] == "CANCELLED"
    service.workers = Workers(service.env, 1)


def test_a_file_that_another_download_wants_stays(service: Service, hub: HubServer) -> None:
    first, second = start_two(service, hub)
    watch = service.watch(second)
    wait_for(lambda: watch.events and watch.last["bytes_downloaded"] > 2 * MIB)
    (part,) = (Path(service.env["HIVE_STORE"]) / "hive" / "partial").glob("*.part")
    kept = part.with_name("kept")
    kept.hardlink_to(part)
    assert cancel(service, first).status_code == 202
    wait_for(lambda: service.show(first)["status"] == "cancelled")
    hub.limit_rate_bytes_per_s = None
    end = watch.wait(60).last
    assert end["stage"] == "complete", end
    assert file_sha256(end["local_path"]) == SyntheticFile(30 * MIB, seed=31).sha256()
    assert Path(end["local_path"]).samefile(kept), "the very file that the first one began"
