"""Gated and private models of the Hub, fetched with a token: on the disk they are for those whom the Hub lets in.

alice's token opens them, bob's and carol's do not, and dave has a token of his own that does. mallory has repositories
of her own on the Hub, in which she names what she likes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from hive.settings import Settings
from hive.wire.api import INFERENCE_PATH, OPENAI_PATHS
from tests.hub import Repo, SyntheticFile, faults
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.gguf_models import write_reciting
from tests.support.keyed import Person, keys_for, new_key
from tests.support.llm import ENGINE, PIECES
from tests.support.processes import Server, Workers
from tests.support.waiting import wait_for

SECRET = SyntheticFile(20 * MIB, seed=71)
PUBLIC = SyntheticFile(20 * MIB, seed=72)
TOKENS = {"alice": "hf_alice", "bob": "hf_bob", "dave": "hf_dave", "mallory": "hf_mallory"}
RESTRICTED = ("org/gated", "org/private")


@pytest.fixture
def hub_with_secrets(hub: HubServer) -> HubServer:
    for name, options in (("org/gated", {"gated": "manual"}), ("org/private", {"private": True})):
        repo = Repo(name, **options)
        repo.commit({"m-Q4_K_M.gguf": SECRET, "README.md": b"# terms", "config.json": b"{}"})
        hub.add(repo)
    hub.create("org/public", {"m-Q4_K_M.gguf": PUBLIC, "README.md": b"# free"})
    for owner in ("alice", "dave"):
        hub.access.issue(TOKENS[owner], *RESTRICTED)
    hub.access.issue(TOKENS["bob"])
    hub.access.issue(TOKENS["mallory"], "mallory/own")
    return hub


class World:
    """A server, workers, and people with keys and tokens."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        made = keys_for(env, "alice", "bob", "carol", "dave", "mallory")
        self.server = Server(env)
        self.server.wait_until_ready()
        self.workers = Workers(env, 2)
        people = {owner: Person(self.server.url, key, TOKENS.get(owner)) for owner, key in made.items()}
        self.alice, self.bob, self.carol = people["alice"], people["bob"], people["carol"]
        self.dave, self.mallory, self.ops = people["dave"], people["mallory"], people["ops"]

    @property
    def settings(self) -> Settings:
        return Settings.from_env(self.env)

    def stop(self) -> None:
        self.workers.stop()
        self.server.stop()
        for process in (self.workers, self.server):
            assert "Traceback" not in process.output, process.output
            for token in TOKENS.values():
                assert token not in process.output


@pytest.fixture
def world(env: dict[str, str], hub_with_secrets: HubServer) -> Iterator[World]:
    made = World(env)
    try:
        yield made
    finally:
        made.stop()


def commit_of(hub: HubServer, name: str) -> str:
    return str(hub.repos[name].at("main").sha)


@pytest.mark.parametrize("name", RESTRICTED)
def test_what_one_token_opened_is_nothing_to_others(
    world: World, hub_with_secrets: HubServer, name: str, tmp_path: Path
) -> None:
    ref, hub = f"hf:{name}", hub_with_secrets
    brought = world.alice.bring(ref)
    assert (brought["status"], file_sha256(brought["local_path"])) == ("complete", SECRET.sha256())
    path = Path(brought["local_path"])
    model_id = f"{name}:Q4_K_M"
    assert model_id in world.alice.models()
    assert world.alice.call("GET", f"/v1/models/{model_id}").status_code == 200

    commit = commit_of(hub, name)
    for person, token in ((world.bob, TOKENS["bob"]), (world.carol, None), (world.mallory, TOKENS["mallory"])):
        assert person.models(token) == []
        shown = person.call("GET", f"/v1/models/{model_id}")
        unknown = person.call("GET", "/v1/models/org/no-such:Q4_K_M")
        assert (shown.status_code, shown.text) == (404, unknown.text.replace("org/no-such:Q4_K_M", model_id))
        for spelt in (ref, f"{ref}:Q4_K_M", f"{ref}@{commit}", f"{ref}/m-Q4_K_M.gguf@{commit}", f"{ref}@main"):
            answer = person.post(spelt)
            assert answer.status_code == 202, (spelt, answer.text)
            assert str(path) not in answer.text
            end = person.end_of(answer.json()["download_id"])
            assert end["status"] == "failed", (spelt, end)
            assert end["reason"] in ("MODEL_ACCESS_DENIED", "MODEL_NOT_FOUND"), end
            plan = person.call("POST", "/v1/models/plan", {"model_ref": spelt, "hf_token": person.hub_token})
            assert plan.status_code in (401, 403, 404), plan.text
            assert str(path) not in plan.text
    assert world.ops.models() != []


def test_whom_the_hub_lets_in_is_answered_from_the_disk_and_nothing_is_fetched_again(
    world: World, hub_with_secrets: HubServer
) -> None:
    path = world.alice.bring("hf:org/gated")["local_path"]
    hub_with_secrets.reset_log()
    again = world.alice.start("hf:org/gated")
    assert again["local_path"] == path, "she was let in a moment ago"
    brought = world.dave.bring("hf:org/gated")
    assert (brought["status"], brought["local_path"]) == ("complete", path)
    assert hub_with_secrets.bytes_sent("*.gguf", origin="cdn") == 0
    assert world.dave.start("hf:org/gated")["local_path"] == path
    assert world.dave.models() == ["org/gated:Q4_K_M"]


def test_a_token_in_the_header_opens_what_the_hub_opens_to_it(world: World, hub_with_secrets: HubServer) -> None:
    world.alice.bring("hf:org/gated")
    assert world.carol.models() == []
    assert world.carol.models(TOKENS["bob"]) == []
    assert world.carol.models(TOKENS["dave"]) == ["org/gated:Q4_K_M"]
    shown = world.carol.call("GET", "/v1/models/org/gated:Q4_K_M", None, **{"x-hf-token": TOKENS["dave"]})
    assert shown.status_code == 200
    assert world.carol.models() == [], "a token is for the request that shows it"


def test_answers_of_the_hub_are_remembered(world: World, hub_with_secrets: HubServer) -> None:
    world.alice.bring("hf:org/gated")
    for token in (TOKENS["bob"], TOKENS["dave"]):
        hub_with_secrets.reset_log()
        for _ in range(3):
            world.carol.models(token)
            world.carol.call("GET", "/v1/models/org/gated:Q4_K_M", None, **{"x-hf-token": token})
        assert len(hub_with_secrets.hits("*org/gated*")) == 1


def test_an_answer_takes_the_hub_as_long_where_there_is_nothing_on_the_disk(
    world: World, hub_with_secrets: HubServer
) -> None:
    world.alice.bring("hf:org/gated")
    for name in ("org/gated", "org/private", "org/no-such"):
        hub_with_secrets.reset_log()
        assert world.carol.call("GET", f"/v1/models/{name}:Q4_K_M").status_code == 404
        assert len(hub_with_secrets.hits("*")) == 1, f"{name} is asked for like any other"


def test_while_the_hub_is_away_those_see_it_whom_it_let_in_before(world: World, hub_with_secrets: HubServer) -> None:
    world.alice.bring("hf:org/gated")
    notes = world.settings.hive_dir / "restricted"
    for note in notes.rglob("*.owner"):
        long_ago = note.stat().st_mtime - 3600
        os.utime(note, (long_ago, long_ago))
    hub_with_secrets.stop()
    assert world.alice.models() == ["org/gated:Q4_K_M"]
    assert world.carol.models() == []
    assert world.dave.models(TOKENS["dave"]) == []


def test_public_models_need_nothing(world: World, hub_with_secrets: HubServer) -> None:
    path = world.alice.bring("hf:org/public")["local_path"]
    hub_with_secrets.reset_log()
    for person in (world.bob, world.carol):
        assert person.models() == ["org/public:Q4_K_M"]
        assert person.start("hf:org/public")["local_path"] == path
    assert not hub_with_secrets.hits("*"), "the Hub is not asked"


def test_the_operators_token_serves_the_operator_alone(env: dict[str, str], hub_with_secrets: HubServer) -> None:
    made = World({**env, "HF_TOKEN": TOKENS["alice"]})
    try:
        refused = made.carol.bring("hf:org/gated")
        assert refused["reason"] == "MODEL_ACCESS_DENIED"
        assert made.ops.bring("hf:org/gated")["status"] == "complete"
        assert made.carol.models() == []
        assert made.carol.bring("hf:org/gated@" + commit_of(hub_with_secrets, "org/gated"))["status"] == "failed"
        assert made.dave.bring("hf:org/gated")["status"] == "complete"
    finally:
        made.stop()


# -- the same bytes by another road ----------------------------------------------------------------------------------


def names_the_secret(hub: HubServer, name: str, *, private: bool = False) -> None:
    """A repository that lists the secret's digest and has none of its bytes."""
    repo = Repo(name, private=private)
    repo.commit({"x-Q4_K_M.gguf": SECRET, "config.json": b"{}"})
    hub.add(repo)
    hub.faults.add(faults.status(404, {"x-error-code": "EntryNotFound"}), f"{name}/x-Q4_K_M.gguf")


@pytest.mark.parametrize("name", ["mallory/open", "mallory/own"])
def test_a_repository_that_only_names_a_digest_gets_no_bytes(
    world: World, hub_with_secrets: HubServer, name: str
) -> None:
    world.alice.bring("hf:org/gated")
    names_the_secret(hub_with_secrets, name, private=name == "mallory/own")
    end = world.mallory.bring(f"hf:{name}")
    assert end["status"] == "failed", end
    assert not [path for path in _files(world) if name.replace("/", "--") in str(path)]


def test_whose_token_opens_both_has_it_linked_and_who_sees_that_needs_both(
    world: World, hub_with_secrets: HubServer
) -> None:
    first = world.alice.bring("hf:org/gated")["local_path"]
    hub_with_secrets.create("org/copy", {"y-Q4_K_M.gguf": SECRET, "config.json": b"{}"})
    hub_with_secrets.reset_log()
    second = world.alice.bring("hf:org/copy")["local_path"]
    assert Path(first).samefile(second)
    assert hub_with_secrets.bytes_sent("*.gguf", origin="cdn") == 0
    assert world.carol.models() == []
    assert "org/copy:Q4_K_M" in world.dave.models(TOKENS["dave"])
    assert world.bob.post("hf:org/copy").status_code == 202


def test_an_operator_who_fetches_what_names_the_secret_opens_it_to_nobody(
    world: World, hub_with_secrets: HubServer
) -> None:
    world.alice.bring("hf:org/gated")
    names_the_secret(hub_with_secrets, "mallory/open")
    world.ops.bring("hf:mallory/open")
    assert world.mallory.models() == []
    assert world.mallory.models(TOKENS["mallory"]) == []
    assert world.mallory.bring("hf:mallory/open")["status"] == "failed"


def test_a_digest_beside_a_url_gives_no_bytes(world: World, hub_with_secrets: HubServer) -> None:
    world.alice.bring("hf:org/gated")
    url = hub_with_secrets.plain("/files/bait.gguf", b"bait")
    allowed = world.mallory.post(url, sha256=SECRET.sha256())
    if allowed.status_code == 202:
        assert world.mallory.end_of(allowed.json()["download_id"])["status"] == "failed"
    assert world.mallory.models() == []


def test_what_is_half_there_is_nobody_elses(world: World, hub_with_secrets: HubServer) -> None:
    hub = hub_with_secrets
    hub.limit_rate_bytes_per_s = 0.4 * MIB
    hers = world.alice.start("hf:org/gated")["download_id"]
    wait_for(lambda: world.alice.show(hers)["progress"].get("bytes_downloaded", 0) > 4 * MIB, "some of it")
    names_the_secret(hub, "mallory/open")
    his = world.mallory.bring("hf:mallory/open")
    assert his["status"] == "failed", his
    assert his["progress"].get("bytes_downloaded", 0) == 0 or his["progress"]["bytes_downloaded"] < MIB
    assert world.alice.call("POST", f"/v1/downloads/{hers}/pause").status_code == 202
    wait_for(lambda: world.alice.show(hers)["status"] == "paused", "paused")
    partials = [path.name for path in (world.settings.hub_dir / ".hive").rglob("*.part")] + [
        path.name for path in (world.settings.hive_dir / "partial").rglob("*.part")
    ]
    assert partials
    assert not any(SECRET.sha256() in name for name in partials), "nobody arrives at it by the digest"
    hub.limit_rate_bytes_per_s = None
    world.alice.call("POST", f"/v1/downloads/{hers}/resume")
    assert world.alice.end_of(hers)["status"] == "complete"


def _files(world: World) -> list[Path]:
    found = []
    for path in world.settings.hub_dir.rglob("*.gguf"):
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SECRET.sha256():
            found.append(path)
    return found


def test_a_restricted_model_in_memory_answers_to_those_who_may_see_it(
    world: World, hub_with_secrets: HubServer, tmp_path: Path
) -> None:
    """The Hub's yes opens it through the server; at the worker's own address a key of whom the Hub has let in."""
    hub_with_secrets.repos["org/gated"].commit({"say-Q8_0.gguf": write_reciting(tmp_path / "say.gguf", PIECES)})
    world.workers.stop()
    world.workers = Workers({**world.env, **ENGINE}, 2)
    ref = "hf:org/gated:Q8_0"
    brought = world.alice.bring(ref)
    body = {"model_ref": ref, "model_path": brought["local_path"]}
    wait_for(lambda: world.ops.call("GET", "/v1/devices").json()["devices"], "a machine runs models")
    people = {
        name: Person(world.server.url, new_key(world.settings, name, "read", "pull", "run"), TOKENS.get(name))
        for name in ("alice", "bob", "carol", "mallory")
    }
    alice, bob, carol = people["alice"], people["bob"], people["carol"]
    wait_for(lambda: bob.call("GET", "/v1/devices").status_code == 200, "the server knows their new keys")
    assert bob.call("POST", "/v1/workers/spawn", body).status_code == 400
    spawned = alice.call("POST", "/v1/workers/spawn", body).json()
    wait_for(lambda: alice.call("GET", "/v1/workers/list").json()["workers"][0]["state"] == "idle")

    def ask(person: Person, *, token: str | None = None, path: str = INFERENCE_PATH) -> requests.Response:
        asked = {"prompt": "?", "model": ref, "max_tokens": 4, "messages": [{"role": "user", "content": "?"}]}
        return person.call("POST", path, asked, **({"x-hf-token": token} if token else {}))

    for path in (INFERENCE_PATH, *OPENAI_PATHS[:2]):
        assert ask(alice, path=path).status_code == ask(world.ops, path=path).status_code == 200
        for person, token in ((bob, TOKENS["bob"]), (carol, None), (people["mallory"], TOKENS["mallory"])):
            refused = ask(person, token=token, path=path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "MODEL_NOT_LOADED")
            assert refused.json()["error"]["details"]["loaded"] == []
    unnamed = bob.call("POST", INFERENCE_PATH, {"prompt": "?", "max_tokens": 4})
    assert unnamed.status_code == 503, "the only model in memory is none of bob's"
    assert ask(carol, token=TOKENS["dave"]).status_code == 200, "whoever has a token that opens it"
    own = {person: Person(spawned["url"], person.key) for person in (alice, bob, world.ops)}
    assert ask(own[alice]).status_code == ask(own[world.ops]).status_code == 200
    denied = ask(own[bob])
    assert (denied.status_code, denied.json()["error"]["code"]) == (403, "MODEL_ACCESS_DENIED")
