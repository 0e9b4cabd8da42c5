"""What is not let in counts for its address, as every request without a key does: a flood of refusals is a flood."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from hive.auth.keys import KeyFile
from hive.wire.api import MANY_PATH, PROGRESS_PATH
from tests.support.keys import ask, make, wait_until_taken
from tests.support.processes import Server
from tests.support.waiting import wait_for

PROXY = "127.9.0.1"
UI = "https://ui.example.org"
#: A rate so small that no machine is too slow to reach it; what may come at once, and more than that.
RATE, BURST, FLOOD = "0.2", 2, 10
#: More wrong keys than an address may send.
MANY_WRONG = 25
_clients = (f"203.0.113.{n}" for n in itertools.count(1))


@pytest.fixture(scope="module")
def key(key_file: KeyFile) -> str:
    return make(key_file, "admin")


@pytest.fixture(scope="module")
def server(keyed_env: dict[str, str], key: str) -> Iterator[Server]:
    settings = {
        "HIVE_TRUSTED_PROXIES": PROXY,
        "HIVE_ALLOW_ORIGINS": UI,
        "HIVE_MAX_ANONYMOUS_REQUESTS_PER_SECOND": RATE,
    }
    process = Server({**keyed_env, **settings})
    process.wait_until_ready()
    wait_until_taken(process, key)
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.output


def flood(server: Server, method: str, path: str, headers: dict[str, str], key: str | None = None) -> list[int]:
    """The statuses of many requests of a client that has not asked before."""
    headers = {"X-Forwarded-For": next(_clients), **headers}
    return [ask(server, method, path, key, headers=headers, source=PROXY).status for _ in range(FLOOD)]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/models", {}, 401),
        ("POST", "/v1/models/download", {}, 401),
        ("POST", "/v1/session", {}, 401),
        ("HEAD", "/v1/models", {}, 401),
        ("OPTIONS", "/v1/models", {}, 401),
        ("PROPFIND", "/v1/models", {}, 401),
        ("GET", "/nowhere", {}, 401),
        ("PUT", "/v1/health", {}, 401),
        ("HEAD", "/v1/health", {}, 200),
        ("GET", "/docs", {}, 200),
        ("GET", "/v1/models", {"Authorization": "Basic dTpw"}, 401),
        ("GET", PROGRESS_PATH, {}, 401),
        ("HEAD", MANY_PATH, {}, 401),
        ("GET", f"{MANY_PATH}?ticket=v1.nonsense", {}, 401),
        ("GET", "/v1/models", {"Cookie": "hive=nonsense"}, 401),
        ("GET", "/v1/health", {"Host": "evil.example.org"}, 421),
        ("GET", "/v1/health", {"Host": "two words"}, 421),
        ("POST", "/v1/gc", {"Origin": "https://evil.example.org"}, 403),
        ("POST", "/healthz", {"Origin": "https://evil.example.org", "Content-Length": "0"}, 403),
        ("DELETE", "/v1/session", {}, 204),
        ("OPTIONS", "/v1/gc", {"Origin": UI, "Access-Control-Request-Method": "POST"}, 204),
    ],
)
def test_a_flood_of_what_is_refused_ends_in_429(
    server: Server, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    statuses = flood(server, method, path, headers)
    assert statuses[:BURST] == [status] * BURST
    assert set(statuses) == {status, 429}


def test_refusals_of_an_address_use_up_what_else_it_may_ask_and_no_keys_nor_probes(server: Server, key: str) -> None:
    client = {"X-Forwarded-For": next(_clients)}

    def status(path: str, key: str | None = None) -> int:
        return ask(server, "GET", path, key, headers=client, source=PROXY).status

    wait_for(lambda: status("/v1/models") == 429, "the limit")
    assert status("/v1/health") == 429
    assert [status(path) for path in ("/healthz", "/readyz")] == [200, 200]
    assert status("/v1/models", key) == 200
    assert status(f"{MANY_PATH}?status=active", key) == 200


def test_a_wait_for_wrong_keys_is_told_although_the_rate_is_used_up_too(server: Server) -> None:
    headers = {"X-Forwarded-For": next(_clients)}
    answers = [ask(server, "GET", "/v1/models", "hive_wrong", headers=headers, source=PROXY) for _ in range(MANY_WRONG)]
    codes = [answer.code for answer in answers]
    assert codes[0] == "INVALID_API_KEY"
    assert codes[-1] == "TOO_MANY_FAILED_KEYS"


def test_an_event_source_that_is_refused_for_now_is_asked_to_come_back(server: Server) -> None:
    """429 would end it for good, and its address may be that of many people."""
    headers = {"X-Forwarded-For": next(_clients), "Accept": "text/event-stream"}
    wait_for(lambda: ask(server, "GET", "/v1/models", headers=headers, source=PROXY).status == 429, "the limit")
    assert ask(server, "GET", MANY_PATH, headers=headers, source=PROXY).status == 200
    assert ask(server, "GET", "/v1/models", headers=headers, source=PROXY).status == 429, "only streams do"
