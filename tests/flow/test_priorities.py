"""Who gets a worker: priorities, the place of a low one for an urgent one, and the limit of the fleet."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB
from tests.support.processes import Workers, children
from tests.support.service import CONTENT, Service, check_right_end, hive, slow
from tests.support.sse_client import SseClient
from tests.support.waiting import AT_ONCE_S, DEADLINE_S, wait_for


@pytest.fixture
def alone(env: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service with one worker; the parameter, if any, is the seconds of its leases."""
    made = Service({**env, "HIVE_LEASE_S": str(getattr(request, "param", 6.0))}, workers=1)
    try:
        yield made
    finally:
        made.stop()


def started(service: Service, model_ref: str, at_least: int = 4 * MIB, **body: Any) -> tuple[str, SseClient]:
    """A download of which some bytes have arrived, and one who watches it."""
    download_id = service.post(model_ref, **body)["download_id"]
    client = service.watch(download_id)
    wait_for(lambda: client.events and client.last.get("bytes_downloaded", 0) >= at_least)
    return download_id, client


def ask(service: Service, hub: HubServer, name: str, **body: Any) -> str:
    """The id of a small download."""
    hub.create(f"org/{name}", {"m-Q4_K_M.gguf": SyntheticFile(MIB, seed=len(name))})
    found: str = service.post(f"hf:org/{name}", **body)["download_id"]
    return found


def test_an_urgent_download_takes_the_place_of_a_low_one_which_loses_no_byte(alone: Service, hub: HubServer) -> None:
    model = slow(hub, 0.05 * MIB)  # up to 16 connections: more than a minute
    low, client = started(alone, model, at_least=MIB, priority="low")
    hub.reset_log()
    asked_s = time.monotonic()
    urgent = alone.watch(ask(alone, hub, "urgent", priority="high"))
    wait_for(lambda: any(event.get("attempt") == 2 for event in client.events), what="it gives its place")
    hub.limit_rate_bytes_per_s = 4 * MIB
    urgent.wait(3 * AT_ONCE_S)
    assert urgent.last["stage"] == "complete"
    assert time.monotonic() - asked_s < 3 * AT_ONCE_S
    waiting = next(event for event in client.events if event.get("attempt") == 2)
    assert (waiting["status"], waiting["message"]) == (
        "queued",
        "Gave its place to an urgent download; goes on by itself.",
    )
    hub.limit_rate_bytes_per_s = None
    check_right_end(client, attempts=2)
    shown = alone.show(low)
    assert shown["bytes_refetched"] <= MIB
    assert CONTENT.size <= shown["bytes_received"] <= CONTENT.size + MIB
    assert (shown["reason"], shown["attempt"], shown["priority"]) == ("COMPLETE", 2, "low")
    assert 0 < shown["active_seconds"] <= shown["duration_seconds"]


def test_the_queue_goes_by_priority_and_then_by_age(alone: Service, hub: HubServer) -> None:
    _, running = started(alone, slow(hub))
    ids = {name: ask(alone, hub, name, priority=word) for name, word in (("one", "low"), ("three", "normal"))}
    ids["seven"] = ask(alone, hub, "seven", priority="low")
    ids["eleven"] = ask(alone, hub, "eleven")
    watching = alone.watch(ids["seven"])
    wait_for(lambda: watching.events)
    assert watching.last["priority"] == "low"
    done = hive(alone, "priority", ids["seven"][:8], "high")
    assert done.returncode == 0, done.stderr
    assert alone.show(ids["seven"])["priority"] == "high"
    wait_for(lambda: watching.last.get("priority") == "high")
    assert running.last["attempt"] == 1, "a normal one is left in peace"
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    for download_id in ids.values():
        alone.watch(download_id).wait(60)
    began = sorted(ids, key=lambda name: float(alone.show(ids[name])["started_at"]))
    assert began == ["seven", "three", "eleven", "one"]
    refused = requests.put(
        f"{alone.server.url}/v1/downloads/{ids['one']}/priority", json={"priority": "high"}, timeout=60
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "DOWNLOAD_ENDED")


def test_no_more_run_at_once_than_the_fleet_may(service: Service, hub: HubServer) -> None:
    assert hive(service, "limit", "--downloads", "1").stdout.split() == [
        "bandwidth",
        "no",
        "limit",
        "downloads",
        "1",
        "at",
        "once",
    ]
    _, running = started(service, slow(hub))
    second = ask(service, hub, "second")
    third = ask(service, hub, "third")
    wait_for(lambda: service.listed_workers())
    assert [service.show(i)["status"] for i in (second, third)] == ["queued", "queued"]
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    check_right_end(running, attempts=1)
    for download_id in (second, third):
        assert service.watch(download_id).wait(30).last["stage"] == "complete"
    assert service.show(third)["started_at"] >= service.show(second)["ended_at"]
    hub.limit_rate_bytes_per_s = 0.3 * MIB
    fourth, _ = started(service, slow_again(hub))
    fifth = ask(service, hub, "fifth")
    assert service.show(fifth)["status"] == "queued"
    limit = f"{service.server.url}/v1/settings/downloads"
    assert requests.put(limit, json={"max_running": None}, timeout=60).json() == {"max_running": None}
    assert service.watch(fifth).wait(30).last["stage"] == "complete"
    assert service.show(fourth)["ended_at"] is None
    requests.delete(f"{service.server.url}/v1/downloads/{fourth}", timeout=60)


def slow_again(hub: HubServer) -> str:
    hub.create("org/slow-again", {"m-Q4_K_M.gguf": SyntheticFile(60 * MIB, seed=12)})
    return "hf:org/slow-again"


@pytest.mark.parametrize("alone", [2 * DEADLINE_S], indirect=True, ids=["a lease that does not run out"])
def test_a_horse_that_took_another_download_than_its_ticket_said_is_replaced_at_once(
    alone: Service, hub: HubServer
) -> None:
    """The first ticket names the low one; the high one, asked for later, is what its worker takes."""
    alone.workers.stop()
    ask(alone, hub, "later", priority="low")
    download_id = alone.post(slow(hub), priority="high")["download_id"]
    client = alone.watch(download_id)
    alone.workers = Workers(alone.env, 1)
    wait_for(lambda: client.events and client.last.get("bytes_downloaded", 0) >= 4 * MIB)
    (horse,) = children(alone.busy_worker(download_id)["pid"])
    os.kill(horse, signal.SIGKILL)
    wait_for(lambda: client.last.get("attempt") == 2)
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    check_right_end(client, attempts=2)
