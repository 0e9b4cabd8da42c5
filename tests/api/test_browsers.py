"""What a page of another origin can do to a server on this machine: nothing, and read nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from hive.redis.client import RedisClient
from hive.wire.api import MANY_PATH, PROGRESS_PATH
from tests.support.processes import Server, environment
from tests.support.waiting import wait_for

BODY = '{"model_ref":"hf:org/name"}'
JSON = {"Content-Type": "application/json"}
UI = "https://ui.example.org"


def host(api: str, name: str) -> str:
    """The name, with the server's port behind it."""
    return f"{name}:{urlsplit(api).port}"


def refused(answer: requests.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, error["code"]


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "localhost", "LOCALHOST", "localhost.", "a.localhost", "127.9.8.7", "[::1]"]
)
def test_names_of_this_machine_are_taken(api: str, name: str) -> None:
    for value in (name, host(api, name)):
        assert requests.get(f"{api}/v1/health", headers={"Host": value}, timeout=60).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evillocalhost",
        "attacker",
        "10.0.0.1",
        "[fe80::1]",
        "0x7f.1",
        "user@127.0.0.1",
        "127.0.0.1/",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/v1/health", "/v1/models", "/metrics", PROGRESS_PATH, MANY_PATH, "/nothing"])
def test_a_name_that_is_not_this_machines_is_misdirected(api: str, path: str, name: str) -> None:
    answer = requests.get(api + path, headers={"Host": host(api, name)}, timeout=60)
    assert refused(answer) == (421, "MISDIRECTED_REQUEST")


def test_probes_are_answered_under_any_name(api: str) -> None:
    for path in ("/healthz", "/readyz"):
        assert requests.get(api + path, headers={"Host": "10.1.2.3:8080"}, timeout=60).status_code == 200


def status(api: str, lines: str) -> bytes:
    """How a request of these lines is answered."""
    address = urlsplit(api)
    with socket.create_connection((address.hostname, address.port), 5) as client:
        client.sendall(lines.encode() + b"Connection: close\r\n\r\n")
        return client.recv(100).split()[1]


def test_a_request_without_host_or_with_two_is_refused_unless_it_is_too_old_to_have_one(api: str) -> None:
    assert status(api, "GET /v1/health HTTP/1.1\r\n") == b"400"
    assert status(api, "GET /v1/health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n") == b"400"
    assert status(api, "GET /v1/health HTTP/1.0\r\n") == b"200"


def test_a_target_that_names_a_host_is_judged_by_it_and_not_by_the_header(api: str) -> None:
    assert status(api, "GET http://evil.example/v1/health HTTP/1.1\r\nHost: localhost\r\n") == b"421"
    assert status(api, "GET http://user@localhost/v1/health HTTP/1.1\r\nHost: localhost\r\n") == b"421"
    assert status(api, "GET http://localhost/v1/health?x HTTP/1.1\r\nHost: evil.example\r\n") == b"200"
    assert status(api, "GET http://evil.example/v1/health HTTP/1.0\r\n") == b"421"
    assert status(api, "GET http://localhost/v1/health HTTP/1.1\r\n") == b"400", "a Host there must be all the same"
    assert status(api, "GET http://localhost HTTP/1.1\r\nHost: localhost\r\n") == b"200", "the page"
    head = "POST http://localhost/v1/gc HTTP/1.1\r\nOrigin: http://evil.example\r\nHost: evil.example\r\n"
    assert status(api, head) == b"403"


@pytest.mark.parametrize(
    "marks",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "no origin"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "Cross-Site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/download"),
        ("POST", "/v1/models/verify"),
        ("POST", "/v1/gc"),
        ("DELETE", "/v1/models/org/name"),
        ("DELETE", "/v1/downloads/00000000-0000-4000-8000-000000000000"),
        ("PUT", "/v1/settings/bandwidth"),
        ("OPTIONS", "/v1/models/download"),
        ("POST", PROGRESS_PATH),
    ],
)
def test_a_foreign_page_changes_nothing(
    api: str, store: RedisClient, method: str, path: str, marks: dict[str, str]
) -> None:
    for kind in (JSON, {"Content-Type": "text/plain"}):
        answer = requests.request(method, api + path, data=BODY, headers=kind | marks, timeout=60)
        assert refused(answer) == (403, "FOREIGN_ORIGIN")
        assert "access-control-allow-origin" not in answer.headers
    assert store.zcard("hive:downloads") == 0


@pytest.mark.parametrize("mark", ["Origin: {}", "Sec-Fetch-Site: {}"])
@pytest.mark.parametrize("own_is_last", [True, False])
def test_a_mark_that_comes_twice_is_no_pages_of_this_server(api: str, mark: str, own_is_last: bool) -> None:
    address = urlsplit(api)
    values = [f"http://{address.netloc}", "http://evil.example"]
    if "Sec" in mark:
        values = ["same-origin", "cross-site"]
    lines = [mark.format(value) for value in (reversed(values) if own_is_last else values)]
    head = ["POST /v1/gc HTTP/1.1", f"Host: {address.netloc}", "Connection: close", *lines]
    with socket.create_connection((address.hostname, address.port), 5) as client:
        client.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
        assert client.recv(100).split()[1] == b"403"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/downloads", MANY_PATH, f"{PROGRESS_PATH}?id=7"])
def test_a_foreign_page_can_read_nothing(api: str, path: str) -> None:
    headers = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    with requests.get(api + path, headers=headers, timeout=60, stream=True) as answer:
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "kind", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}]
)
def test_a_browsers_body_must_be_json_and_curls_need_not(api: str, kind: dict[str, str]) -> None:
    marks = {"Origin": api, "Sec-Fetch-Site": "same-origin"}
    for browser in (marks, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Dest": "empty"}):
        answer = requests.post(f"{api}/v1/models/download", data=BODY, headers=kind | browser, timeout=60)
        assert refused(answer) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert requests.post(f"{api}/v1/models/download", data=BODY, headers=kind, timeout=60).status_code == 202


def test_what_an_editor_of_windows_puts_before_a_body_does_not_count(api: str) -> None:
    body = b"\xef\xbb\xbf" + BODY.encode()
    assert requests.post(f"{api}/v1/models/download", data=body, headers=JSON, timeout=60).status_code == 202
    body = body.replace(b"model_ref", b"model")
    answer = requests.post(f"{api}/v1/chat/completions", data=body, headers=JSON, timeout=60)
    assert refused(answer) == (503, "MODEL_NOT_LOADED"), "it was read, and no worker has the model"


def test_a_page_of_the_server_itself_may_do_everything(api: str) -> None:
    for origin, kind in ((api, "application/json"), (api, "application/json; charset=utf-8")):
        headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin", "Content-Type": kind}
        assert requests.post(f"{api}/v1/models/download", data=BODY, headers=headers, timeout=60).status_code == 202
    empty = requests.post(f"{api}/v1/gc", headers={"Origin": api}, timeout=60)
    assert empty.status_code == 200, "without a body there is nothing that a form could have sent"


@pytest.fixture(scope="module")
def open_server(redis_server: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a public name and a page elsewhere that may use it."""
    folder: Path = tmp_path_factory.mktemp("open")
    url = redis_server.url  # type: ignore[attr-defined]
    names = "hive.example.org, other.example.org:8443"
    process = Server(
        environment(url, folder, HIVE_PUBLIC_HOSTS=names, HIVE_ALLOW_ORIGINS=f"{UI},http://localhost:3000")
    )
    wait_for(lambda: requests.get(f"{process.url}/readyz", timeout=60).status_code == 200)
    yield process
    assert process.stop() == 0


def test_public_names_are_taken(open_server: Server) -> None:
    def status(name: str) -> int:
        return requests.get(f"{open_server.url}/v1/health", headers={"Host": name}, timeout=60).status_code

    assert status("hive.example.org") == status("HIVE.example.org:9999") == status("other.example.org:8443") == 200
    assert status("other.example.org") == status("x.hive.example.org") == 421


def test_a_page_behind_a_proxy_that_ends_tls_is_of_the_same_origin(open_server: Server) -> None:
    headers = {"Host": "hive.example.org", "Origin": "https://hive.example.org", **JSON}
    asked = requests.post(f"{open_server.url}/v1/models/download", data=BODY, headers=headers, timeout=60)
    assert asked.status_code == 202
    headers["Origin"] = "https://hive.example.org:444"
    assert requests.post(f"{open_server.url}/v1/gc", headers=headers, timeout=60).status_code == 403


def test_an_origin_that_is_named_may_ask_and_read(open_server: Server) -> None:
    api, marks = open_server.url, {"Origin": UI, "Sec-Fetch-Site": "cross-site"}
    asked = requests.options(
        f"{api}/v1/models/download",
        headers={**marks, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"},
        timeout=60,
    )
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, UI)
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "content-type" in asked.headers["access-control-allow-headers"]
    made = requests.post(f"{api}/v1/models/download", data=BODY, headers={**marks, **JSON}, timeout=60)
    assert (made.status_code, made.headers["access-control-allow-origin"]) == (202, UI)
    stream = f"{api}{PROGRESS_PATH}?id={made.json()['download_id']}"
    with requests.get(stream, headers={**marks, "Accept": "text/event-stream"}, timeout=60, stream=True) as answer:
        assert answer.headers["access-control-allow-origin"] == UI
        assert "origin" in answer.headers["vary"].lower()
        assert answer.headers["x-request-id"]
    unnamed = requests.get(f"{api}/v1/models", headers={"Origin": "https://evil.example"}, timeout=60)
    assert "access-control-allow-origin" not in unnamed.headers
