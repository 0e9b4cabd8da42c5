"""LLM workers in tests: the process of one, and a client that reads its streams as they come."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import requests

from hive.serving.orders import SpawnOrder
from tests.support.processes import HiveProcess, Server, Workers, children, is_alive
from tests.support.waiting import wait_for

#: What every engine of a test is told: one thread, because two that wait for each other on a busy machine take turns.
ENGINE = {"HIVE_LLM_THREADS": "1", "HIVE_LLM_LOAD_MODE": "none", "HIVE_LLM_KEEP_FREE_BYTES": "0"}
TIMEOUT_S = 60
#: What the model of most tests recites: a crab whose character takes four tokens, and letters of two bytes.
PIECES = (
    *(b"Once", b" upon", b" a", b" time", b", ", b"\xf0", b"\x9f", b"\xa6", b"\x80"),
    *(b" the", b" crab", b" \xc3\xa9t\xc3\xa9", b"."),
)
RECITED = b"".join(PIECES).decode()


#: Starts a worker: `start(path, settings, **order)`.
StartWorker = Callable[..., "LlmProcess"]


class LlmProcess(HiveProcess):
    """`python -m workers.inference` with an order of its own."""

    def __init__(self, env: Mapping[str, str], path: Path | str, **order: Any) -> None:
        self.worker_id = f"worker-{uuid.uuid4()}"
        made = SpawnOrder(worker_id=self.worker_id, model_ref="hf:org/model", path=str(path), **order)
        super().__init__("workers.inference", msgspec.json.encode(made).decode(), env={**ENGINE, **env})
        with self.killed_unless_ready():
            self.url: str = self.wait_for_log("listening")["address"]

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=TIMEOUT_S)

    def post(self, path: str, body: Any, **more: Any) -> requests.Response:
        return requests.post(f"{self.url}{path}", json=body, timeout=TIMEOUT_S, **more)

    def wait_until_ready(self) -> None:
        with self.killed_unless_ready():
            wait_for(lambda: self.get("/v1/ready").json()["ready"], "the model is loaded")

    def loading(self) -> list[dict[str, Any]]:
        """The events of its loading, to the end."""
        return events_of(self.get("/v1/loading/progress").content)

    def engine_pids(self) -> list[int]:
        """The engine's process, and what it started."""
        return children(self.pid)

    def infer(self, **body: Any) -> list[dict[str, Any]]:
        """The events of one inference."""
        answer = self.post("/v1/inference", {"prompt": "?", **body})
        assert answer.status_code == 200, answer.text
        return events_of(answer.content)


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream that has ended as it should: bare `data:` lines, `[DONE]` once, and at the end."""
    blocks = body.split(b"\n\n")
    assert blocks.pop() == b""
    blocks = [block for block in blocks if block != b":"]
    assert all(block.startswith(b"data: ") and b"\n" not in block for block in blocks), blocks
    assert blocks.pop() == b"data: [DONE]"
    assert b"data: [DONE]" not in blocks
    return [json.loads(block[len(b"data: ") :]) for block in blocks]


def text_of(events: list[dict[str, Any]]) -> str:
    """The text of an inference; `i` counts from 0 without gaps."""
    tokens = [event for event in events if event["type"] == "token"]
    assert [event["i"] for event in tokens] == list(range(len(tokens)))
    return "".join(event["t"] for event in tokens)


class RawStream:
    """A POST whose answer is read as slowly as the test likes."""

    def __init__(self, url: str, path: str, body: Any, receive_bytes: int | None = None, **headers: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._socket = socket.socket()
        if receive_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect((host, int(port)))
        data = json.dumps(body).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n{more}\r\n"
        self._socket.sendall(head.encode() + data)
        self._rest = b""
        self.status = int(self._until(b"\r\n\r\n").split(b" ")[1])

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            data = self._socket.recv(65_536)
            if not data:
                raise EOFError
            self._rest += data
        found, _, self._rest = self._rest.partition(mark)
        return found

    def event(self) -> dict[str, Any] | None:
        """The next event; None for `[DONE]`. Raises EOFError where the stream ends without one."""
        block = self._until(b"\n\n")
        while block == b":":
            block = self._until(b"\n\n")
        assert block.startswith(b"data: "), block
        return None if block == b"data: [DONE]" else json.loads(block[6:])

    def events(self) -> Iterator[dict[str, Any]]:
        """All that follow, until `[DONE]`; then it is closed."""
        while (event := self.event()) is not None:
            yield event
        self.close()

    def close(self) -> None:
        """Leave."""
        self._socket.close()


def seconds_until(condition: Any, what: str) -> float:
    """How long it takes until a condition holds."""
    began_s = time.monotonic()
    wait_for(condition, what)
    return time.monotonic() - began_s


class Fleet:
    """Replicas, and a pool of workers whose machine runs models."""

    def __init__(self, env: Mapping[str, str], replicas: int = 1, *, with_pool: bool = True) -> None:
        self.env = {**ENGINE, **env}
        self.servers: list[Server] = []
        self.pool: Workers | None = None
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.stop)
            for _ in range(replicas):
                self.servers.append(Server(self.env))
            for server in self.servers:
                server.wait_until_ready()
            if with_pool:
                self.start_pool()
            on_failure.pop_all()

    def start_pool(self) -> None:
        self.pool = Workers(self.env)
        wait_for(lambda: self.get("/v1/devices").json()["devices"], "a machine runs models")

    @property
    def url(self) -> str:
        return self.servers[0].url

    def get(self, path: str, replica: int = 0, **more: Any) -> requests.Response:
        return requests.get(f"{self.servers[replica].url}{path}", timeout=TIMEOUT_S, **more)

    def post(self, path: str, body: Any, replica: int = 0, **more: Any) -> requests.Response:
        return requests.post(f"{self.servers[replica].url}{path}", json=body, timeout=TIMEOUT_S, **more)

    def delete(self, path: str, replica: int = 0) -> requests.Response:
        return requests.delete(f"{self.servers[replica].url}{path}", timeout=TIMEOUT_S)

    def spawn(self, model_ref: str, replica: int = 0, **more: Any) -> dict[str, Any]:
        answer = self.post("/v1/workers/spawn", {"model_ref": model_ref, **more}, replica)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def loading(self, worker_id: str, replica: int = 0) -> list[dict[str, Any]]:
        """The events of a worker's loading, to the end, by a replica."""
        answer = self.get(f"/v1/loading/progress?id={worker_id}", replica)
        assert answer.status_code == 200, answer.text
        return events_of(answer.content)

    def load(self, model_ref: str, **more: Any) -> dict[str, Any]:
        """A worker that has the model in memory."""
        spawned = self.spawn(model_ref, **more)
        assert self.loading(spawned["worker_id"])[-1] == {"stage": "ready"}
        return spawned

    def workers(self, replica: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/v1/workers/list", replica).json()["workers"]
        return found

    def end_workers(self) -> None:
        """End those that there are; returns when nobody lists them, and their processes have gone."""
        pids = [worker["pid"] for worker in self.workers() if worker["pid"]]
        for worker in self.workers():
            self.delete(f"/v1/workers/{worker['id']}")
        wait_for(lambda: self.workers() == [], "the workers have ended")
        wait_for(lambda: not any(map(is_alive, pids)), "their processes have ended")

    def infer(self, replica: int = 0, **body: Any) -> list[dict[str, Any]]:
        answer = self.post("/v1/inference", {"prompt": "?", **body}, replica)
        assert answer.status_code == 200, answer.text
        return events_of(answer.content)

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:
            for process in (*self.servers, self.pool):
                if process is not None:
                    stack.callback(process.stop)

    def check(self) -> None:
        """None of it has failed by our mistake."""
        for process in (*self.servers, self.pool):
            assert process is None or "Traceback" not in process.output, process.output
