"""No API key, ticket, cookie or query of a request is anywhere but with who has it: not in logs, errors, events, Redis,
files or lists of processes. Tried with the whole service, its most talkative log, and requests of every kind.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.auth.keys import KeyFile
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from hive.wire.api import MANY_PATH, PROGRESS_PATH
from tests.hub.server import HubServer
from tests.support.keys import Answer, ask, make, wait_until_taken
from tests.support.processes import Server, Workers, children, environment
from tests.support.pubsub import pending
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

#: In a query, and nowhere else.
QUERY = "canaryOfTheQuery"


@pytest.fixture
def env(own_redis: EmbeddedRedis, tmp_path: Path, hub: HubServer) -> dict[str, str]:
    hub.create("org/name", {"m-Q4_K_M.gguf": b"GGUF" + b"x" * 1000})
    return environment(
        own_redis.url, tmp_path, HF_ENDPOINT=hub.endpoint, HIVE_DRAIN_S="0.2", HF_TOKEN="", HIVE_LOG_LEVEL="debug"
    )


def everything_written(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below these folders, the append-only file of Redis among them."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()


def everything_about(pid: int) -> Iterator[tuple[str, bytes]]:
    """The arguments and the environment of a process and all that it started."""
    for one in (pid, *(child for at in children(pid) for child in (at, *children(at)))):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                yield f"{one} {name}", Path(f"/proc/{one}/{name}").read_bytes()


def refusals(server: Server, key: str | None, admin: str, ticket: str, cookie: str) -> Iterator[Answer]:
    """What the server says to requests that carry their secrets where they must not, or may not do what they ask."""
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/nothing"),
        ("PATCH", "/v1/models"),
        ("POST", "/v1/gc"),
        ("POST", "/v1/models/download"),
        ("DELETE", f"/v1/downloads/{uuid.uuid4()}"),
        ("GET", PROGRESS_PATH),
        ("GET", MANY_PATH),
    ):
        query = f"id={uuid.uuid4()}&api_key={admin}&ticket={ticket}x&y={QUERY}"
        yield ask(server, method, f"{path}?{query}", key, headers={"X-Api-Key": admin})
        yield ask(server, method, path, key, body={"nothing": 1}, headers={"Cookie": cookie + "x"})
        yield ask(server, method, f"{path}?{query}", key, headers={"Host": "evil.example"})
        yield ask(server, method, path, headers={"Cookie": cookie, "Origin": "https://evil.example"})


def command_without_scope(env: dict[str, str], server: Server, key: str) -> subprocess.CompletedProcess[bytes]:
    """A command that needs more than its key may do."""
    return subprocess.run(
        [sys.executable, "-m", "hive.cli", "limit"],
        env={**env, "PATH": os.environ["PATH"], "HIVE_HOST": server.url, "HIVE_API_KEY": key},
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_what_is_secret_of_a_request_is_nowhere(env: dict[str, str], own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    home = Path(env["HIVE_HOME"])
    file = KeyFile(home / "keys.json")
    admin, reader, revoked = make(file, "admin"), make(file, "read"), make(file, "admin")
    file.revoke(revoked[5:13])
    stranger = f"hive_zzzzzzzz_{'canaryOfAStranger'.ljust(43, 'x')}"
    heard: list[bytes] = []

    with connect(own_redis.url) as client:
        channels = client.pubsub()
        channels.psubscribe("*")
        server, workers = Server(env), Workers(env)
        try:
            server.wait_until_ready()
            wait_until_taken(server, reader)
            ticket = ask(server, "POST", "/v1/tickets", admin, body={"all": True}).json["ticket"]
            made = ask(server, "POST", "/v1/session", admin)
            cookie = made.headers["set-cookie"].partition(";")[0]
            secrets = [admin, admin[14:], reader[14:], revoked[14:], stranger[14:], QUERY]
            secrets += [ticket, ticket.rpartition(".")[2], cookie, cookie.rpartition(".")[2]]

            answer = ask(server, "POST", "/v1/models/download", admin, body={"model_ref": "hf:org/name"})
            download_id = answer.json["download_id"]
            stream = SseClient(f"{server.url}{PROGRESS_PATH}?id={download_id}&ticket={ticket}&x={QUERY}").wait()
            assert stream.last["stage"] == "complete"
            keys = (admin, reader, revoked, stranger, ticket, None)
            errors = [error for key in keys for error in refusals(server, key, admin, ticket, cookie)]
            assert {401, 403, 404, 405, 421} <= {error.status for error in errors}
            cli = command_without_scope(env, server, reader)
            assert cli.returncode == 1

            def read_channels() -> bool:
                for message in pending(channels):
                    heard.append(str(message["data"]).encode())
                return any(b"complete" in data for data in heard)

            wait_for(read_channels, "no event is heard")
            about = [*everything_about(server.pid), *everything_about(workers.pid)]
            ended = ask(server, "DELETE", "/v1/session", headers={"Cookie": cookie})
            assert ended.status == 204
        finally:
            server.stop()
            workers.stop()
    places = [
        ("the server's log", server.output.encode()),
        ("the workers' log", workers.output.encode()),
        ("the command line", cli.stdout + cli.stderr),
        *((f"answer {error.status}", error.body + str(error.headers).encode()) for error in errors),
        *(("an event", data) for data in heard),
        ("the stream", str(stream.events).encode()),
        *about,
        *everything_written(home, Path(env["HIVE_STORE"]), tmp_path, own_redis.home),
    ]
    # What is no secret is found: the data of Redis and the logs were looked through.
    assert any("aof" in name and download_id.encode() in data for name, data in places)
    assert "key:" + admin[5:13] in server.output
    for name, data in places:
        for secret in secrets:
            assert secret.encode() not in data, (name, secret[:30])
