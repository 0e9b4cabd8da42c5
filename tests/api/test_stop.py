"""A server that stops answers every request of a connection that its client could make."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.support.processes import Server

#: More than are accepted between two looks at whether to stop, 0.1 s.
WAITING = 700
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: Seconds that an answer may take.
PATIENCE_S = 60.0


@pytest.fixture
def stopped(server_env: dict[str, str]) -> Iterator[Server]:
    """A server of its own."""
    server = Server(server_env)
    try:
        server.wait_until_ready()
        yield server
    finally:
        os.kill(server.pid, signal.SIGCONT)
        server.stop()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes, or resets."""
    received = b""
    with connection, contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


def ask_while_it_is_told_to_stop(server: Server, connections: list[socket.socket]) -> list[bytes]:
    """What each connection gets whose request is sent just before the server can do anything about its SIGTERM."""
    for connection in connections:
        connection.sendall(REQUEST)
    os.kill(server.pid, signal.SIGTERM)
    os.kill(server.pid, signal.SIGCONT)
    return [answer(connection) for connection in connections]


def test_whoever_is_connected_when_it_stops_has_an_answer(stopped: Server) -> None:
    """Those in the kernel's queue are: their clients have sent their requests."""
    os.kill(stopped.pid, signal.SIGSTOP)
    answers = ask_while_it_is_told_to_stop(stopped, [connect(stopped) for _ in range(WAITING)])
    assert {text.partition(b"\r\n")[0] for text in answers} == {b"HTTP/1.1 200 OK"}
    with pytest.raises(ConnectionRefusedError):
        connect(stopped)


def test_a_request_on_an_idle_connection_is_answered(stopped: Server) -> None:
    used, unused = connect(stopped), connect(stopped)
    used.sendall(REQUEST)
    first = b""
    while not first.endswith(b"}"):
        first += used.recv(65536)
    os.kill(stopped.pid, signal.SIGSTOP)
    for text in ask_while_it_is_told_to_stop(stopped, [used, unused]):
        assert text.startswith(b"HTTP/1.1 200 OK")
