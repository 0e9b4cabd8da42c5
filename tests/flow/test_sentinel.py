"""A primary, two replicas, three Sentinels: the primary dies in mid-download, and nobody loses an end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from hive.downloads.restore import CHECK_INTERVAL_S
from hive.redis import rights as redis_rights
from hive.wire import keys
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.processes import Server, Workers, environment
from tests.support.redis_servers import DOWN_AFTER_MS, SentinelFleet, redis_server
from tests.support.service import CONTENT, Service, check_right_end, slow, under_way
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

#: Seconds from the death of a primary until bytes are told of again, on a machine with other things to do: what the
#: Sentinels take, and what hive adds.
FAILOVER_S = DOWN_AFTER_MS / 1000 + 15.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SentinelFleet]:
    made = SentinelFleet(tmp_path)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def service(fleet: SentinelFleet, tmp_path: Path, hub: HubServer) -> Iterator[Service]:
    """In place of the usual one."""
    env = environment(fleet.url, tmp_path, HF_ENDPOINT=hub.endpoint, HIVE_DRAIN_S="0.2", HF_TOKEN="")
    made = Service(env)
    try:
        yield made
    finally:
        made.stop()


def bytes_told(client: SseClient) -> int:
    return int(client.last["bytes_downloaded"])


@pytest.mark.parametrize("how", ["killed", "asked", "frozen"])
def test_a_failover_in_mid_download_loses_no_end(
    fleet: SentinelFleet, service: Service, hub: HubServer, how: str
) -> None:
    other = Server(service.env)
    try:
        download_id, client = under_way(service, slow(hub))
        watchers = [client, service.watch(download_id)]
        watchers += [SseClient(f"{other.url}/v1/models/download/progress?id={download_id}") for _ in range(2)]
        wait_for(lambda: all(each.events for each in watchers), "all watch")
        former = fleet.primary()
        began_s = time.monotonic()
        if how == "killed":
            former.kill()
        elif how == "frozen":
            former.signal(signal.SIGSTOP)
        else:
            fleet.fail_over()
        fleet.wait_for_another(former)
        moved_s = time.monotonic() - began_s
        told = [bytes_told(each) for each in watchers]
        wait_for(lambda: all(bytes_told(each) > before for each, before in zip(watchers, told, strict=True)))
        back_s = time.monotonic() - began_s
        print(f"{how}: another primary after {moved_s:.1f} s, bytes told of again after {back_s:.1f} s")
        hub.limit_rate_bytes_per_s = None
        hub.close_connections()
        attempt = service.show(download_id)["attempt"]
        for each in watchers:
            check_right_end(each, attempts=attempt)
        print(f"  attempt {attempt}, end after {time.monotonic() - began_s:.1f} s")
        assert back_s < FAILOVER_S
        assert requests.get(f"{other.url}/readyz", timeout=60).status_code == 200
        assert service.bring("hf:org/slow")["stage"] == "complete"
    finally:
        other.stop()
    assert "Traceback" not in other.output, other.output


def test_a_download_whose_record_the_old_primary_took_along_comes_back(
    fleet: SentinelFleet, service: Service, hub: HubServer
) -> None:
    """Its client had the id before any replica heard of it."""
    model = slow(hub)
    hub.create("org/before", {"m-Q4_K_M.gguf": b"GGUF" + b"x" * MIB})
    assert service.bring("hf:org/before")["stage"] == "complete"
    former = fleet.primary()
    with fleet.without_replication(former):
        download_id, client = under_way(service, model)
        former.kill()
    began_s = time.monotonic()
    current = fleet.wait_for_another(former)
    with current.client() as store:
        lost = not store.exists(keys.record(download_id))
    wait_for(lambda: service.show(download_id).get("status") == "downloading")
    back_s = time.monotonic() - began_s
    print(f"the record was {'lost' if lost else 'brought back at once'}, and is there after {back_s:.1f} s")
    late = service.watch(download_id)
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    for each in (client, late):
        each.wait(90)
        assert (each.last["stage"], each.done) == ("complete", 1), each.last
    assert file_sha256(client.last["local_path"]) == CONTENT.sha256()
    assert back_s < FAILOVER_S + CHECK_INTERVAL_S


def test_a_password_that_changes_in_mid_download_is_asked_for_anew(tmp_path: Path, hub: HubServer) -> None:
    """By HIVE_REDIS_CREDENTIALS. For two seconds the function gives the former one, which Redis refuses by then."""
    token = tmp_path / "token"
    (tmp_path / "our_tokens.py").write_text(f"def ask():\n    return 'hive', open({str(token)!r}).read()\n")
    with redis_server(tmp_path) as redis, redis.client() as admin:

        def set_password(password: str) -> None:
            admin.execute_command("ACL", "SETUSER", "hive", "reset", "on", f">{password}", *redis_rights.rules())

        set_password("first-secret")
        token.write_text("first-secret")
        more = {"HIVE_REDIS_CREDENTIALS": "our_tokens:ask", "PYTHONPATH": str(tmp_path), "HF_ENDPOINT": hub.endpoint}
        service = Service(environment(f"redis://127.0.0.1:{redis.port}/0", tmp_path, HF_TOKEN="", **more))
        try:
            download_id, client = under_way(service, slow(hub))
            set_password("second-secret")
            admin.execute_command("CLIENT", "KILL", "USER", "hive")
            wait_for(lambda: service.server.logged("cannot subscribe"))
            refused = requests.get(f"{service.server.url}/v1/downloads/{download_id}", timeout=60)
            assert (refused.status_code, "WRONGPASS" in refused.text) == (503, True), refused.text
            token.write_text("second-secret")
            told = bytes_told(client)
            wait_for(lambda: bytes_told(client) > told)
            hub.limit_rate_bytes_per_s = None
            hub.close_connections()
            check_right_end(client, attempts=service.show(download_id)["attempt"])
        finally:
            service.stop()
        for process in (service.server, service.workers):
            assert "-secret" not in process.output


def test_an_end_that_the_old_primary_took_along_comes_again_from_the_disk(
    fleet: SentinelFleet, service: Service, hub: HubServer
) -> None:
    """Who saw it has seen it once; for who comes later there is one again, and nothing is fetched for it."""
    download_id, client = under_way(service, slow(hub))
    former = fleet.primary()
    with fleet.without_replication(former):
        hub.limit_rate_bytes_per_s = None
        hub.close_connections()
        check_right_end(client, attempts=1)
        fetched = hub.bytes_sent("*.gguf", origin="cdn")
        former.kill()
    current = fleet.wait_for_another(former)
    with current.client() as store:
        assert store.hget(keys.record(download_id), "state") == "running"
    late = service.watch(download_id).wait(90)
    assert (late.last["stage"], late.done) == ("complete", 1), late.last
    assert late.last["local_path"] == client.last["local_path"]
    assert hub.bytes_sent("*.gguf", origin="cdn") == fetched


def test_a_claim_that_the_old_primary_took_along_is_made_again(
    fleet: SentinelFleet, service: Service, hub: HubServer
) -> None:
    """The worker holds what waits again by now: one of the two stops, and nothing is fetched twice but a little."""
    model = slow(hub)
    service.workers.stop()
    download_id = service.post(model)["download_id"]
    client = service.watch(download_id)
    former = fleet.primary()
    wait_for(lambda: fleet.is_replicated(former))
    with fleet.without_replication(former):
        service.workers = Workers(service.env, 2)
        wait_for(lambda: client.last.get("bytes_downloaded", 0) >= MIB)
        former.kill()
    fleet.wait_for_another(former)
    told = bytes_told(client)
    wait_for(lambda: bytes_told(client) > told)
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    client.wait(90)
    assert (client.last["stage"], client.done) == ("complete", 1), client.last
    assert file_sha256(client.last["local_path"]) == CONTENT.sha256()
    print(
        f"claimed again: attempt {client.last['attempt']}, {hub.bytes_sent('*.gguf', origin='cdn') / MIB:.0f} MiB sent"
    )
