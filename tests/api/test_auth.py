"""Keys at real servers: every route against every kind of key, revocation on all replicas, and what fails closed."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.api.app import ROUTES
from hive.auth.key_ring import LOOK_INTERVAL_S
from hive.auth.keys import KeyFile
from hive.auth.scopes import SCOPES, Scope, with_implied
from hive.wire.api import MANY_PATH, PROGRESS_PATH
from tests.support.keys import Answer, ask, download, make, wait_until_taken
from tests.support.processes import HiveProcess, ManyProcesses, Server
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

#: Seconds in which a revocation must be known everywhere, and streams must have ended.
REVOKED_S, CLOSED_S = 10.0, 30.0

ROUTES_AND_NEEDS = [
    (method, route.path, route.needs) for route in ROUTES for method in sorted((route.methods or set()) - {"HEAD"})
]


@pytest.fixture(scope="module")
def admin(key_file: KeyFile) -> str:
    return make(key_file, "admin")


@pytest.fixture(scope="module")
def replicas(keyed_env: dict[str, str], admin: str) -> Iterator[list[Server]]:
    servers = [Server(keyed_env), Server(keyed_env)]
    for server in servers:
        server.wait_until_ready()
    yield servers
    for server in servers:
        assert server.stop() == 0
        assert "Traceback" not in server.output


@pytest.fixture(scope="module")
def server(replicas: list[Server]) -> Server:
    return replicas[0]


@pytest.fixture(scope="module")
def keys(key_file: KeyFile, server: Server) -> dict[str, str | None]:
    """A key of each scope, and whatever does not let anybody in."""
    found: dict[str, str | None] = {scope: make(key_file, scope) for scope in SCOPES}
    expired = make(key_file, "admin", expires_in_s=0.05)
    revoked = make(key_file, "admin")
    key_file.revoke(revoked[5:13])
    read = found["read"]
    admin = found["admin"]
    assert read is not None
    assert admin is not None
    found |= {
        "none": None,
        "empty": "",
        "nonsense": "hive",
        "unknown": f"hive_zzzzzzzz_{'x' * 43}",
        "wrong secret": admin[:-1] + ("A" if admin[-1] != "A" else "B"),
        "another's secret": admin[:14] + read[14:],
        "too long": admin + "A",
        "digest": next(key.sha256 for key in key_file.read().keys if key.id == admin[5:13]),
        "expired": expired,
        "revoked": revoked,
    }
    for key in (admin, read):
        wait_until_taken(server, key)
    # It may have read the file between the key's making and its end.
    for key in (revoked, expired):
        wait_for(lambda key=key: ask(server, "GET", "/v1/models", key).status == 401)  # type: ignore[misc]
    return found


def call(server: Server, method: str, path: str, key: str | None, *, query: str = "") -> Answer:
    """Ask a route for nothing in particular: a good key gets an answer of the route's own."""
    unknown = str(uuid.uuid4())
    path = path.replace("{id:path}", "org/none").replace("{id}", unknown)
    streams = f"id={unknown}" if path in (PROGRESS_PATH, MANY_PATH) else ""
    query = "&".join(filter(None, [streams, query]))
    body = {"dry_run": True} if path == "/v1/gc" else {} if method in ("POST", "PUT") else None
    if path == "/v1/models/verify":
        body = {"models": ["org/none"]}  # type: ignore[dict-item]
    return ask(server, method, f"{path}?{query}" if query else path, key, body=body)


@pytest.mark.parametrize(("method", "path", "needs"), ROUTES_AND_NEEDS, ids=lambda value: str(value))
def test_every_route_lets_in_who_has_its_scope_and_nobody_else(
    server: Server, keys: dict[str, str | None], method: str, path: str, needs: Scope | None
) -> None:
    for kind, key in keys.items():
        answer = call(server, method, path, key)
        if needs is None:
            assert answer.status not in (401, 403), kind
        elif kind not in SCOPES:
            assert answer.status == 401, (kind, answer)
            assert answer.code == ("MISSING_API_KEY" if kind == "none" else "INVALID_API_KEY"), kind
            assert answer.headers["www-authenticate"].startswith("Bearer"), kind
            assert "hive key new" in answer.message, kind
        elif needs in with_implied([kind]):
            assert answer.status not in (401, 403), (kind, answer)
        else:
            assert (answer.status, answer.code) == (403, "INSUFFICIENT_SCOPE"), (kind, answer)
            assert f"the scope '{needs}'" in answer.message
            if answer.json["error"] != answer.message:  # Ollama's clients are told the text and the code alone
                assert answer.json["error"]["details"] == {"needs": needs, "scopes": [kind]}


def test_refusals_of_keys_that_are_none_do_not_tell_them_apart(server: Server, keys: dict[str, str | None]) -> None:
    answers = set()
    for kind in ("empty", "nonsense", "unknown", "wrong secret", "another's secret", "too long", "expired", "revoked"):
        error = call(server, "GET", "/v1/models", keys[kind]).json["error"]
        answers.add((error["code"], error["message"], str(error["details"])))
    assert len(answers) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "{key}"},
        {"Authorization": "Basic {key}"},
        {"Authorization": "Bearer\t{key}"},
        {"Authorization": "Token {key}"},
        {"X-Api-Key": "{key}"},
        {"Cookie": "hive={key}"},
        {"Cookie": "__Host-hive={key}; api_key={key}"},
        {"Proxy-Authorization": "Bearer {key}"},
    ],
    ids=str,
)
def test_a_key_counts_in_its_header_alone(server: Server, admin: str, headers: dict[str, str]) -> None:
    sent = {name: value.format(key=admin) for name, value in headers.items()}
    assert ask(server, "GET", "/v1/models", headers=sent).status == 401
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert ask(server, "GET", "/v1/models", headers={"Authorization": f"{scheme} {admin}"}).status == 200


@pytest.mark.parametrize("name", ["api_key", "key", "token", "access_token", "ticket", "authorization", "apikey"])
@pytest.mark.parametrize("path", ["/v1/models", PROGRESS_PATH, MANY_PATH])
def test_a_key_in_an_address_counts_nowhere(server: Server, admin: str, path: str, name: str) -> None:
    assert call(server, "GET", path, None, query=f"{name}={admin}").status == 401


def test_two_keys_in_one_request_are_none(server: Server, admin: str) -> None:
    head = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\nAuthorization: Bearer {admin}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.sendall(head.replace("Host: x", "Host: localhost").encode() + b"Connection: close\r\n\r\n")
        assert client.recv(100).split()[1] == b"401"


def test_a_key_in_a_trailer_is_none(server: Server, admin: str) -> None:
    head = "POST /v1/gc HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.sendall(f"{head}0\r\nAuthorization: Bearer {admin}\r\n\r\n".encode())
        assert client.recv(100).split()[1] == b"401"


@pytest.mark.parametrize("path", ["/v1/downloads/", "/v1/workers/", "/metrics/", "/healthz/", "/v1/gc/", "/docs/"])
def test_an_address_with_a_slash_too_many_sends_nobody_elsewhere(server: Server, admin: str, path: str) -> None:
    answer = ask(server, "POST" if "gc" in path else "GET", path, admin)
    assert (answer.status, answer.code) == (404, "NOT_FOUND")
    assert "location" not in answer.headers


def test_what_does_not_exist_is_not_told_to_strangers(server: Server, admin: str) -> None:
    assert ask(server, "GET", "/nothing").status == 401
    assert ask(server, "PATCH", "/v1/models").status == 401
    assert ask(server, "GET", "/nothing", admin).status == 404
    assert ask(server, "PATCH", "/v1/models", admin).status == 405


def test_host_and_origin_are_looked_at_before_keys(server: Server, admin: str) -> None:
    for key in (None, admin, "wrong"):
        assert ask(server, "GET", "/v1/models", key, headers={"Host": "evil.example"}).status == 421
        foreign = {"Origin": "https://evil.example", "Content-Type": "application/json"}
        assert ask(server, "POST", "/v1/gc", key, body={}, headers=foreign).code == "FOREIGN_ORIGIN"
    assert ask(server, "GET", "/v1/models", admin, headers={"Origin": "https://evil.example"}).status == 200


def test_twenty_wrong_keys_a_minute_from_one_address_and_then_429_while_right_ones_go_on(
    server: Server, admin: str
) -> None:
    def wrong(source: str) -> Answer:
        return ask(server, "GET", "/v1/models", f"hive_zzzzzzzz_{'x' * 43}", source=source)

    assert [wrong("127.9.9.9").status for _ in range(20)] == [401] * 20
    refused = wrong("127.9.9.9")
    assert (refused.status, refused.code) == (429, "TOO_MANY_FAILED_KEYS")
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert ask(server, "GET", "/v1/models", admin, source="127.9.9.9").status == 200
    assert wrong("127.9.9.8").status == 401
    # What brings no key at all has not guessed.
    assert ask(server, "GET", "/v1/models", source="127.9.9.9").status == 401


def test_a_revoked_key_is_refused_by_every_replica_within_seconds(replicas: list[Server], key_file: KeyFile) -> None:
    key = make(key_file, "read")
    for server in replicas:
        wait_until_taken(server, key)

    key_file.revoke(key[5:13])
    began_s = time.monotonic()
    for server in replicas:
        wait_for(lambda server=server: ask(server, "GET", "/v1/models", key).status == 401)  # type: ignore[misc]
    assert time.monotonic() - began_s < REVOKED_S
    assert LOOK_INTERVAL_S <= 1.0, "two looks are the 2 s that are promised, wherever the machine does not stand still"


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_streams_end_without_done_soon_after_their_key(replicas: list[Server], key_file: KeyFile, how: str) -> None:
    key = make(key_file, "read", "pull", owner="o", expires_in_s=4 if how == "expired" else None)
    kept = make(key_file, "read", owner="o")
    for server in replicas:
        wait_until_taken(server, key)
        wait_until_taken(server, kept)
    download_id = download(replicas[0], key)

    def watch(server: Server, path: str, with_key: str) -> SseClient:
        return SseClient(f"{server.url}{path}", headers={"Authorization": f"Bearer {with_key}"})

    paths = (f"{PROGRESS_PATH}?id={download_id}", f"{MANY_PATH}?id={download_id}", f"{MANY_PATH}?status=active")
    streams = [watch(server, path, key) for server in replicas for path in paths]
    others = [watch(server, path, kept) for server in replicas for path in paths]
    polls: list[Answer] = []

    def poll(server: Server) -> None:
        polls.append(ask(server, "GET", f"/v1/downloads/{download_id}?wait=50s", key, timeout_s=60))

    threads = [threading.Thread(target=poll, args=(server,), daemon=True) for server in replicas]
    for thread in threads:
        thread.start()
    wait_for(lambda: all(stream.events for stream in streams + others), "the streams do not begin")

    if how == "revoked":
        key_file.revoke(key[5:13])
        ended_s = time.time()
    else:
        ended_s = next(held.expires_s or 0.0 for held in key_file.read().keys if held.id == key[5:13])
    for stream in streams:
        stream.wait(ended_s + CLOSED_S - time.time())
        assert stream.done == 0
        assert stream.retries
    for thread in threads:
        thread.join(max(0.1, ended_s + CLOSED_S - time.time()))
    assert [answer.status for answer in polls] == [401, 401]
    assert not any(stream.closed.is_set() for stream in others)
    for stream in others:
        stream.close()


def test_the_last_use_of_a_key_is_not_written_with_each_request(server: Server, key_file: KeyFile, admin: str) -> None:
    before = key_file.path.stat().st_mtime_ns
    for _ in range(20):
        ask(server, "GET", "/v1/models", admin)
    assert key_file.path.stat().st_mtime_ns == before


def test_the_log_names_a_key_by_its_public_id(server: Server, key_file: KeyFile) -> None:
    key = make(key_file, "pull")
    wait_until_taken(server, key)
    answer = ask(server, "POST", "/v1/models/download", key, body={"model_ref": "hf:org/logged"})
    assert answer.status == 202
    request_id = answer.headers["x-request-id"]
    lines = wait_for(lambda: [line for line in server.lines if request_id in line], "nothing is logged")
    assert all(f'"key:{key[5:13]}"' in line for line in lines), lines


# -- what fails closed -----------------------------------------------------------------------------------------------


@pytest.fixture
def own(keyed_env: dict[str, str], tmp_path: Path) -> Iterator[tuple[Server, KeyFile]]:
    """A server with a key file of its own, which does not exist yet."""
    key_file = KeyFile(tmp_path / "own" / "keys.json")
    server = Server({**keyed_env, "HIVE_API_KEYS_FILE": str(key_file.path)})
    server.wait_until_ready()
    yield server, key_file
    server.stop()
    assert "Traceback" not in server.output


def opened(server: Server) -> SseClient:
    """A stream that was opened without a key."""
    stream = SseClient(f"{server.url}{MANY_PATH}?status=active")
    wait_for(lambda: stream.retries, "the stream does not begin")
    return stream


def test_the_first_key_closes_a_running_server_and_ends_what_was_opened_without_one(
    own: tuple[Server, KeyFile],
) -> None:
    server, key_file = own
    assert ask(server, "GET", "/v1/workers").status == 200
    stream = opened(server)
    key = make(key_file, "admin")
    wait_for(lambda: ask(server, "GET", "/v1/workers").status == 401, "it stays open", REVOKED_S + LOOK_INTERVAL_S)
    assert stream.wait(CLOSED_S).done == 0
    assert ask(server, "GET", "/v1/workers", key).status == 200

    key_file.revoke(key[5:13])  # the last one
    wait_for(lambda: ask(server, "GET", "/v1/workers", key).status == 401)
    assert ask(server, "GET", "/v1/workers").status == 401


@pytest.mark.parametrize("what", ["gone", "readable by others", "broken", "a folder", "empty list", "empty"])
def test_a_key_file_that_is_not_right_any_more_lets_nobody_in_until_it_is(
    own: tuple[Server, KeyFile], what: str
) -> None:
    server, key_file = own
    key = make(key_file, "admin")
    wait_for(lambda: ask(server, "GET", "/v1/workers").status == 401, "keys are not on")
    stream = SseClient(f"{server.url}{MANY_PATH}?status=active", headers={"Authorization": f"Bearer {key}"})
    wait_for(lambda: stream.retries, "the stream does not begin")
    kept = key_file.path.read_bytes()

    def put(data: bytes) -> None:
        temporary = key_file.path.with_name("new")
        temporary.write_bytes(data)
        temporary.chmod(0o600)
        os.replace(temporary, key_file.path)

    if what == "readable by others":
        key_file.path.chmod(0o640)
    elif what == "gone":
        key_file.path.unlink()
    elif what == "a folder":
        key_file.path.unlink()
        key_file.path.mkdir()
    else:
        put({"broken": kept[:-10], "empty list": b'{"keys":[]}', "empty": b""}[what])

    refused = (401,) if what == "empty list" else (503,)
    wait_for(
        lambda: ask(server, "GET", "/v1/workers", key).status in refused, "it lets in", REVOKED_S + LOOK_INTERVAL_S
    )
    answer = ask(server, "GET", "/v1/workers", key)
    assert answer.code == ("INVALID_API_KEY" if what == "empty list" else "KEY_FILE_UNUSABLE")
    assert str(key_file.path) not in answer.body.decode()
    assert ask(server, "GET", "/v1/workers").status == 401
    assert ask(server, "GET", "/healthz").status == 200
    assert stream.wait(CLOSED_S).done == 0
    if what != "empty list":
        wait_for(lambda: str(key_file.path) in server.output, "nothing is logged")

    if what == "a folder":
        key_file.path.rmdir()
    put(kept)
    wait_for(lambda: ask(server, "GET", "/v1/workers", key).status == 200, "it does not let in again")


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_a_server_does_not_start_with_a_key_file_that_others_can_read(
    keyed_env: dict[str, str], tmp_path: Path, mode: int
) -> None:
    key_file = KeyFile(tmp_path / "keys.json")
    make(key_file, "admin")
    key_file.path.chmod(mode)
    process = HiveProcess(
        "hive.cli", "serve", "--port", "0", env={**keyed_env, "HIVE_API_KEYS_FILE": str(key_file.path)}
    )
    try:
        assert process.wait() == 1
    finally:
        process.stop()
    assert f"chmod 600 {key_file.path}" in process.output
    assert "Traceback" not in process.output


def test_metrics_are_open_where_that_is_said_and_nothing_else_is(keyed_env: dict[str, str], admin: str) -> None:
    server = Server({**keyed_env, "HIVE_METRICS_PUBLIC": "1"})
    try:
        server.wait_until_ready()
        assert ask(server, "GET", "/metrics").status == 200
        assert ask(server, "GET", "/metrics", "wrong").status == 200
        assert ask(server, "GET", "/v1/workers").status == 401
    finally:
        server.stop()


def test_every_process_of_one_port_hears_of_a_revocation(
    keyed_env: dict[str, str], key_file: KeyFile, admin: str
) -> None:
    server = ManyProcesses(keyed_env)
    try:
        key = make(key_file, "read")
        wait_until_taken(server, key)
        key_file.revoke(key[5:13])
        began_s = time.monotonic()
        # Connections fall to the one process or the other.
        refused = 0
        while refused < 20:
            refused = refused + 1 if ask(server, "GET", "/v1/models", key).status == 401 else 0
            assert time.monotonic() - began_s < CLOSED_S
    finally:
        server.stop()


def test_an_event_source_outlives_a_key_file_that_cannot_be_used_for_a_while(own: tuple[Server, KeyFile]) -> None:
    """Any status but 200 would end it for good, and its key is right again when the file is."""
    server, key_file = own
    key = make(key_file, "admin")
    wait_for(lambda: ask(server, "GET", "/v1/workers").status == 401, "keys are not on")
    cookie = ask(server, "POST", "/v1/session", key).headers["set-cookie"].partition(";")[0]
    ticket = ask(server, "POST", "/v1/tickets", key, body={"all": True}).json["ticket"]
    ways: tuple[tuple[str, dict[str, str]], ...] = (
        ("", {"Cookie": cookie}),
        (f"?ticket={ticket}", {}),
        ("", {"Authorization": f"Bearer {key}"}),
    )

    def told() -> list[tuple[int, list[int], bool]]:
        """What an EventSource is answered by each way to show the key: status, `retry:`, whether it ends."""
        streams = [SseClient(server.url + MANY_PATH + query, headers=headers) for query, headers in ways]
        for stream in streams:
            wait_for(lambda stream=stream: stream.retries or stream.closed.is_set())  # type: ignore[misc]
            if stream.retries == [5000]:
                stream.wait(CLOSED_S)
        found = [(stream.status, list(stream.retries), stream.closed.is_set()) for stream in streams]
        for stream in streams:
            stream.close()
        return found

    fine = told()
    assert [(status, is_over) for status, _, is_over in fine] == [(200, False)] * 3
    key_file.path.chmod(0o640)
    wait_for(lambda: ask(server, "GET", "/v1/workers", key).status == 503, "it lets in", REVOKED_S + LOOK_INTERVAL_S)
    assert told() == [(200, [5000], True)] * 3
    assert ask(server, "GET", MANY_PATH, key).code == "KEY_FILE_UNUSABLE", "who reads statuses is told by one"
    assert ask(server, "GET", f"{MANY_PATH}?ticket=v1.none", headers={"Accept": "text/event-stream"}).status == 401
    key_file.path.chmod(0o600)
    wait_for(lambda: ask(server, "GET", "/v1/workers", key).status == 200, "it does not let in again")
    assert told() == fine
