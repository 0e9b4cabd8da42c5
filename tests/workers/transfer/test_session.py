"""requests as the engine uses it: nothing added, nothing kept, nothing rewritten, nothing followed."""

from __future__ import annotations

import socket
import time

import pytest

from hive.errors import UnsafeUrl
from hive.net.addresses import address_check
from hive.net.egress import Network
from hive.net.urls import parse_url
from tests.hub import HubServer, faults
from tests.support.waiting import AT_ONCE_S
from workers.transfer import Control, HostPool, Limits
from workers.transfer.http.response import HttpResponse

#: What signatures are made of, and what requests would write in another way.
TARGET = "/a%2Fb/%7Ec/d%5B1%5D/../e?X-Amz-Signature=a~b%2Bc%2Fd&x=%20&Expires=1"


def ask(pool: HostPool, url: str, headers: dict[str, str] | None = None) -> HttpResponse:
    return HttpResponse.get(parse_url(url), headers or {}, pool, Limits(), Control())


def test_the_url_goes_out_as_it_was_given() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, HostPool(Network()) as pool:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{TARGET}"
        import threading

        lines: list[str] = []

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                lines.append(peer.recv(65536).decode().split("\r\n")[0])
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        response = ask(pool, url)
        response.close()
        thread.join()
    assert lines == [f"GET {TARGET} HTTP/1.1"]


def test_only_the_headers_that_were_given_go_out(hub: HubServer) -> None:
    url = hub.plain("/f", b"abc")
    with HostPool(Network()) as pool:
        ask(pool, url, {"User-Agent": "hive/test", "Accept-Encoding": "identity", "X-Mine": "1"}).discard()
    (hit,) = hub.hits("/f")
    assert set(hit.headers) == {"host", "user-agent", "accept-encoding", "x-mine"}


def test_no_cookie_is_kept(hub: HubServer) -> None:
    url = hub.plain("/f", b"abc")
    hub.faults.add(faults.status(200, {"Set-Cookie": "session=canary; Path=/"}), "/f", count=1)
    with HostPool(Network()) as pool:
        for _ in range(2):
            ask(pool, url, {"User-Agent": "hive"}).discard()
    assert not any("cookie" in hit.headers for hit in hub.hits("/f"))


def test_a_redirect_is_an_answer_whose_body_nobody_reads_to_its_end(hub: HubServer) -> None:
    endless = {"Location": f"{hub.endpoint}/g"}
    hub.faults.add(faults.status(302, endless, "x" * 8_000_000), "/f")
    with HostPool(Network()) as pool:
        began_s = time.monotonic()
        response = ask(pool, f"{hub.endpoint}/f")
        assert response.status == 302
        response.close()
    assert time.monotonic() - began_s < AT_ONCE_S
    assert hub.hits("/g") == []


def test_a_connection_is_kept_for_the_next_request(hub: HubServer) -> None:
    url = hub.plain("/f", b"abc")
    with HostPool(Network()) as pool:
        for _ in range(3):
            ask(pool, url).discard()
    assert len({hit.connection_id for hit in hub.hits("/f")}) == 1


def test_an_address_that_is_forbidden_is_not_connected_to(canary: tuple[int, list[object]]) -> None:
    port, visits = canary
    with (
        HostPool(Network(address_check=address_check(ports=range(1, 65536)))) as pool,
        pytest.raises(UnsafeUrl),
    ):
        ask(pool, f"http://127.0.0.1:{port}/")
    assert visits == []
