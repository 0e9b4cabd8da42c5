"""A server behind proxies that it trusts: limits, the audit log and cookies go by the client, and by nobody's claim."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hive.auth.keys import KeyFile
from hive.processes.embedded_redis import EmbeddedRedis
from tests.support.keys import Answer, ask, make, wait_until_taken
from tests.support.processes import Server, environment
from tests.support.waiting import wait_for

#: Addresses of the loopback: the proxies', and one that is no proxy's.
PROXY, OTHER_PROXY, STRANGER = "127.9.0.1", "127.9.0.2", "127.8.0.1"
#: A rate so small that no machine is too slow to reach it, and more requests than may come at once; connections.
RATE, FLOOD, SHARE = "0.2", 10, 2
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def env(keyed_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        **keyed_env,
        "HIVE_TRUSTED_PROXIES": "127.9.0.0/16",
        "HIVE_PUBLIC_HOSTS": "hive.example.org",
        "HIVE_MAX_CONNECTIONS_PER_ADDRESS": str(SHARE),
        "HIVE_AUDIT_LOG": str(tmp_path_factory.mktemp("audit") / "audit.log"),
    }


@pytest.fixture(scope="module")
def key(key_file: KeyFile) -> str:
    return make(key_file, "read", "pull")


@pytest.fixture(scope="module")
def server(env: dict[str, str], key: str) -> Iterator[Server]:
    process = Server(env)
    process.wait_until_ready()
    wait_until_taken(process, key)
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.output


@pytest.fixture(scope="module")
def limited(env: dict[str, str], key: str) -> Iterator[Server]:
    """One with a small rate."""
    process = Server({**env, "HIVE_MAX_ANONYMOUS_REQUESTS_PER_SECOND": RATE})
    process.wait_until_ready()
    wait_until_taken(process, key)
    yield process
    assert process.stop() == 0


def health(server: Server, source: str, **headers: str) -> int:
    """The status of a request that needs no key."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(server, "GET", "/v1/health", headers=sent, source=source).status


def is_limited(server: Server, source: str, **headers: str) -> bool:
    """Whether this client reaches its limit; it has not asked before."""
    return {health(server, source, **headers) for _ in range(FLOOD)} == {200, 429}


def test_each_client_behind_a_proxy_has_its_own_rate(limited: Server) -> None:
    assert is_limited(limited, PROXY, x_forwarded_for="203.0.113.1")
    assert health(limited, PROXY, x_forwarded_for="203.0.113.2") == 200
    assert health(limited, OTHER_PROXY, x_forwarded_for="6.6.6.6, 203.0.113.1, 127.9.0.1") == 429
    assert health(limited, PROXY, forwarded='for="203.0.113.1:81"') == 429
    assert is_limited(limited, PROXY, x_forwarded_for="2001:db8::1")
    assert health(limited, PROXY, x_forwarded_for="[2001:db8::2]:80") == 429, "a network of IPv6 is one client"


def test_nobody_gets_another_rate_by_what_they_type(limited: Server) -> None:
    """Straight to the server the header counts for nothing, and behind a proxy its end counts."""
    statuses = [
        health(limited, STRANGER, x_forwarded_for=f"203.0.113.{n}", forwarded=f"for=198.51.100.{n}")
        for n in range(FLOOD)
    ]
    assert set(statuses) == {200, 429}
    statuses = [
        health(limited, PROXY, x_forwarded_for=f"198.51.100.{n}, garbage{n}, 203.0.113.50") for n in range(FLOOD)
    ]
    assert set(statuses) == {200, 429}
    statuses = [health(limited, PROXY, x_forwarded_for=f"garbage{n}") for n in range(FLOOD)]
    assert 429 in statuses, "what is no address is the proxy's"


def test_wrong_keys_and_audit_lines_go_by_the_client(server: Server, env: dict[str, str]) -> None:
    def wrong(client: str, source: str = PROXY) -> Answer:
        return ask(server, "POST", "/v1/gc", "hive_none", headers={"X-Forwarded-For": client}, source=source)

    codes = [wrong("192.0.2.1").code for _ in range(25)]
    assert codes[0] == "INVALID_API_KEY"
    assert set(codes) <= {"INVALID_API_KEY", "TOO_MANY_FAILED_KEYS", "TOO_MANY_REQUESTS"}
    assert codes[-1] != "INVALID_API_KEY"
    assert wrong("192.0.2.2").code == "INVALID_API_KEY"
    assert wrong("192.0.2.3", STRANGER.replace(".1", ".2")).code == "INVALID_API_KEY"

    def addresses() -> list[str]:
        lines: list[dict[str, Any]] = [
            json.loads(line) for line in Path(env["HIVE_AUDIT_LOG"]).read_text().splitlines()
        ]
        return [line["address"] for line in lines if line["route"] == "/v1/gc"]

    wait_for(lambda: STRANGER.replace(".1", ".2") in addresses(), "the last audit line")
    assert set(addresses()) == {"192.0.2.1", "192.0.2.2", STRANGER.replace(".1", ".2")}


@pytest.mark.parametrize(
    ("headers", "source", "secure"),
    [
        ({"X-Forwarded-Proto": "https"}, PROXY, True),
        ({"X-Forwarded-Proto": "http"}, PROXY, False),
        ({"Forwarded": "for=203.0.113.60;proto=https"}, PROXY, True),
        ({}, PROXY, False),
        ({"X-Forwarded-Proto": "https"}, STRANGER, False),
    ],
)
def test_the_cookie_of_a_page_on_this_machine_is_secure_where_its_proxy_ends_tls(
    server: Server, key: str, headers: dict[str, str], source: str, secure: bool
) -> None:
    cookie = ask(server, "POST", "/v1/session", key, headers=headers, source=source).headers["set-cookie"]
    assert cookie.startswith("__Host-hive=" if secure else "hive=")
    assert ("secure" in cookie.lower()) is secure


def test_a_session_over_plain_http_is_refused_where_the_proxy_says_so(server: Server, key: str) -> None:
    headers = {"Host": "hive.example.org", "X-Forwarded-Proto": "http"}
    assert ask(server, "POST", "/v1/session", key, headers=headers, source=PROXY).status == 400
    assert ask(server, "POST", "/v1/session", key, headers=headers, source=STRANGER).status == 200, "hearsay"


def test_the_host_that_a_proxy_tells_counts_where_it_is_a_public_name(server: Server, key: str) -> None:
    """A page of the public name may change something although the proxy asks by a name of its own."""

    def change(source: str = PROXY, host: str = "localhost", **headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        body = {"ids": [], "all": True}
        return ask(
            server, "POST", "/v1/tickets", key, body=body, source=source, headers=JSON | {"Host": host} | sent
        ).status

    page = "https://hive.example.org"
    assert change(origin=page) == 403
    assert change(origin=page, x_forwarded_host="hive.example.org") == 200
    assert change(origin=page, x_forwarded_host="evil.example.org, hive.example.org") == 200
    assert change(origin=page, x_forwarded_host="hive.example.org", source=STRANGER) == 403
    evil = "https://evil.example.org"
    assert change(origin=evil, x_forwarded_host="evil.example.org") == 403
    assert change(origin=evil, x_forwarded_host="hive.example.org") == 403
    assert change(host="evil.example.org", x_forwarded_host="hive.example.org") == 421, "rebinding stays closed"
    assert change(x_forwarded_host="evil.example.org") == 200, "a name that is not ours is not looked at"


def test_a_proxys_connections_are_nobodys_share(server: Server) -> None:
    def keeps_alive(source: str) -> list[bool]:
        """Of connections that are open at the same time, each with an answer: whether they stay."""
        opened = []
        try:
            for _ in range(SHARE * 4 + 4):
                opened.append(socket.create_connection(("127.0.0.1", server.port), 10, source_address=(source, 0)))
            heads = []
            for connection in opened:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                heads.append(connection.recv(4096).lower())
            return [b"connection: close" not in head for head in heads]
        finally:
            for connection in opened:
                connection.close()

    assert all(keeps_alive(PROXY))
    assert not all(keeps_alive(STRANGER))


def test_without_keys_a_client_behind_a_proxy_on_this_machine_is_counted(
    redis_server: EmbeddedRedis, redis_url: str, tmp_path: Path
) -> None:
    """This machine is not, and a proxy that nobody trusts is this machine."""
    settings = {"HIVE_TRUSTED_PROXIES": PROXY, "HIVE_MAX_ANONYMOUS_REQUESTS_PER_SECOND": RATE}
    server = Server(environment(redis_server.url, tmp_path, **settings))
    try:
        server.wait_until_ready()
        assert is_limited(server, PROXY, x_forwarded_for="203.0.113.1")
        assert {health(server, PROXY) for _ in range(FLOOD)} == {200}
        assert {health(server, OTHER_PROXY, x_forwarded_for="203.0.113.1") for _ in range(FLOOD)} == {200}
    finally:
        assert server.stop() == 0
