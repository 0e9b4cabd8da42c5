"""Happy Eyeballs: a dead address in front costs a quarter of a second once, and what answered is asked first."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore2
import pytest

from hive.errors import Cancelled, DownloadError, HubUnavailable
from hive.net import happy_eyeballs
from hive.net.egress import Network
from hive.net.happy_eyeballs import MEMORY, AddressInfo, _Memory, connect
from hive.net.httpcore import pool
from hive.settings import Settings
from tests.hub import HubServer
from tests.support.content import MIB
from tests.support.transfer import QUICK, background, big, get, holds, source
from tests.support.waiting import AT_ONCE_S, wait_for
from workers.sources.hub_client import HubClient

#: A delay between two attempts that is longer than any time-out: who waits for it fails.
NEVER_S = 600.0


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    MEMORY.clear()
    yield
    MEMORY.clear()


@contextlib.contextmanager
def silent(ip: str, port: int = 0) -> Iterator[int]:
    """An address that answers no SYN: the queue of its listener is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind((ip, port))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@contextlib.contextmanager
def answering(ip: str, port: int = 0) -> Iterator[int]:
    with socket.create_server((ip, port), backlog=64) as server:
        yield server.getsockname()[1]


def info(ip: str, port: int, family: int = socket.AF_INET) -> AddressInfo:
    return family, socket.SOCK_STREAM, 6, "", (ip, port)


def peer(found: list[AddressInfo], timeout_s: float = 4 * AT_ONCE_S) -> tuple[str, float]:
    """The address that won, and the seconds it took."""
    began_s = time.monotonic()
    with connect(found, lambda: timeout_s) as sock:
        return str(sock.getpeername()[0]), time.monotonic() - began_s


def test_a_silent_address_in_front_costs_one_delay_and_then_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent("127.0.0.2") as dead, answering("127.0.0.3") as good:
        found = [info("127.0.0.2", dead), info("127.0.0.3", good)]
        monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY_S", 0.5)
        ip, took_s = peer(found, timeout_s=30)
        assert ip == "127.0.0.3"
        assert took_s >= 0.5 * 0.9
        monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY_S", NEVER_S)
        assert peer(found)[0] == "127.0.0.3"
        # What did not answer is the last one from now on, whatever name leads to it.
        with answering("127.0.0.4") as other:
            assert peer([info("127.0.0.2", dead), info("127.0.0.4", other)])[0] == "127.0.0.4"


def test_a_refused_address_in_front_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY_S", NEVER_S)
    with answering("127.0.0.3") as good:
        assert peer([info("127.0.0.2", 9), info("127.0.0.3", good)])[0] == "127.0.0.3"


def test_a_family_that_this_machine_does_not_have_costs_nothing() -> None:
    with answering("127.0.0.3") as good:
        nowhere = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", good, 0, 0))
        assert peer([nowhere, info("127.0.0.3", good)])[0] == "127.0.0.3"


def test_all_addresses_are_tried() -> None:
    with answering("127.0.0.30") as good:
        found = [*(info(f"127.0.0.{n}", 9) for n in range(2, 12)), info("127.0.0.30", good)]
        assert peer(found)[0] == "127.0.0.30"


def test_several_silent_ones_are_raced() -> None:
    with contextlib.ExitStack() as stack:
        dead = [(f"127.0.0.{n}", stack.enter_context(silent(f"127.0.0.{n}"))) for n in range(2, 6)]
        good = stack.enter_context(answering("127.0.0.30"))
        ip, took_s = peer([*(info(*address) for address in dead), info("127.0.0.30", good)], 4 * AT_ONCE_S)
    assert ip == "127.0.0.30"
    assert took_s < AT_ONCE_S


def test_the_time_out_is_that_of_all_together() -> None:
    with contextlib.ExitStack() as stack:
        dead = [(f"127.0.0.{n}", stack.enter_context(silent(f"127.0.0.{n}"))) for n in range(2, 8)]
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            connect([info(*address) for address in dead], lambda: 3.0)
        assert 2.9 < time.monotonic() - began_s < 3 + AT_ONCE_S


def test_the_last_problem_is_told() -> None:
    with pytest.raises(ConnectionRefusedError):
        connect([info("127.0.0.2", 9), info("127.0.0.3", 9)], lambda: 5.0)
    with pytest.raises(OSError, match="no address"):
        connect([], lambda: 5.0)


def test_families_take_turns() -> None:
    four = [info(f"127.0.0.{n}", 1) for n in (1, 2, 3)]
    six = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (f"::{n}", 1, 0, 0)) for n in (1, 2, 3)]
    ordered = [entry[4][0] for entry in MEMORY.sorted([*six, *four])]
    assert ordered == ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3", "127.0.0.3"]


def test_what_was_learned_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering("127.0.0.3") as good:
        found = [info("127.0.0.2", 9), info("127.0.0.3", good)]
        peer(found)
        assert MEMORY.sorted(found)[0][4][0] == "127.0.0.3"
        monkeypatch.setattr(time, "monotonic", lambda: 1e12)
        assert MEMORY.sorted(found)[0][4][0] == "127.0.0.2"


def test_no_socket_is_left_behind() -> None:
    with silent("127.0.0.2") as dead, answering("127.0.0.3") as good:
        made: list[socket.socket] = []
        with connect([info("127.0.0.2", dead), info("127.0.0.3", good)], lambda: 5.0, hold=made.append) as winner:
            assert [sock.fileno() for sock in set(made) - {winner}] == [-1]
            assert winner.gettimeout() == 5.0


def resolving_to(monkeypatch: pytest.MonkeyPatch, *ips: str) -> None:
    """A resolver that gives these addresses for every name."""

    def resolve(host: str, port: int, **_: object) -> list[Any]:
        return [info(ip, port) for ip in ips]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_file_comes_from_a_name_with_a_silent_address_in_front(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = big(2 * MIB)
    port = int(hub.endpoint.rpartition(":")[2])
    hub.plain("f", content)
    hub.limit_rate_bytes_per_s = MIB  # so that there are several connections: one alone brings it in a moment
    resolving_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    tried_first: list[str] = []
    race = happy_eyeballs._Race.run

    def run(self: Any, *limits: Any) -> socket.socket:
        tried_first.append(self._left[0][4][0])
        return race(self, *limits)

    monkeypatch.setattr(happy_eyeballs._Race, "run", run)
    with silent("127.0.0.2", port):
        get(source(f"http://models.example:{port}/f", content), tmp_path / "f", QUICK)
    assert holds(tmp_path / "f", content)
    # Once, or by those that began together, and not for each of its connections.
    assert 0 < tried_first.count("127.0.0.2") <= QUICK.connections_start < len(tried_first)
    assert tried_first[-1] == "127.0.0.1"


def test_a_cancel_ends_the_wait_for_a_silent_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent("127.0.0.2") as port:
        resolving_to(monkeypatch, "127.0.0.2")
        patient = replace(QUICK, connect_timeout_s=4 * AT_ONCE_S)
        with background(source(f"http://models.example:{port}/f", big()), tmp_path / "f", patient) as run:
            wait_for(lambda: any(thread.name.startswith("transfer-") for thread in threading.enumerate()))
            began_s = time.monotonic()
            run.control.cancel()
            run.end()
        assert time.monotonic() - began_s < AT_ONCE_S
    assert isinstance(run.error, Cancelled)
    # What was given up has not failed.
    assert MEMORY.sorted([info("127.0.0.2", port), info("127.0.0.3", port)])[0][4][0] == "127.0.0.2"


def test_a_name_whose_addresses_are_all_dead_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, "127.0.0.2", "127.0.0.3")
    with pytest.raises(DownloadError, match="the server cannot be reached"):
        get(source("http://models.example:9/f", big()), tmp_path / "f", QUICK)


@contextlib.contextmanager
def mute(ip: str, *, closes: bool) -> Iterator[int]:
    """An address that takes every connection, and then says nothing, or hangs up."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server((ip, 0), backlog=64))

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken, _ = server.accept()
                    if closes:
                        taken.close()
                    else:
                        stack.enter_context(taken)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        stack.callback(server.shutdown, socket.SHUT_RDWR)
        yield int(server.getsockname()[1])


@pytest.mark.parametrize("closes", [False, True])
def test_an_address_that_takes_connections_and_never_answers_is_left_for_another(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    content = big(MIB)
    url = hub.plain("f", content)
    port = int(hub.endpoint.rpartition(":")[2])
    with mute("127.0.0.2", closes=closes) as dead:
        found = [info("127.0.0.2", dead), info("127.0.0.1", port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: list(found))
        get(source(url, content), tmp_path / "f", replace(QUICK, stall_s=0.3, attempts_max=2))
    assert holds(tmp_path / "f", content)


@pytest.mark.parametrize("closes", [False, True])
def test_the_hubs_api_leaves_such_an_address_too(hub: HubServer, monkeypatch: pytest.MonkeyPatch, closes: bool) -> None:
    port = int(hub.endpoint.rpartition(":")[2])
    with mute("127.0.0.2", closes=closes) as dead:
        found = [info("127.0.0.2", dead), info("127.0.0.1", port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: list(found))
        with pool(Network(), "http", None, lambda: time.monotonic() + 5.0, 1) as made:
            waits = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), 0.3)}
            with pytest.raises((httpcore2.ReadTimeout, httpcore2.ReadError, httpcore2.ProtocolError)):
                made.request("GET", f"{hub.endpoint}/x", extensions=waits)
            assert made.request("GET", f"{hub.endpoint}/x", extensions=waits).status == 404


@contextlib.contextmanager
def out_of_sorts(ip: str, status: int) -> Iterator[int]:
    """An address whose server answers every request with this status, and keeps its connections."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer((ip, 0), Answer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_address_whose_server_is_out_of_sorts_is_left_for_another(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    content = big(MIB)
    url = hub.plain("f", content)
    port = int(hub.endpoint.rpartition(":")[2])
    with out_of_sorts("127.0.0.2", status) as sick, out_of_sorts("127.0.0.3", status) as other:
        found = [info("127.0.0.2", sick), info("127.0.0.3", other), info("127.0.0.1", port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: list(found))
        get(source(url, content), tmp_path / "f", replace(QUICK, attempts_max=3))
    assert holds(tmp_path / "f", content)


def test_the_hubs_api_leaves_an_address_that_is_out_of_sorts(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.create("org/name", {"README.md": b"# tiny"})
    port = int(hub.endpoint.rpartition(":")[2])
    with out_of_sorts("127.0.0.2", 503) as sick:
        found = [info("127.0.0.2", sick), info("127.0.0.1", port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: list(found))
        settings = Settings.from_env({"HF_ENDPOINT": f"http://models.example:{port}"})
        client = HubClient(settings, hub.token, Network())
        with pytest.raises(HubUnavailable, match="503"):
            client.commit("org/name", "main")
        assert client.commit("org/name", "main")[0] == hub.repos["org/name"].at("main").sha


def test_of_addresses_that_failed_the_one_that_failed_first_is_tried_first() -> None:
    memory = _Memory()
    found = [info(f"127.0.0.{n}", 80) for n in (1, 2, 3)]
    for at in (1, 0, 2):
        memory.note(found[at][4], good=False)
    assert [each[4][0] for each in memory.sorted(found)] == ["127.0.0.2", "127.0.0.1", "127.0.0.3"]
