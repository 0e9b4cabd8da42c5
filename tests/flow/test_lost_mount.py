"""A machine loses the store's mount while others have it: nothing is written or said of the empty folder in its place,
its downloads go on elsewhere, and it is back when the mount is.

The machines are mount namespaces; the store is a tmpfs that they share.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.hub.server import HubServer
from tests.support.mounts import ELSEWHERE, mounted, on_machine_of, program_of, seen_by
from tests.support.processes import HiveProcess, Server, Workers, stopping
from tests.support.service import CONTENT, check_right_end, slow
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The store's mount, and another mount of the same disk beside it."""
    with mounted("tmpfs", tmp_path / "disk") as made, mounted("bind", tmp_path / "beside", str(made)):
        yield made


@pytest.fixture
def fleet_env(env: dict[str, str], disk: Path) -> dict[str, str]:
    return {**env, "HIVE_STORE": str(disk), "HIVE_KEEP_FREE_PERCENT": "0"}


def lose(process: HiveProcess, disk: Path) -> None:
    assert on_machine_of(process.pid, "umount", "-l", str(disk))


def wrote_nothing(process: HiveProcess, disk: Path) -> None:
    written = sorted(str(path) for path in seen_by(process.pid, disk).rglob("*"))
    assert written == [], "something was written where nothing is mounted"


def give_back(process: HiveProcess, disk: Path) -> None:
    assert on_machine_of(process.pid, "mount", "--bind", str(disk.with_name("beside")), str(disk))


def ask(server: Server, model_ref: str) -> SseClient:
    answer = requests.post(f"{server.url}/v1/models/download", json={"model_ref": model_ref}, timeout=60)
    assert answer.status_code in (200, 202), answer.text
    return SseClient(f"{server.url}/v1/models/download/progress?id={answer.json()['download_id']}")


def test_a_worker_without_its_mount_hands_its_download_on_and_waits(
    fleet_env: dict[str, str], hub: HubServer, disk: Path
) -> None:
    model = slow(hub)
    with contextlib.ExitStack() as stack:
        server, lonely = Server(fleet_env), Workers(fleet_env, under=ELSEWHERE)
        for process in (server, lonely):
            stack.enter_context(stopping(process))
        server.wait_until_ready()
        client = ask(server, model)
        wait_for(lambda: client.events and client.last.get("bytes_downloaded", 0) >= 1 << 20)
        stack.enter_context(stopping(Workers(fleet_env)))
        lose(lonely, disk)
        wait_for(lambda: client.last["attempt"] == 2, "its download goes to the other")
        wait_for(lambda: "waiting for the store" in lonely.output)
        hub.limit_rate_bytes_per_s = None
        hub.close_connections()
        check_right_end(client, attempts=2)
        assert client.last["local_path"].startswith(str(disk))
        sent = hub.bytes_sent(f"*{CONTENT.sha256()}*")
        assert sent < 1.5 * CONTENT.size, "the other began anew"
        wrote_nothing(lonely, disk)
        give_back(lonely, disk)
        hub.create("org/after", {"config.json": b"{}"})
        assert ask(server, "hf:org/after").wait(60).last["stage"] == "complete"


def test_a_lone_worker_without_its_mount_goes_on_when_it_is_back(
    fleet_env: dict[str, str], hub: HubServer, disk: Path
) -> None:
    model = slow(hub)
    with (
        stopping(Server(fleet_env)) as server,
        stopping(Workers(fleet_env, under=ELSEWHERE)) as lonely,
    ):
        assert isinstance(server, Server)
        server.wait_until_ready()
        client = ask(server, model)
        wait_for(lambda: client.events and client.last.get("bytes_downloaded", 0) >= 1 << 20)
        lose(lonely, disk)
        wait_for(lambda: "waiting for the store" in lonely.output)
        assert client.last["stage"] == "downloading"
        hub.limit_rate_bytes_per_s = None
        hub.close_connections()
        wrote_nothing(lonely, disk)
        give_back(lonely, disk)
        client.wait(90)
        assert client.last["stage"] == "complete", client.last


def test_a_server_without_its_mount_says_so_and_nothing_else(
    fleet_env: dict[str, str], hub: HubServer, disk: Path
) -> None:
    hub.create("org/name", {"config.json": b"{}"})
    hub.create("org/other", {"config.json": b"{}"})
    with contextlib.ExitStack() as stack:
        lonely, well, workers = Server(fleet_env, under=ELSEWHERE), Server(fleet_env), Workers(fleet_env)
        for process in (lonely, well, workers):
            stack.enter_context(stopping(process))
        for server in (lonely, well):
            server.wait_until_ready()
        first = ask(well, "hf:org/name").wait(60)
        assert first.last["stage"] == "complete"
        lose(lonely, disk)
        wait_for(lambda: requests.get(f"{lonely.url}/readyz", timeout=60).status_code == 503)
        for method, path, body in (
            ("GET", "/readyz", None),
            ("GET", "/v1/models", None),
            ("GET", "/v1/models/org/name", None),
            ("DELETE", "/v1/models/org/name", None),
            ("POST", "/v1/models/download", {"model_ref": "hf:org/name"}),
            ("POST", "/v1/models/download", {"model_ref": "hf:org/other"}),
            ("POST", "/v1/models/verify", {}),
        ):
            answer = requests.request(method, lonely.url + path, json=body, timeout=60)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORE_MISSING"), (path, answer.text)
        listed = requests.get(f"{lonely.url}/v1/downloads", timeout=60).json()["data"]
        assert [download["status"] for download in listed] == ["complete"]
        assert requests.get(f"{well.url}/v1/models", timeout=60).json()["data"]
        assert ask(well, "hf:org/other").wait(60).last["stage"] == "complete"
        wrote_nothing(lonely, disk)
        stack.enter_context(stopping(late := Server(fleet_env, under=(*ELSEWHERE, *without(disk)))))
        assert requests.get(f"{late.url}/readyz", timeout=60).status_code == 503
        wait_for(lambda: "Is a mount missing?" in late.output)
        files = [path for path in seen_by(late.pid, disk).rglob("*") if path.is_file()]
        assert files == [], "it made a store of an empty folder"
        give_back(lonely, disk)
        lonely.wait_until_ready()
        assert len(requests.get(f"{lonely.url}/v1/models", timeout=60).json()["data"]) == 2
        for server in (lonely, well, late):
            assert "Traceback" not in server.output, server.output


def without(disk: Path) -> tuple[str, ...]:
    """Runs the rest of its line where this disk is not mounted."""
    return ("sh", "-c", f'umount -l {disk} && exec "$@"', "sh")


def test_a_filesystem_whose_program_died_fails_no_download(env: dict[str, str], hub: HubServer, tmp_path: Path) -> None:
    """A FUSE mount without its process: ENOTCONN for whoever touches it. The workers began before anybody had named the
    store.
    """
    model = slow(hub)
    with mounted("exfat", tmp_path / "stick") as disk:
        fleet_env = {**env, "HIVE_STORE": str(disk), "HIVE_KEEP_FREE_PERCENT": "0"}
        with stopping(Workers(fleet_env)) as workers, stopping(Server(fleet_env)) as server:
            assert isinstance(server, Server)
            server.wait_until_ready()
            client = ask(server, model)
            wait_for(lambda: client.events and client.last.get("bytes_downloaded", 0) >= 1 << 20)
            os.kill(program_of(disk), signal.SIGKILL)
            wait_for(lambda: "waiting for the store" in workers.output)
            assert client.last["stage"] == "downloading"
            wait_for(lambda: requests.get(f"{server.url}/readyz", timeout=60).status_code == 503)
            answer = requests.get(f"{server.url}/readyz", timeout=60)
            assert answer.json()["error"]["code"] == "STORE_MISSING", answer.text
            assert requests.get(f"{server.url}/v1/models", timeout=60).status_code == 503
            for process in (server, workers):
                assert "Traceback" not in process.output, process.output
