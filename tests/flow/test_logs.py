"""The life of a download in the logs of all its processes: one line for each thing that happens, under its ids."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import requests

from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.child import Child
from tests.support.content import MIB
from tests.support.processes import HiveProcess, Server, Workers, children, environment
from tests.support.service import SLOW_BYTES_PER_S, Service
from tests.support.waiting import wait_for

SMALL, LARGE = SyntheticFile(MIB, seed=31), SyntheticFile(60 * MIB, seed=32)
REQUEST_ID = "asked-by-the-test"
#: What every line has.
COMMON = {"time", "level", "logger", "message", "download_id"}

Line = dict[str, Any]


def documented() -> dict[str, set[str]]:
    """The further fields of every message of docs/logs.md."""
    text = (Path(__file__).parents[2] / "docs" / "logs.md").read_text().partition("## The life of a download")[2]
    rows = re.findall(r"^\| (`[^|]*`) \|[^|]*\|[^|]*\|([^|]*)\|", text, re.MULTILINE)
    words = re.compile(r"`([^`]+)`")
    return {name: set(words.findall(fields)) for names, fields in rows for name in words.findall(names)}


LIFE = documented()


def lines_of(*processes: HiveProcess) -> list[Line]:
    """Every line of these processes; each must be JSON."""
    return [json.loads(line) for process in processes for line in process.lines]


def life(download_id: str, *processes: HiveProcess) -> list[Line]:
    """What happened to a download, in the order of time, but for what was looked up while it waited: on a busy machine
    it waits long enough for that, on an idle one it does not."""
    said = [line for line in lines_of(*processes) if line.get("download_id") == download_id and line["message"] in LIFE]
    return sorted((line for line in said if not looked_up_in_the_queue(line)), key=lambda line: line["time"])


def looked_up_in_the_queue(line: Line) -> bool:
    return bool(line["message"] == "resolved in the queue")


def told(lines: Iterable[Line]) -> list[tuple[str, int | None]]:
    """Messages and attempts."""
    return [(line["message"], line.get("attempt")) for line in lines]


def ask(service: Service, model_ref: str, request_id: str = REQUEST_ID, **body: Any) -> str:
    answer = requests.post(
        f"{service.server.url}/v1/models/download",
        json={"model_ref": model_ref, **body},
        headers={"X-Request-ID": request_id},
        timeout=60,
    )
    assert answer.headers["x-request-id"] == request_id
    return str(answer.json()["download_id"])


def act(service: Service, download_id: str, method: str, word: str, request_id: str) -> None:
    url = f"{service.server.url}/v1/downloads/{download_id}{word}"
    assert requests.request(method, url, headers={"X-Request-ID": request_id}, timeout=60).status_code == 202


def under_way(service: Service, hub: HubServer) -> str:
    """A download that has begun to arrive, slowly."""
    hub.create("org/slow", {"m-Q4_K_M.gguf": LARGE})
    hub.limit_rate_bytes_per_s = SLOW_BYTES_PER_S
    download_id = ask(service, "hf:org/slow")
    arrives(service, download_id)
    return download_id


def arrives(service: Service, download_id: str) -> None:
    wait_for(lambda: service.show(download_id)["progress"].get("bytes_per_second"))


def ends(service: Service, download_id: str, status: str) -> None:
    wait_for(lambda: service.show(download_id)["status"] == status, what=status)


def check(lines: list[Line]) -> None:
    """Ids and fields as the documentation has them."""
    assert lines
    for line in lines:
        extra = line.keys() - COMMON - {"attempt", "request_id", "worker"}
        assert extra == LIFE[line["message"]] - {"retry_of"} or line["message"] == "asked for", line
        assert line["request_id"], line


def test_an_ordinary_download_says_exactly_five_lines(service: Service, hub: HubServer) -> None:
    hub.create("org/name", {"m-Q4_K_M.gguf": SMALL})
    download_id = ask(service, "hf:org/name")
    ends(service, download_id, "complete")
    wait_for(lambda: service.workers.logged("complete"))
    lines = life(download_id, service.server, service.workers)
    assert told(lines) == [(word, 1) for word in ("asked for", "queued", "started", "resolved", "complete")]
    check(lines)
    assert {line["request_id"] for line in lines} == {REQUEST_ID}, "the same in the server and the worker"
    assert {line["logger"].partition(".")[0] for line in lines} == {"hive", "workers"}
    assert lines[3]["bytes"] == lines[4]["bytes"] == MIB
    assert lines[4]["verified"] is True
    every = [line for line in lines_of(service.server, service.workers) if line.get("download_id") == download_id]
    others = [line for line in every if not looked_up_in_the_queue(line)]
    assert len(others) == 5, "nothing else is said about it"


def test_who_joins_and_who_finds_it_on_disk_has_a_line_of_their_own(service: Service, hub: HubServer) -> None:
    download_id = under_way(service, hub)
    assert ask(service, "hf:org/slow", "the-second") == download_id
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    ends(service, download_id, "complete")
    on_disk = ask(service, "hf:org/slow", "the-third")
    wait_for(lambda: service.server.logged("on disk"))
    (joined,) = (line for line in lines_of(service.server) if line["message"] == "joined")
    (found,) = (line for line in lines_of(service.server) if line["message"] == "on disk")
    assert (joined["download_id"], joined["request_id"]) == (download_id, "the-second")
    assert (found["download_id"], found["request_id"]) == (on_disk, "the-third")
    check([joined, found])


def test_pause_resume_and_cancel_are_said_by_who_was_asked_and_by_who_did_it(service: Service, hub: HubServer) -> None:
    download_id = under_way(service, hub)
    act(service, download_id, "POST", "/pause", "the-pause")
    ends(service, download_id, "paused")
    wait_for(lambda: service.workers.logged("paused"))  # said when it is done
    act(service, download_id, "POST", "/resume", "the-resume")
    arrives(service, download_id)
    act(service, download_id, "DELETE", "", "the-cancel")
    ends(service, download_id, "cancelled")
    wait_for(lambda: service.workers.logged("cancelled"))
    lines = life(download_id, service.server, service.workers)
    assert told(lines) == [
        ("asked for", 1),
        ("queued", 1),
        ("started", 1),
        ("resolved", 1),
        ("asked to pause", 1),
        ("paused", 1),
        ("resumed", 3),
        ("started", 3),
        ("resolved", 3),
        ("asked to cancel", 3),
        ("cancelled", 3),
    ]
    check(lines)
    asked = {line["message"]: line["request_id"] for line in lines}
    assert asked["asked to pause"] == "the-pause"
    assert asked["resumed"] == "the-resume"
    assert asked["asked to cancel"] == "the-cancel"
    assert asked["paused"] == asked["cancelled"] == asked["started"] == REQUEST_ID


def test_what_waits_is_paused_resumed_and_cancelled_by_the_server(service: Service, hub: HubServer) -> None:
    service.workers.stop()
    hub.create("org/name", {"m-Q4_K_M.gguf": SMALL})
    download_id = ask(service, "hf:org/name")
    act(service, download_id, "POST", "/pause", "the-pause")
    act(service, download_id, "POST", "/resume", "the-resume")
    url = f"{service.server.url}/v1/downloads/{download_id}/priority"
    answer = requests.put(url, json={"priority": "high"}, headers={"X-Request-ID": "the-priority"}, timeout=60)
    assert answer.status_code == 202
    act(service, download_id, "DELETE", "", "the-cancel")
    wait_for(lambda: service.server.logged("cancelled"))
    lines = [line for line in life(download_id, service.server) if line["message"] != "asked a worker to make room"]
    said = ["asked for", "queued", "paused", "resumed", "priority changed", "cancelled"]
    assert [line["message"] for line in lines] == said
    assert [line["request_id"] for line in lines[2:]] == ["the-pause", "the-resume", "the-priority", "the-cancel"]
    check(lines)
    service.workers = Workers(service.env, 1)


def test_a_worker_that_dies_and_one_that_stops_leave_their_line(service: Service, hub: HubServer) -> None:
    download_id = under_way(service, hub)
    (horse,) = children(service.busy_worker(download_id)["pid"])
    os.kill(horse, signal.SIGKILL)
    wait_for(lambda: service.show(download_id)["attempt"] == 2)
    # What arrived in the first attempt says nothing of the second.
    wait_for(lambda: ("resolved", 2) in told(life(download_id, service.workers)))
    arrives(service, download_id)
    service.workers.stop()
    before = service.workers
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    service.workers = Workers(service.env, 1)
    ends(service, download_id, "complete")
    wait_for(lambda: service.workers.logged("complete"))
    lines = life(download_id, service.server, before, service.workers)
    assert told(lines) == [
        ("asked for", 1),
        ("queued", 1),
        ("started", 1),
        ("resolved", 1),
        ("recovered", 1),
        ("started", 2),
        ("resolved", 2),
        ("given back", 2),
        ("started", 3),
        ("resolved", 3),
        ("complete", 3),
    ]
    check(lines)
    assert {line["request_id"] for line in lines} == {REQUEST_ID}
    (recovered,) = (line for line in lines if line["message"] == "recovered")
    assert recovered["level"] == "warning"
    assert recovered["worker"]


def test_an_urgent_download_is_seen_to_take_a_place(env: dict[str, str], hub: HubServer) -> None:
    service = Service(env, workers=1)
    try:
        hub.create("org/slow", {"m-Q4_K_M.gguf": LARGE})
        hub.create("org/name", {"m-Q4_K_M.gguf": SMALL})
        hub.limit_rate_bytes_per_s = SLOW_BYTES_PER_S
        low = ask(service, "hf:org/slow", priority="low")
        arrives(service, low)
        high = ask(service, "hf:org/name", "urgent", priority="high")
        ends(service, high, "complete")
        said = [line["message"] for line in life(low, service.server, service.workers)]
        assert said[:5] == ["asked for", "queued", "started", "resolved", "preempted"]
        act(service, low, "DELETE", "", "enough")
        word = "asked a worker to make room"
        wait_for(lambda: word in [line["message"] for line in life(high, service.server)])
        urgent = life(high, service.server, service.workers)
        assert urgent[0]["priority"] == "high"
    finally:
        service.stop()


def test_a_failure_is_said_with_its_code_and_no_line_has_a_secret(service: Service, hub: HubServer) -> None:
    download_id = ask(service, "hf:org/missing", hf_token="hf_canaryOfTheLogs")
    ends(service, download_id, "failed")
    wait_for(
        lambda: any(line["message"] == "failed" for line in life(download_id, service.server, service.workers)),
        lambda: f"nobody says it:\n{service.server.output}\n{service.workers.output}",
    )
    hub.create("org/name", {"m-Q4_K_M.gguf": SMALL})
    url = f"{hub.cdn_endpoint}/files/m-Q4_K_M.gguf?signature=canaryOfTheQuery"
    refused = ask(service, url)
    ends(service, refused, "failed")
    # Whoever found out: a worker, at whichever attempt, or the resolver while it waited.
    wait_for(lambda: any(line["message"] == "failed" for line in life(refused, service.server, service.workers)))
    lines = life(download_id, service.server, service.workers)
    words = [(word, 1) for word in ("asked for", "queued", "started", "failed")]
    assert told(lines) in (words, [*words[:2], words[3]]), "started, unless it was found out while it waited"
    check(lines)
    assert lines[-1]["code"] == "MODEL_ACCESS_DENIED", "the Hub says no more to a token that it does not know"
    (end,) = (line for line in life(refused, service.server, service.workers) if line["message"] == "failed")
    assert end["code"] == "UNSAFE_URL"
    for process in (service.server, service.workers):
        assert "canaryOf" not in process.output


def test_lines_are_json_where_there_is_no_terminal(redis_url: str, tmp_path: Path) -> None:
    settings = environment(redis_url, tmp_path)
    del settings["HIVE_LOG_FORMAT"]
    server = Server(settings)
    wait_for(lambda: requests.get(f"{server.url}/healthz", timeout=60).status_code == 200)
    assert server.stop() == 0
    assert lines_of(server)


def test_lines_are_for_people_on_a_terminal(redis_url: str, tmp_path: Path) -> None:
    settings = environment(redis_url, tmp_path)
    del settings["HIVE_LOG_FORMAT"]
    ours, theirs = pty.openpty()
    process = Child(
        [sys.executable, "-m", "hive.cli", "serve", "--port", "0"],
        env={"PATH": os.environ["PATH"], **settings},
        stderr=theirs,
    )
    try:
        os.close(theirs)
        line = os.read(ours, 4096).decode()
        found = re.match(r"\d\d:\d\d:\d\d info +hive\.server +listening +address=(http://127\.0\.0\.1:\d+)", line)
        assert found, line
        wait_for(lambda: requests.get(f"{found[1]}/healthz", timeout=60).status_code == 200)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        os.close(ours)
