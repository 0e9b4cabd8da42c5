"""What a client waits for takes one of its places, which is free again as soon as it has gone, however it went."""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from hive.auth.keys import KeyFile
from hive.downloads.access import MAX_WAITING_OF_ONE
from hive.downloads.context import DownloadContext
from hive.downloads.resolutions import Resolutions
from hive.downloads.service import MAX_WAITING_PLANS_OF_ONE
from hive.processes.embedded_redis import EmbeddedRedis
from tests.support.downloads import new
from tests.support.processes import Server, environment
from tests.support.waiting import wait_for

LONG_POLLS = 3
#: Seconds: far less than any of these waits by itself.
SOON_S = 30.0
NAMES = ("alice", "bob")


@pytest.fixture
def keyed(redis_server: EmbeddedRedis, redis_url: str, tmp_path: Path) -> Iterator[tuple[Server, dict[str, str]]]:
    """The server, and the keys of its people."""
    env = environment(redis_server.url, tmp_path, HIVE_MAX_LONG_POLLS_PER_KEY=str(LONG_POLLS))
    file = KeyFile(Path(env["HIVE_HOME"]) / "keys.json")
    texts = {name: file.add(name, ["read", "pull"], owner=name).text for name in NAMES}
    server = Server(env)
    server.wait_until_ready()
    yield server, texts
    assert server.stop() == 0
    assert "Traceback" not in server.output


def _close(connection: socket.socket) -> None:
    connection.close()


def _reset(connection: socket.socket) -> None:
    """As the system does for a client that was killed with something unread."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _say_no_more(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


def _send(url: str, key: str, method: str, path: str, body: object = None) -> socket.socket:
    """A connection with a request on it, whose answer nobody has read."""
    parts = urlsplit(url)
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection = socket.create_connection((parts.hostname or "", parts.port or 0))
    connection.sendall(head.encode() + data)
    return connection


def _is_refused(url: str, key: str, method: str, path: str, body: object = None) -> bool:
    """Whether a request is told that it has too many waiting; it is given up where it waits."""
    try:
        headers = {"Authorization": f"Bearer {key}"}
        return requests.request(method, url + path, headers=headers, json=body, timeout=0.5).status_code == 429
    except requests.ReadTimeout:
        return False


@pytest.mark.parametrize("leave", [_close, _reset, _say_no_more])
def test_a_long_poll_whose_client_has_gone_is_over(
    keyed: tuple[Server, dict[str, str]], downloads: DownloadContext, leave: Callable[[socket.socket], None]
) -> None:
    server, keys = keyed
    download_id, _ = downloads.tracker.create(new("one", owner="alice"))
    poll = ("GET", f"/v1/downloads/{download_id}?wait=50s")
    waiting = [_send(server.url, keys["alice"], *poll) for _ in range(LONG_POLLS)]
    wait_for(lambda: _is_refused(server.url, keys["alice"], *poll), "all places are taken")
    for connection in waiting:
        leave(connection)
    again: list[socket.socket] = []

    def all_wait_again() -> bool:
        # One that was refused asks again: a place may still be that of a question which was given up just now.
        for refused in select.select(again, [], [], 0)[0]:
            again.remove(refused)
            refused.close()
        again.extend(_send(server.url, keys["alice"], *poll) for _ in range(LONG_POLLS - len(again)))
        return _is_refused(server.url, keys["alice"], *poll) and not select.select(again, [], [], 0)[0]

    wait_for(all_wait_again, "each of them has a place, and waits", SOON_S)
    for connection in (*waiting, *again):
        connection.close()


@pytest.mark.parametrize("leave", [_close, _reset])
def test_a_plan_whose_client_has_gone_is_over(
    keyed: tuple[Server, dict[str, str]], downloads: DownloadContext, leave: Callable[[socket.socket], None]
) -> None:
    server, keys = keyed
    Resolutions(downloads.client).alive()  # and never answers
    plan = ("POST", "/v1/models/plan", {"model_ref": "org/name"})
    waiting = [_send(server.url, keys["alice"], *plan) for _ in range(MAX_WAITING_PLANS_OF_ONE)]
    wait_for(lambda: len(downloads.client.keys("hive:plan:*")) == len(waiting), "they wait")
    wait_for(lambda: _is_refused(server.url, keys["alice"], *plan), "all places are taken")
    for connection in waiting:
        leave(connection)
    wait_for(lambda: not _is_refused(server.url, keys["alice"], *plan), "a place is free", SOON_S)


def test_questions_of_who_may_see_a_model_have_places_of_each_owner_which_are_given_back(
    keyed: tuple[Server, dict[str, str]], downloads: DownloadContext
) -> None:
    server, keys = keyed
    Resolutions(downloads.client).alive()  # and never answers

    def asked() -> int:
        return len(downloads.client.keys("hive:plan:*"))

    def ask(name: str, number: int) -> socket.socket:
        return _send(server.url, keys[name], "GET", f"/v1/models/org/name{number}")

    waiting = [ask("alice", number) for number in range(MAX_WAITING_OF_ONE)]
    wait_for(lambda: asked() == MAX_WAITING_OF_ONE, "they wait")
    url, headers = f"{server.url}/v1/models/org/other", {"Authorization": f"Bearer {keys['alice']}"}
    assert requests.get(url, headers=headers, timeout=60).status_code == 404, "by what is known"
    waiting.append(ask("bob", 100))
    wait_for(lambda: asked() == MAX_WAITING_OF_ONE + 1, "another one's is asked")
    for connection in waiting:
        connection.close()

    def is_asked_again() -> bool:
        before = asked()
        connection = ask("alice", 200 + before)
        try:
            wait_for(lambda: asked() > before, deadline_s=0.5)
        except AssertionError:
            return False
        finally:
            connection.close()
        return True

    wait_for(is_asked_again, "a place is free", SOON_S)
