"""Tickets and sessions at a real server: what they open, and for how long."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hive.api.app import ROUTES
from hive.api.routes import StreamRoute
from hive.auth import tickets
from hive.auth.failures import MAX_FAILURES
from hive.auth.key_ring import KeyRing
from hive.auth.keys import KeyFile
from hive.auth.tickets import Sessions, Tickets
from hive.errors import InvalidApiKey
from hive.wire.api import MANY_PATH, PROGRESS_PATH
from tests.support.keys import Answer, ask, download, make, wait_until_taken
from tests.support.processes import Server
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

#: An address of this machine that no other test comes from.
PLACE = "127.77.0.1"
HERE = {"Sec-Fetch-Site": "same-origin"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def key(key_file: KeyFile) -> str:
    return make(key_file, "read", "pull")


@pytest.fixture(scope="module")
def replicas(keyed_env: dict[str, str], key: str) -> Iterator[list[Server]]:
    servers = [
        Server({**keyed_env, "HIVE_ALLOW_ORIGINS": "https://ui.example.org", "HIVE_PUBLIC_HOSTS": "hive.example.org"})
        for _ in range(2)
    ]
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
def ids(server: Server, key: str) -> list[str]:
    return [download(server, key, f"org/name{n}") for n in range(3)]


def ticket(server: Server, key: str, **body: Any) -> str:
    answer = ask(server, "POST", "/v1/tickets", key, body=body)
    assert answer.status == 200, answer
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json["ticket"])


def head(server: Server, path: str, key: str | None = None) -> Answer:
    """What a stream answers at first."""
    return ask(server, "GET", path, key)


def one(download_id: str, text: str) -> str:
    return f"{PROGRESS_PATH}?id={download_id}&ticket={text}"


# -- tickets ---------------------------------------------------------------------------------------------------------


def test_a_ticket_opens_the_streams_of_its_downloads_on_every_replica_again_and_again(
    replicas: list[Server], key: str, ids: list[str]
) -> None:
    text = ticket(replicas[0], key, ids=ids[:2])
    for server in replicas * 2:
        for path in (one(ids[0], text), one(ids[1], text), f"{MANY_PATH}?id={ids[0]}&id={ids[1]}&ticket={text}"):
            assert head(server, path).status == 200
    stream = SseClient(replicas[0].url + one(ids[0], text))
    wait_for(lambda: stream.events, "there is no event")
    stream.close()


def test_a_ticket_for_all_shows_what_its_key_sees(server: Server, key_file: KeyFile, key: str, ids: list[str]) -> None:
    stranger, admin = make(key_file, "read"), make(key_file, "admin")
    wait_until_taken(server, admin)
    wait_until_taken(server, stranger)
    for maker, expected in ((key, set(ids)), (admin, set(ids)), (stranger, set())):
        stream = SseClient(f"{server.url}{MANY_PATH}?ticket={ticket(server, maker, all=True)}")
        wait_for(lambda stream=stream: stream.retries and stream.comments)  # type: ignore[misc]
        seen = {event["download_id"] for event in stream.events}
        stream.close()
        assert seen >= expected if expected else seen == set(), (maker, seen, stream.events)
    assert head(server, one(ids[0], ticket(server, admin, all=True))).status == 200
    assert head(server, one(ids[0], ticket(server, stranger, ids=[ids[0]]))).status == 404


def test_a_ticket_for_some_downloads_opens_no_others(server: Server, key: str, ids: list[str]) -> None:
    text = ticket(server, key, ids=[ids[0]])
    for path in (
        one(ids[1], text),
        f"{MANY_PATH}?ticket={text}",
        f"{MANY_PATH}?status=active&ticket={text}",
        f"{MANY_PATH}?id={ids[0]}&id={ids[1]}&ticket={text}",
        one(str(uuid.uuid4()), text),
    ):
        answer = head(server, path)
        assert (answer.status, answer.code) == (401, "INVALID_API_KEY"), path


def test_a_ticket_opens_streams_and_nothing_else(server: Server, key_file: KeyFile) -> None:
    admin = make(key_file, "admin")
    wait_until_taken(server, admin)
    text = ticket(server, admin, all=True)
    for route in ROUTES:
        if isinstance(route, StreamRoute) or route.needs is None:
            continue
        path = route.path.replace("{id:path}", "org/name").replace("{id}", str(uuid.uuid4()))
        for method in (route.methods or set()) - {"HEAD"}:
            assert ask(server, method, f"{path}?ticket={text}").status == 401, path
            assert ask(server, method, path, text).status == 401, path
            cookie = {"Cookie": f"hive={text}; __Host-hive={text}", **HERE}
            assert ask(server, method, path, headers=cookie).status == 401, path
    # Nor may it change anything at a stream's address.
    assert ask(server, "POST", f"{MANY_PATH}?ticket={text}", body={}).status == 405


def altered(text: str) -> Iterator[str]:
    version, payload, mac = text.split(".")

    def encode(content: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    key_id, expires_s, downloads, *_ = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    yield f"v2.{payload}.{mac}"
    yield f"{version}.{encode([key_id, expires_s + 3600, downloads])}.{mac}"
    yield f"{version}.{encode([key_id, expires_s, None])}.{mac}"
    yield f"{version}.{encode(['admin000', expires_s, None])}.{mac}"
    yield f"{version}.{payload}.{mac[:-1]}{'A' if mac[-1] != 'A' else 'B'}"
    yield f"{version}.{payload}."
    yield f"{version}.{payload}"
    yield f"{version}..{mac}"
    yield f"{version}.{payload}.{mac}.{mac}"
    yield f"{version}.{payload}={'.' + mac}"
    yield payload
    yield "v1"
    yield "..."
    yield "%00"
    yield "x" * 20_000


def test_an_altered_ticket_opens_nothing(server: Server, key: str, ids: list[str]) -> None:
    good = ticket(server, key, ids=[ids[0]])
    assert head(server, one(ids[0], good)).status == 200
    for text in altered(good):
        answer = head(server, one(ids[0], text))
        assert (answer.status, answer.code) == (401, "INVALID_API_KEY"), text[:200]


def test_a_ticket_of_another_servers_secret_opens_nothing(
    server: Server, key_file: KeyFile, key: str, ids: list[str], tmp_path: Path
) -> None:
    ring = KeyRing(key_file)
    ring.load()
    foreign = Tickets(ring, tmp_path / "secret.key").make(ring.principal(key), None, 300).text
    assert head(server, one(ids[0], foreign)).status == 401


def test_a_ticket_expires_and_its_streams_end(server: Server, key: str, ids: list[str]) -> None:
    text = ticket(server, key, ids=[ids[0]], ttl=4)
    stream = SseClient(server.url + one(ids[0], text))
    wait_for(lambda: stream.events, "there is no event")
    wait_for(lambda: head(server, one(ids[0], text)).status == 401, "it does not expire")
    assert stream.wait().done == 0


def test_what_was_right_once_is_no_guess(server: Server, key_file: KeyFile, ids: list[str]) -> None:
    dying = make(key_file, "read")
    wait_until_taken(server, dying)
    old, dead = ticket(server, dying, all=True, ttl=1), ticket(server, dying, all=True)
    cookie = ask(server, "POST", "/v1/session", dying).headers["set-cookie"].partition(";")[0]
    wait_for(lambda: head(server, f"{MANY_PATH}?ticket={old}").status == 401, "it does not expire")
    key_file.revoke(dying.split("_")[1])
    wait_for(lambda: head(server, f"{MANY_PATH}?ticket={dead}").status == 401, "it does not end with its key")
    for _ in range(MAX_FAILURES + 1):
        for text in (old, dead):
            assert ask(server, "GET", f"{MANY_PATH}?ticket={text}", source=PLACE).status == 401
        assert ask(server, "GET", "/v1/downloads", headers={"Cookie": cookie}, source=PLACE).status == 401
    answers = [ask(server, "GET", f"{MANY_PATH}?ticket={old}x", source=PLACE).status for _ in range(MAX_FAILURES + 1)]
    assert answers == [401] * MAX_FAILURES + [429], "what was never right is one"


def test_a_ticket_is_dead_with_its_key(replicas: list[Server], key_file: KeyFile, ids: list[str]) -> None:
    admin = make(key_file, "admin")
    for server in replicas:
        wait_until_taken(server, admin)
    text = ticket(replicas[0], admin, all=True, ttl=3600)
    stream = SseClient(replicas[1].url + one(ids[0], text))
    wait_for(lambda: stream.events, "there is no event")
    key_file.revoke(admin[5:13])
    for server in replicas:
        wait_for(lambda server=server: head(server, one(ids[0], text)).status == 401)  # type: ignore[misc]
    assert stream.wait().done == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"ids": []}, 400),
        ({"ids": ["7"]}, 400),
        ({"ids": [str(uuid.uuid4())], "all": True}, 400),
        ({"all": "yes"}, 400),
        ({"all": True, "ttl": 0}, 400),
        ({"all": True, "ttl": 3601}, 400),
        ({"all": True, "ttl": 1.5}, 400),
        ({"all": True, "scopes": ["admin"]}, 400),
        ({"ids": [str(uuid.uuid4())] * 101}, 400),
        ({"all": True, "ttl": 3600}, 200),
        ({"ids": [str(uuid.uuid4()) for _ in range(100)]}, 200),
    ],
)
def test_what_a_ticket_may_be_asked_for(server: Server, key: str, body: dict[str, Any], status: int) -> None:
    answer = ask(server, "POST", "/v1/tickets", key, body=body)
    assert answer.status == status, answer
    if status == 200:
        assert time.time() < answer.json["expires_at"] <= time.time() + 3600
        path = f"{MANY_PATH}?{'&'.join(f'id={one}' for one in body.get('ids', []))}&ticket={answer.json['ticket']}"
        assert head(server, path).status == (404 if "ids" in body else 200)


def test_a_ticket_does_not_outlive_its_key(server: Server, key_file: KeyFile) -> None:
    short = make(key_file, "read", expires_in_s=30)
    wait_until_taken(server, short)
    answer = ask(server, "POST", "/v1/tickets", short, body={"all": True, "ttl": 3600})
    assert answer.json["expires_at"] <= time.time() + 30


def test_a_ticket_and_a_session_cannot_be_taken_for_each_other(key_file: KeyFile, key: str, tmp_path: Path) -> None:
    ring = KeyRing(key_file)
    ring.load()
    secret, principal = tmp_path / "secret.key", ring.principal(key)
    tickets_, sessions = Tickets(ring, secret), Sessions(ring, secret)
    assert tickets_.principal(tickets_.make(principal, None, 60).text).scopes == {"read"}
    assert sessions.principal(sessions.make(principal).text).scopes == principal.scopes
    with pytest.raises(InvalidApiKey):
        sessions.principal(tickets_.make(principal, None, 60).text)
    with pytest.raises(InvalidApiKey):
        tickets_.principal(sessions.make(principal).text)


# -- sessions --------------------------------------------------------------------------------------------------------


def session(server: Server, key: str, **headers: str) -> tuple[str, list[str]]:
    """A session's `name=value`, and the attributes of its cookie."""
    answer = ask(server, "POST", "/v1/session", key, headers=headers)
    assert answer.status == 200, answer
    assert key not in answer.body.decode() + str(answer.headers)
    pair, *attributes = [part.strip() for part in answer.headers["set-cookie"].split(";")]
    return pair, attributes


def test_a_page_on_the_loopback_has_a_cookie_that_scripts_do_not_see(server: Server, key: str) -> None:
    pair, attributes = session(server, key)
    assert pair.startswith("hive=v1.")
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(attributes)
    assert "Secure" not in attributes
    assert not any(attribute.lower().startswith("domain") for attribute in attributes)


def test_a_page_elsewhere_has_a_host_cookie_for_https(server: Server, key: str) -> None:
    pair, attributes = session(server, key, Host="hive.example.org")
    assert pair.startswith("__Host-hive=v1.")
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Secure"} <= set(attributes)
    assert ask(server, "GET", "/v1/models", headers={"Host": "hive.example.org", "Cookie": pair}).status == 200
    # A cookie without the prefix may have been planted by a neighbour under the same domain.
    # So may one whose name a browser takes for another, for what stands in front of it.
    for planted in (pair.removeprefix("__Host-"), f"\xa0{pair}", f"a=b; \x85{pair}"):
        assert ask(server, "GET", "/v1/models", headers={"Host": "hive.example.org", "Cookie": planted}).status == 401
    # No browser would keep it.
    plain = {"Host": "hive.example.org", "Origin": "http://hive.example.org"}
    assert ask(server, "POST", "/v1/session", key, headers=plain).status == 400


def test_a_session_may_do_what_its_key_may(replicas: list[Server], key: str, ids: list[str]) -> None:
    pair, _ = session(replicas[0], key)
    cookie = {"Cookie": f"other=1; {pair}; last=2"}
    for server in replicas:
        assert ask(server, "GET", "/v1/models", headers=cookie).status == 200
        assert ask(server, "GET", f"{PROGRESS_PATH}?id={ids[0]}", headers=cookie).status == 200
        assert ask(server, "GET", "/v1/workers", headers=cookie).status == 403
        assert ask(server, "POST", "/v1/tickets", body={"all": True}, headers=cookie | HERE | JSON).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://ui.example.org"}, 403),
        ({"Origin": "https://ui.example.org", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({"Origin": "http://127.0.0.1:{port}"}, 404),
        ({"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}, 404),
        ({"Origin": "http://127.0.0.1:1"}, 403),
    ],
    ids=str,
)
def test_a_cookie_changes_something_from_a_page_of_this_origin_alone(
    server: Server, key: str, headers: dict[str, str], status: int
) -> None:
    pair, _ = session(server, key)
    sent = {name: value.format(port=server.port) for name, value in headers.items()} | {"Cookie": pair} | JSON
    answer = ask(server, "DELETE", f"/v1/downloads/{uuid.uuid4()}", headers=sent)
    assert answer.status == status, answer
    assert answer.code == ("FOREIGN_ORIGIN" if status == 403 else "DOWNLOAD_NOT_FOUND")
    assert ask(server, "GET", "/v1/models", headers=sent).status == 200


def test_a_session_is_made_by_a_key_alone(server: Server, key: str) -> None:
    pair, _ = session(server, key)
    assert ask(server, "POST", "/v1/session", headers={"Cookie": pair} | HERE).code == "MISSING_API_KEY"
    assert ask(server, "POST", "/v1/session").status == 401
    assert ask(server, "POST", "/v1/session", "wrong").status == 401


def test_a_ticket_of_a_session_is_dead_with_it(replicas: list[Server], key: str, ids: list[str]) -> None:
    pair, _ = session(replicas[0], key)
    made = ask(replicas[0], "POST", "/v1/tickets", headers={"Cookie": pair, **HERE, **JSON}, body={"all": True})
    text = str(made.json["ticket"])
    stream = SseClient(replicas[1].url + one(ids[0], text))
    wait_for(lambda: stream.events, "there is no event")
    assert ask(replicas[0], "DELETE", "/v1/session", headers={"Cookie": pair}).status == 204
    assert head(replicas[0], one(ids[0], text)).status == 401
    wait_for(lambda: head(replicas[1], one(ids[0], text)).status == 401, deadline_s=10)
    assert stream.wait().done == 0
    assert head(replicas[1], one(ids[0], ticket(replicas[1], key, all=True))).status == 200, "one of the key goes on"


def test_a_session_that_is_ended_is_over_on_every_replica(replicas: list[Server], key: str, ids: list[str]) -> None:
    pair, _ = session(replicas[0], key)
    other, _ = session(replicas[0], key)
    stream = SseClient(f"{replicas[1].url}{PROGRESS_PATH}?id={ids[0]}", headers={"Cookie": pair})
    wait_for(lambda: stream.events, "there is no event")

    ended = ask(replicas[0], "DELETE", "/v1/session", headers={"Cookie": pair})

    assert ended.status == 204
    assert ended.headers["set-cookie"].startswith('hive=""')
    assert "Max-Age=0" in ended.headers["set-cookie"]
    assert ask(replicas[0], "GET", "/v1/models", headers={"Cookie": pair}).status == 401
    wait_for(lambda: ask(replicas[1], "GET", "/v1/models", headers={"Cookie": pair}).status == 401, deadline_s=10)
    assert stream.wait().done == 0
    assert ask(replicas[1], "GET", "/v1/models", headers={"Cookie": other}).status == 200
    assert ask(replicas[0], "DELETE", "/v1/session", headers={"Cookie": pair}).status == 204
    assert ask(replicas[0], "DELETE", "/v1/session", headers={"Cookie": "hive=nonsense"}).status == 204
    foreign = {"Cookie": other, "Origin": "https://evil.example"}
    assert ask(replicas[0], "DELETE", "/v1/session", headers=foreign).status == 403
    assert ask(replicas[1], "GET", "/v1/models", headers={"Cookie": other}).status == 200


def test_where_there_are_no_keys_a_page_may_do_the_same_and_it_changes_nothing(
    keyed_env: dict[str, str], tmp_path: Path
) -> None:
    server = Server({**keyed_env, "HIVE_API_KEYS_FILE": str(tmp_path / "none.json")})
    try:
        server.wait_until_ready()
        answer = ask(server, "POST", "/v1/session")
        cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
        assert ask(server, "GET", "/v1/models", headers=cookie).status == 200
        assert (
            head(
                server, f"{MANY_PATH}?ticket={ask(server, 'POST', '/v1/tickets', body={'all': True}).json['ticket']}"
            ).status
            == 200
        )
        assert ask(server, "DELETE", "/v1/session", headers=cookie).status == 204

        # What was made without a key is worth nothing once there are keys.
        make(KeyFile(tmp_path / "none.json"), "admin")
        wait_for(lambda: ask(server, "GET", "/v1/models", headers=cookie).status == 401)
    finally:
        server.stop()


def test_a_session_is_over_with_its_key_and_after_its_time(
    server: Server, key_file: KeyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = make(key_file, "read")
    wait_until_taken(server, short)
    pair, _ = session(server, short)
    key_file.revoke(short[5:13])
    wait_for(lambda: ask(server, "GET", "/v1/models", headers={"Cookie": pair}).status == 401)

    ring = KeyRing(key_file)
    ring.load()
    sessions = Sessions(ring, tmp_path / "secret.key")
    monkeypatch.setattr(tickets, "SESSION_TTL_S", 0)
    key = make(key_file, "read")
    ring.refresh()
    with pytest.raises(InvalidApiKey):
        sessions.principal(sessions.make(ring.principal(key)).text)


def test_a_wrong_key_is_not_made_good_by_a_right_cookie(server: Server, key: str) -> None:
    pair, _ = session(server, key)
    assert ask(server, "GET", "/v1/models", "wrong", headers={"Cookie": pair}).status == 401
    # A proxy's own password is not hive's matter.
    basic = {"Cookie": pair, "Authorization": "Basic bWU6c2VjcmV0"}
    assert ask(server, "GET", "/v1/models", headers=basic).status == 200
