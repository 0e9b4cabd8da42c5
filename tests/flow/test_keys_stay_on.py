"""Keys that were made while hive runs are required from then on, also by a server that takes the place of a dead one.

A file that has gone by then is no reason to let everybody in.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from hive.auth.keys import KeyFile
from tests.support.keys import Served, ask
from tests.support.processes import ManyProcesses, children, environment
from tests.support.up import running_up
from tests.support.waiting import wait_for


@dataclass
class Reached:
    """A server at an address."""

    url: str


#: Seconds within which a first key is required everywhere.
REQUIRED_S = 3.0


def status(server: Served, key: str | None = None) -> int:
    """Of a request that needs a key where keys are on; 0 where nobody answers."""
    try:
        return ask(server, "GET", "/v1/workers", key).status
    except OSError:
        return 0


def test_a_server_that_up_starts_anew_is_not_open_because_the_key_file_has_gone(tmp_path: Path) -> None:
    env = {"HIVE_STORE": str(tmp_path / "store"), "HIVE_HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    with running_up(env, tmp_path / "log", "--workers", "1") as up:
        server = Reached(up.address)
        assert status(server) == 200
        file = KeyFile(tmp_path / "home" / "keys.json")
        key = file.add("first", ["admin"]).text
        wait_for(lambda: status(server) == 401, "the first key is not required", REQUIRED_S)
        assert status(server, key) == 200
        first = up.children()["server"]
        # `up` looks for itself: the third of three looks of the server's began after one of its own.
        for number in range(3):
            more = file.add(f"last {number}", ["admin"]).text
            wait_for(lambda more=more: status(server, more) == 200, "a key is not taken")  # type: ignore[misc]
        file.path.unlink()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: up.children().get("server") not in (None, first), "it is not started again")
        assert wait_for(lambda: status(server), "the server is not back") == 401
        assert status(server, key) == 503


def test_a_process_of_many_that_takes_the_place_of_another_is_not_open_either(redis_url: str, tmp_path: Path) -> None:
    env = environment(redis_url, tmp_path, HIVE_DRAIN_S="0")
    server = ManyProcesses(env)
    try:
        file = KeyFile(Path(env["HIVE_HOME"]) / "keys.json")
        file.add("first", ["admin"])
        refused = 0
        while refused < 20:  # connections fall to the one process or the other
            refused = refused + 1 if status(server) == 401 else 0
        file.path.unlink()
        before = set(children(server.pid))
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(set(children(server.pid)) - before) == len(before), "they are not replaced")
        wait_for(server.ready)
        assert {status(server) for _ in range(20)} == {401}
    finally:
        server.stop()
