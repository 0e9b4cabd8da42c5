"""Two downloads that want the same file: it is fetched once, and both end well."""

from __future__ import annotations

from pathlib import Path

import requests

from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.service import SHARED, SLOW_BYTES_PER_S, Service, start_two
from tests.support.waiting import wait_for


def test_it_is_fetched_once_and_the_second_shows_its_progress(service: Service, hub: HubServer) -> None:
    ids = start_two(service, hub)
    assert ids[0] != ids[1]
    watch = service.watch(ids[1])
    wait_for(lambda: watch.events and watch.last["bytes_downloaded"] > 3 * MIB)
    assert "Another download" in watch.last["message"]
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    for download_id in ids:
        end = service.watch(download_id).wait(60).last
        assert end["stage"] == "complete", end
        assert file_sha256(end["local_path"]) == SHARED.sha256()
    assert hub.bytes_sent("*Q4_K_M.gguf", origin="cdn") < SHARED.size + 24 * MIB


def test_the_second_goes_on_where_the_first_is_cancelled(service: Service, hub: HubServer) -> None:
    first, second = start_two(service, hub)
    watch = service.watch(second)
    wait_for(lambda: watch.events and watch.last["bytes_downloaded"] > 2 * MIB)
    assert requests.delete(f"{service.server.url}/v1/downloads/{first}", timeout=60).status_code == 202
    hub.limit_rate_bytes_per_s = None
    end = watch.wait(60).last
    assert end["stage"] == "complete", end
    assert file_sha256(end["local_path"]) == SHARED.sha256()
    assert service.show(first)["status"] == "cancelled"
    figures = [event["bytes_downloaded"] for event in watch.events[:-1]]
    assert figures == sorted(figures)


def test_a_file_of_another_repository_is_linked_and_not_fetched(service: Service, hub: HubServer) -> None:
    hub.create("org/one", {"m-Q4_K_M.gguf": SHARED})
    hub.create("org/two", {"other-name.gguf": SHARED, "config.json": b"{}"})
    first = service.bring("hf:org/one")
    hub.reset_log()
    second = service.bring("hf:org/two")
    assert second["stage"] == "complete"
    assert second["verified"]
    assert hub.bytes_sent("*.gguf", origin="cdn") == 0
    one, two = Path(first["local_path"]), Path(second["local_path"])
    two = two / "other-name.gguf" if two.is_dir() else two
    assert one.samefile(two)
    deleted = requests.delete(f"{service.server.url}/v1/models/org/one:Q4_K_M", timeout=60)
    assert deleted.status_code == 200, deleted.text
    assert deleted.json()["freed_bytes"] == 0, "the bytes are still there under their other name"
    assert file_sha256(str(two)) == SHARED.sha256()


def test_a_file_of_another_repository_that_has_gone_bad_is_fetched(service: Service, hub: HubServer) -> None:
    hub.create("org/one", {"m-Q4_K_M.gguf": SHARED})
    hub.create("org/two", {"m-Q4_K_M.gguf": SHARED})
    bad = Path(service.bring("hf:org/one")["local_path"])
    with bad.open("r+b") as file:
        file.seek(MIB)
        file.write(b"not as it was")
    end = service.bring("hf:org/two")
    assert (end["stage"], file_sha256(end["local_path"])) == ("complete", SHARED.sha256())
    assert not bad.samefile(end["local_path"])


def test_two_repositories_with_the_same_file_fetch_it_once(service: Service, hub: HubServer) -> None:
    hub.create("org/one", {"m-Q4_K_M.gguf": SHARED})
    hub.create("org/two", {"m-Q4_K_M.gguf": SHARED})
    hub.limit_rate_bytes_per_s = SLOW_BYTES_PER_S
    first = service.watch(service.post("hf:org/one")["download_id"])
    wait_for(lambda: first.events and first.last["bytes_downloaded"] > 2 * MIB)
    second = service.watch(service.post("hf:org/two")["download_id"])
    wait_for(
        lambda: (
            second.events
            and "Another download" in second.last.get("message", "")
            and second.last["bytes_downloaded"] > 3 * MIB
        )
    )
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    for client in (first, second):
        assert client.wait(60).last["stage"] == "complete", client.last
        assert file_sha256(client.last["local_path"]) == SHARED.sha256()
    assert hub.bytes_sent("org/two/*.gguf", origin="cdn") == 0
