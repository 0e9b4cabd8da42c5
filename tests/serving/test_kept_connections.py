"""Connections from a server to its workers are kept, and one that was closed meanwhile loses no request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from hive.serving.endpoint import Endpoint
from hive.serving.kept_connections import MAX_KEPT_EACH, KeptConnections
from hive.serving.relay import Relay

TIMEOUT_S = 60
Answers = Callable[[int, int], list[bytes] | None]


class Downstream:
    """A client that keeps what it gets."""

    def __init__(self) -> None:
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.paused = False
        self.status = 0
        self.body = b""
        self.how = ""

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status

    def write(self, data: bytes) -> None:
        self.body += data

    def end(self) -> None:
        self.how = "end"

    def cut(self) -> None:
        self.how = "cut"


class Worker:
    """Answers by the number of the connection and that of the request on it; None closes without an answer."""

    def __init__(self, path: Path, answers: Answers) -> None:
        self.target = Endpoint(path=str(path))
        self.asked: list[tuple[int, int]] = []
        self._answers = answers
        self._connections = 0

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve, self.target.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        connection, number = self._connections, 0
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                number += 1
                self.asked.append((connection, number))
                pieces = self._answers(connection, number)
                if pieces is None:
                    return
                writer.write(b"".join(pieces).removesuffix(CLOSE))
                await writer.drain()
                if pieces[-1] == CLOSE:
                    return
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


#: Closes the connection.
CLOSE = b"<close>"
WHOLE = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nhi\r\n", b"0\r\n\r\n"]


def run(path: Path, answers: Answers, test: Callable[[Worker, KeptConnections], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        worker, kept = Worker(path, answers), KeptConnections()
        async with await worker.listen(), asyncio.timeout(TIMEOUT_S):
            await test(worker, kept)
            kept.close()
            assert len(kept) == 0

    asyncio.run(inside())


async def ask(worker: Worker, kept: KeptConnections) -> tuple[Downstream, Relay]:
    client = Downstream()
    relay = Relay(client, kept)
    await relay.run(worker.target, "POST", "/x", (), b"")
    return client, relay


def test_one_connection_has_request_after_request(tmp_path: Path) -> None:
    async def test(worker: Worker, kept: KeptConnections) -> None:
        for _ in range(3):
            client, relay = await ask(worker, kept)
            assert (client.status, client.body, client.how, relay.outcome) == (200, b"hi", "end", "end")
            assert len(kept) == 1
        assert worker.asked == [(1, 1), (1, 2), (1, 3)]

    run(tmp_path / "s", lambda connection, number: WHOLE, test)


def test_a_kept_connection_that_is_closed_instead_of_an_answer_is_asked_again_on_a_new_one_once(tmp_path: Path) -> None:
    async def test(worker: Worker, kept: KeptConnections) -> None:
        await ask(worker, kept)
        client, relay = await ask(worker, kept)
        assert (client.body, relay.outcome, relay.failure) == (b"hi", "end", "")
        assert worker.asked == [(1, 1), (1, 2), (2, 1)]

    run(tmp_path / "s", lambda connection, number: None if number == 2 else WHOLE, test)


@pytest.mark.parametrize("when", ["first", "head", "body"])
def test_a_request_of_which_something_may_have_been_done_is_not_asked_again(tmp_path: Path, when: str) -> None:
    begun = {"first": None, "head": WHOLE[:1], "body": WHOLE[:2]}[when]

    async def test(worker: Worker, kept: KeptConnections) -> None:
        if when != "first":
            await ask(worker, kept)
        client, relay = await ask(worker, kept)
        assert relay.outcome == "failed"
        assert client.how == ("" if when == "first" else "cut")
        assert len(worker.asked) == (1 if when == "first" else 2)
        assert len(kept) == 0

    def answers(connection: int, number: int) -> list[bytes] | None:
        if when == "first" or number == 2:
            return [*begun, CLOSE] if begun else None
        return WHOLE

    run(tmp_path / "s", answers, test)


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"],
        [*WHOLE, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"],
    ],
)
def test_a_connection_that_is_to_close_or_says_what_nobody_asked_is_not_kept(
    tmp_path: Path, answer: list[bytes]
) -> None:
    async def test(worker: Worker, kept: KeptConnections) -> None:
        for _ in range(2):
            client, _ = await ask(worker, kept)
            assert client.body == b"hi"
        assert [number for _, number in worker.asked] == [1, 1]

    run(tmp_path / "s", lambda connection, number: answer, test)


def test_a_worker_that_closes_a_connection_that_waits_is_noticed(tmp_path: Path) -> None:
    async def test(worker: Worker, kept: KeptConnections) -> None:
        client, _ = await ask(worker, kept)
        assert client.body == b"hi"
        async with asyncio.timeout(TIMEOUT_S):
            while len(kept):
                await asyncio.sleep(0.01)

    run(tmp_path / "s", lambda connection, number: [*WHOLE, CLOSE], test)


def test_no_more_are_kept_than_the_bound(tmp_path: Path) -> None:
    async def test(worker: Worker, kept: KeptConnections) -> None:
        found = await asyncio.gather(*(ask(worker, kept) for _ in range(MAX_KEPT_EACH + 20)))
        assert all(client.body == b"hi" for client, _ in found)
        assert len(kept) <= MAX_KEPT_EACH

    run(tmp_path / "s", lambda connection, number: WHOLE, test)
