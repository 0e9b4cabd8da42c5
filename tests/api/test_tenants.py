"""Two people with keys of their own at one server: neither learns of the other's downloads, by any route."""

from __future__ import annotations

import base64
import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from hive.downloads.context import DownloadContext
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import RedisClient, connect
from hive.settings import Settings
from hive.store.restricted import AccessNotes, ProbeFile
from hive.wire import keys
from tests.support.downloads import claim, complete, downloading, new, read
from tests.support.keyed import Person, keys_for
from tests.support.processes import Server, environment
from tests.support.store import COMMIT, QUANTS, empty_store, put, put_tree, sha256
from tests.support.waiting import wait_for

UNKNOWN = "00000000-0000-4000-8000-000000000000"
TOKENS = {"alice": "hf_tokenOfAlice", "bob": "hf_tokenOfBob"}


@pytest.fixture(scope="module")
def keyed_env(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(redis_server.url, tmp_path_factory.mktemp("tenants"), HIVE_KEEPALIVE_S="0.5")


@pytest.fixture(scope="module")
def people(keyed_env: dict[str, str]) -> Iterator[dict[str, Person]]:
    """alice, bob and ops, who administers."""
    made = keys_for(keyed_env, "alice", "bob")
    server = Server(keyed_env)
    server.wait_until_ready()
    yield {owner: Person(server.url, key) for owner, key in made.items()}
    assert server.stop() == 0
    assert "Traceback" not in server.output, server.output


@pytest.fixture(autouse=True)
def nothing_left(people: dict[str, Person], keyed_env: dict[str, str], redis_url: str) -> None:
    empty_store(Path(keyed_env["HIVE_STORE"]))
    with connect(redis_url) as client:
        client.flushall()


@pytest.fixture
def alice(people: dict[str, Person]) -> Person:
    return people["alice"]


@pytest.fixture
def bob(people: dict[str, Person]) -> Person:
    return people["bob"]


@pytest.fixture
def ops(people: dict[str, Person]) -> Person:
    return people["ops"]


def told(answer: requests.Response, *away: str) -> tuple[Any, ...]:
    """What an answer says, without these ids."""
    text = answer.text
    for each in away:
        text = text.replace(each, "ID")
    headers = {name: value for name, value in answer.headers.items() if name.lower() != "date"}
    return answer.status_code, text, sorted(headers.items())


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/downloads/{id}", None),
        ("GET", "/v1/downloads/{id}?wait=1s", None),
        ("DELETE", "/v1/downloads/{id}", None),
        ("DELETE", "/v1/downloads/{id}?purge=true", None),
        ("POST", "/v1/downloads/{id}/pause", None),
        ("POST", "/v1/downloads/{id}/resume", None),
        ("POST", "/v1/downloads/{id}/retry", None),
        ("PUT", "/v1/downloads/{id}/priority", {"priority": "high"}),
        ("PUT", "/v1/downloads/{id}/place", {"before": UNKNOWN}),
        ("GET", "/v1/models/download/progress?id={id}", None),
        ("GET", "/v1/downloads/progress?id={id}", None),
    ],
)
def test_a_foreign_download_is_answered_as_one_that_there_is_not(
    alice: Person, bob: Person, method: str, path: str, body: object
) -> None:
    hers = alice.start("hf:org/model")["download_id"]
    before = alice.show(hers)
    foreign = bob.call(method, path.format(id=hers), body)
    unknown = bob.call(method, path.format(id=UNKNOWN), body)
    assert foreign.status_code == 404
    assert told(foreign, hers) == told(unknown, UNKNOWN)
    assert alice.show(hers) == before, "nothing was done to it"


def test_a_foreign_download_that_has_ended_is_answered_the_same(alice: Person, bob: Person) -> None:
    hers = alice.start("hf:org/model")["download_id"]
    assert alice.call("DELETE", f"/v1/downloads/{hers}").status_code == 202
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/retry")]:
        foreign = bob.call(method, f"/v1/downloads/{hers}{path}")
        assert told(foreign, hers) == told(bob.call(method, f"/v1/downloads/{UNKNOWN}{path}"), UNKNOWN), path
    assert bob.call("GET", f"/v1/models/download/progress?id={hers}").status_code == 404


def test_lists_have_ones_own_and_cursors_name_nothing_foreign(alice: Person, bob: Person, ops: Person) -> None:
    hers = [alice.start(f"hf:org/a{number}")["download_id"] for number in range(3)]
    his = [bob.start(f"hf:org/b{number}")["download_id"] for number in range(3)]
    assert (sorted(alice.downloads()), sorted(bob.downloads("?status=active"))) == (sorted(hers), sorted(his))
    assert sorted(ops.downloads()) == sorted([*hers, *his])
    page = bob.call("GET", "/v1/downloads?limit=2").json()
    cursor = base64.urlsafe_b64decode(page["next_cursor"]).decode()
    assert cursor.partition(".")[2] in his
    assert bob.call("GET", f"/v1/downloads?limit=2&cursor={page['next_cursor']}").json()["next_cursor"] is None


def test_who_administers_sees_and_ends_everything(alice: Person, ops: Person) -> None:
    hers = alice.start("hf:org/model")["download_id"]
    assert ops.show(hers)["status"] == "queued"
    assert ops.call("POST", f"/v1/downloads/{hers}/pause").status_code == 202
    assert ops.call("POST", f"/v1/downloads/{hers}/resume").status_code == 202
    assert ops.call("DELETE", f"/v1/downloads/{hers}").status_code == 202
    assert alice.show(hers)["status"] == "cancelled"


def test_the_place_in_the_queue_counts_all_and_names_none(alice: Person, bob: Person) -> None:
    for number in range(2):
        alice.start(f"hf:alice/secret-{number}")
    his = bob.call("GET", f"/v1/downloads/{bob.start('hf:org/model')['download_id']}")
    assert his.json()["ahead"] == 1, "one of alice's two: they take turns"
    assert "alice" not in his.text
    assert "secret" not in his.text


def test_what_a_tenant_learns_of_others_is_how_many_wait_and_run(alice: Person, bob: Person) -> None:
    alice.start("hf:org/secret")
    assert bob.call("GET", "/v1/scaling").json() == {"queued": 1, "running": 0, "wanted_workers": 1}
    for path in ("/v1/workers", "/metrics", "/v1/settings/downloads"):
        assert bob.call("GET", path).status_code == 403, path


def test_two_who_ask_for_one_model_share_one_download(alice: Person, bob: Person) -> None:
    hers = alice.start("hf:org/model", priority="low")
    his = bob.start("hf:org/model", priority="high")
    assert (his["download_id"], his["joined"]) == (hers["download_id"], True)
    assert alice.downloads() == bob.downloads() == [hers["download_id"]]
    assert alice.show(hers["download_id"])["priority"] == "high"


def test_who_cancels_is_taken_out_and_the_last_one_ends_it(alice: Person, bob: Person) -> None:
    shared = alice.start("hf:org/model")["download_id"]
    bob.start("hf:org/model")
    answer = alice.call("DELETE", f"/v1/downloads/{shared}")
    assert (answer.status_code, answer.json()["status"], answer.json()["reason"]) == (202, "cancelled", "CANCELLED")
    assert alice.call("GET", f"/v1/downloads/{shared}").status_code == 404
    assert alice.downloads() == []
    assert bob.show(shared)["status"] == "queued"
    assert bob.call("DELETE", f"/v1/downloads/{shared}").status_code == 202
    assert bob.show(shared)["status"] == "cancelled"


def test_one_of_several_neither_pauses_nor_puts_behind(alice: Person, bob: Person) -> None:
    shared = alice.start("hf:org/model")["download_id"]
    assert alice.call("POST", f"/v1/downloads/{shared}/pause").status_code == 202, "while it is hers alone"
    assert bob.start("hf:org/model")["download_id"] == shared
    assert bob.show(shared)["status"] == "queued", "who comes now has not paused it"
    refused = alice.call("POST", f"/v1/downloads/{shared}/pause")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")
    assert "bob" not in refused.text
    for priority, shown in (("high", "high"), ("low", "high"), ("normal", "high")):
        answer = alice.call("PUT", f"/v1/downloads/{shared}/priority", {"priority": priority})
        assert (answer.status_code, answer.json()["priority"]) == (202, shown)


def test_nothing_is_moved_beside_what_is_somebody_elses_nor_is_what_others_share(alice: Person, bob: Person) -> None:
    hers, his = alice.start("hf:org/hers")["download_id"], bob.start("hf:org/his")["download_id"]
    foreign = bob.call("PUT", f"/v1/downloads/{his}/place", {"before": hers})
    unknown = bob.call("PUT", f"/v1/downloads/{his}/place", {"before": UNKNOWN})
    assert foreign.status_code == 404
    assert told(foreign, hers) == told(unknown, UNKNOWN)
    assert bob.start("hf:org/hers")["download_id"] == hers
    refused = bob.call("PUT", f"/v1/downloads/{hers}/place", {"behind": his})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")


def test_who_joins_does_not_see_what_the_first_one_had_before(alice: Person, bob: Person) -> None:
    before = alice.start("hf:org/model")["download_id"]
    alice.call("DELETE", f"/v1/downloads/{before}")
    again = alice.call("POST", f"/v1/downloads/{before}/retry").json()["download_id"]
    bob.start("hf:org/model")
    assert alice.show(again)["retry_of"] == before
    assert bob.show(again)["retry_of"] is None


def test_another_token_makes_another_download(alice: Person, bob: Person, ops: Person) -> None:
    def asked(person: Person, **body: Any) -> str:
        return str(person.start("hf:org/model", **body)["download_id"])

    made = [
        asked(alice),
        asked(alice, hf_token=TOKENS["alice"]),
        asked(bob, hf_token=TOKENS["bob"]),
        asked(ops),
    ]
    assert len(set(made)) == len(made)
    assert asked(ops, hf_token="hf_tokenOfOps") == made[3], "who runs the service lends it the token"
    assert asked(bob) == made[0], "neither has shown a permission"
    assert asked(bob, hf_token=TOKENS["alice"]) == made[1], "the same token is the same permission"
    for person, number in ((alice, 2), (alice, 3), (bob, 3)):
        assert person.call("GET", f"/v1/downloads/{made[number]}").status_code == 404


def test_a_token_that_comes_later_is_kept_and_not_dropped(alice: Person, store: RedisClient) -> None:
    without = alice.start("hf:org/gated")["download_id"]
    with_one = alice.start("hf:org/gated", hf_token=TOKENS["alice"])["download_id"]
    assert store.get(keys.secret(without)) is None
    assert store.get(keys.secret(with_one)) is not None


# -- streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_of_all_shows_ones_own_and_newcomers_too(alice: Person, bob: Person, ops: Person) -> None:
    alice.start("hf:org/a")
    watches = {person: person.watch_all() for person in (alice, bob, ops)}

    def seen(person: Person) -> set[str]:
        return {event["download_id"] for event in watches[person].events}

    first = alice.downloads()[0]
    wait_for(lambda: seen(alice) == {first} and seen(ops) == {first}, "the snapshot")
    his = bob.start("hf:org/b")["download_id"]
    hers = alice.start("hf:org/c")["download_id"]
    wait_for(lambda: seen(ops) == {first, his, hers}, "what is new")
    wait_for(lambda: seen(alice) == {first, hers} and seen(bob) == {his}, "what is new to each")
    for person in (alice, bob):
        person.call("DELETE", f"/v1/downloads/{person.downloads()[0]}")
    wait_for(lambda: sum(event["stage"] == "error" for event in watches[ops].events) == 2, "both ends")
    assert seen(alice) == {first, hers}
    assert seen(bob) == {his}
    for watch in watches.values():
        watch.close()


def test_a_stream_of_all_has_what_its_client_joins_and_ends_what_it_gives_up(alice: Person, bob: Person) -> None:
    watch = bob.watch_all()
    shared = alice.start("hf:org/model")["download_id"]
    wait_for(lambda: alice.watch(shared).status != 404, "hers is there")
    assert not watch.events
    bob.start("hf:org/model")
    wait_for(lambda: [event["download_id"] for event in watch.events] == [shared], "what he has joined")
    bob.call("DELETE", f"/v1/downloads/{shared}")
    wait_for(lambda: watch.events[-1].get("code") == "CANCELLED", "what he has given up")
    bob.start("hf:org/model")
    wait_for(lambda: watch.events[-1].get("status") == "queued", "what he has joined again")
    watch.close()


def test_the_stream_of_one_ends_with_the_share_and_goes_on_for_the_others(
    alice: Person, bob: Person, downloads: DownloadContext
) -> None:
    shared = alice.start("hf:org/model")["download_id"]
    bob.start("hf:org/model")
    hers, his = alice.watch(shared), bob.watch(shared)
    wait_for(lambda: hers.events and his.events, "both watch")
    alice.call("DELETE", f"/v1/downloads/{shared}")
    hers.wait()
    assert (hers.last["code"], hers.done) == ("CANCELLED", 1)
    held = claim(downloads, shared)
    assert downloads.claims.publish(held, 2, downloading(40)).held
    assert downloads.claims.finish(held, 3, "complete", complete("/store/x"), "/store/x")
    his.wait()
    assert (his.last["stage"], his.done) == ("complete", 1)
    assert all(event.get("bytes_downloaded", 0) == 0 for event in hers.events), "nothing after the share was given up"


def test_a_long_poll_ends_with_the_share(alice: Person, bob: Person) -> None:
    shared = alice.start("hf:org/model")["download_id"]
    bob.start("hf:org/model")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waits = pool.submit(alice.call, "GET", f"/v1/downloads/{shared}?wait=10s")
        wait_for(lambda: alice.call("DELETE", f"/v1/downloads/{shared}").status_code == 404 or waits.done(), "she left")
        assert waits.result(5).status_code in (200, 404)


def test_what_was_made_before_there_were_keys_is_for_who_administers(
    alice: Person, ops: Person, downloads: DownloadContext
) -> None:
    old, _ = downloads.tracker.create(new("k" * 64))
    assert alice.downloads() == []
    assert alice.call("GET", f"/v1/downloads/{old}").status_code == 404
    assert ops.downloads() == [old]


def test_models_that_nobody_fetched_with_a_token_are_everybodys(
    alice: Person, bob: Person, keyed_env: dict[str, str], downloads: DownloadContext
) -> None:
    settings = Settings.from_env(keyed_env)
    put(settings, "org/model", QUANTS)
    put_tree(settings, "org/model", QUANTS)
    assert alice.models() == bob.models() != []
    first, second = alice.start("hf:org/model:Q4_K_M"), bob.start("hf:org/model:Q4_K_M")
    assert first["local_path"] == second["local_path"]
    assert first["download_id"] == second["download_id"]
    assert read(downloads, first["download_id"]).owners == ("alice", "bob")
    assert bob.show(first["download_id"])["reason"] == "ON_DISK"


def test_a_restricted_content_is_nobodys_by_its_digest_whom_the_hub_does_not_let_in(
    alice: Person, ops: Person, keyed_env: dict[str, str]
) -> None:
    settings = Settings.from_env(keyed_env)
    put(settings, "org/gated", {"model.gguf": b"weights"})
    notes = AccessNotes(settings.hive_dir)
    notes.note("org/gated", COMMIT, [ProbeFile("org/gated", COMMIT, "model.gguf")])
    url = f"{alice.url}/v1/blobs/sha256:{sha256(b'weights')}"
    assert requests.get(url, headers=alice.headers, timeout=60).status_code == 404
    assert requests.get(url, headers=ops.headers, timeout=60).content == b"weights"
    assert requests.get(url, timeout=60).status_code == 401
    put(settings, "org/open", {"copy.gguf": b"weights"})
    assert requests.get(url, headers=alice.headers, timeout=60).content == b"weights"
