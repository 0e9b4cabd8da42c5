"""Pause, resume, retry: over the real processes, and across restarts of everything."""

from __future__ import annotations

import requests

from tests.hub import SyntheticFile, faults
from tests.hub.server import HubServer
from tests.support.content import MIB
from tests.support.processes import Server, Workers
from tests.support.service import CONTENT, Service, act, check_right_end, hive, slow, under_way
from tests.support.waiting import wait_for


def test_a_pause_frees_the_worker_and_a_resume_loses_no_byte(service: Service, hub: HubServer) -> None:
    download_id, client = under_way(service, slow(hub))
    assert act(service, download_id, "pause").status_code == 202
    wait_for(lambda: client.last.get("status") == "paused")
    assert client.done == 0
    paused_at = client.last["bytes_downloaded"]
    wait_for(lambda: all(w["download_id"] != download_id for w in service.listed_workers()))
    hub.create("org/other", {"m-Q4_K_M.gguf": SyntheticFile(MIB, seed=1)})
    assert service.bring("hf:org/other")["stage"] == "complete"
    assert service.show(download_id)["status"] == "paused"
    assert act(service, download_id, "pause").status_code == 202, "again is no mistake"
    hub.limit_rate_bytes_per_s = None
    hub.reset_log()
    assert act(service, download_id, "resume").status_code == 202
    check_right_end(client, attempts=3)
    assert hub.bytes_sent("org/slow/*", origin="cdn") < CONTENT.size - paused_at + 8 * MIB


def test_a_paused_download_outlives_a_restart_of_everything(service: Service, hub: HubServer) -> None:
    download_id, client = under_way(service, slow(hub))
    act(service, download_id, "pause")
    wait_for(lambda: client.last.get("status") == "paused")
    service.server.stop()
    service.workers.stop()
    service.server, service.workers = Server(service.env), Workers(service.env, 1)
    service.server.wait_until_ready()
    assert service.show(download_id)["status"] == "paused"
    again = service.watch(download_id)
    wait_for(lambda: again.events and again.last["status"] == "paused")
    hub.limit_rate_bytes_per_s = None
    act(service, download_id, "resume")
    check_right_end(again, attempts=3)


def test_a_waiting_download_can_be_paused_and_cancelled(service: Service, hub: HubServer) -> None:
    service.workers.stop()
    download_id = service.post(slow(hub))["download_id"]
    assert act(service, download_id, "pause").json()["status"] == "paused"
    assert act(service, download_id, "resume").json()["status"] == "queued"
    assert act(service, download_id, "pause").json()["status"] == "paused"
    client = service.watch(download_id)
    wait_for(lambda: client.events)
    assert requests.delete(f"{service.server.url}/v1/downloads/{download_id}", timeout=60).status_code == 202
    assert client.wait().last["code"] == "CANCELLED"
    assert act(service, download_id, "resume").status_code == 409
    service.workers = Workers(service.env, 1)


def test_the_command_line_has_the_same_controls(service: Service, hub: HubServer) -> None:
    """Each command is a process that starts, which a busy machine takes seconds for."""
    download_id, client = under_way(service, slow(hub, 0.03 * MIB), at_least=1)
    short = download_id[:8]
    paused = hive(service, "pause", short)
    assert (paused.returncode, "Paused" in paused.stderr) == (0, True), paused.stderr
    wait_for(lambda: client.last.get("status") == "paused")
    assert "paused" in hive(service, "ps").stdout
    assert hive(service, "resume", short).returncode == 0
    wait_for(lambda: client.last.get("status") == "downloading")
    assert hive(service, "cancel", short).returncode == 0
    assert client.wait().last["code"] == "CANCELLED"
    hub.limit_rate_bytes_per_s = None
    again = hive(service, "retry", short)
    assert again.returncode == 0, again.stderr
    assert service.watch(again.stdout.strip()).wait(60).last["stage"] == "complete"
    late = hive(service, "resume", short)
    assert (late.returncode, "[DOWNLOAD_ENDED]" in late.stderr) == (1, True)


def test_what_failed_is_retried_as_a_new_download(service: Service, hub: HubServer) -> None:
    hub.create("org/bad", {"m-Q4_K_M.gguf": SyntheticFile(2 * MIB, seed=4)})
    hub.faults.add(faults.wrong_byte(offset=MIB), "*.gguf", origin="cdn")
    first = service.post("hf:org/bad")["download_id"]
    assert act(service, first, "retry").status_code == 409, "it has not ended"
    assert service.watch(first).wait(60).last["code"] == "CHECKSUM_MISMATCH"
    hub.faults.clear()
    answer = act(service, first, "retry")
    assert answer.status_code == 202
    second = answer.json()["download_id"]
    assert second != first
    assert service.watch(second).wait(60).last["stage"] == "complete"
    assert service.show(second)["retry_of"] == first
    assert service.show(first)["status"] == "failed"
