"""The main job, end to end: POST a reference, a worker fetches it, everyone watches it arrive."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import requests
from huggingface_hub import HfApi, scan_cache_dir, snapshot_download, try_to_load_from_cache

from hive.client import Client
from hive.redis.client import RedisClient
from hive.wire.api import Started
from hive.wire.events import Complete, Error
from tests.hub import SyntheticFile, faults
from tests.hub.hits import Hit
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.processes import Server, Workers, stopping
from tests.support.redis import secrets_in
from tests.support.service import TOKEN, Service
from tests.support.waiting import wait_for

#: Where a connection is cut in the middle of a file.
CUT_AT = 9 * MIB


def first_byte(hit: Hit) -> int:
    """Where the range begins that was asked for; 0 for the whole file."""
    return int((hit.range or "bytes=0-").removeprefix("bytes=").split("-")[0])


def test_a_model_arrives_and_everyone_sees_it(service: Service, hub: HubServer) -> None:
    content = SyntheticFile(40 * MIB, seed=7)
    hub.create("org/model", {"model-Q4_K_M.gguf": content, "README.md": b"# Model\n"})
    hub.limit_rate_bytes_per_s = 5 * MIB
    started = service.post("hf:org/model")
    early = service.watch(started["download_id"])
    wait_for(lambda: early.events and early.last["bytes_downloaded"] > 0)
    assert service.post("hf:org/model") == {**started, "joined": True}
    middle = service.watch(started["download_id"])
    early.wait(), middle.wait()
    late = service.watch(started["download_id"]).wait()
    assert early.last == middle.last == late.last
    assert (early.done, middle.done, late.done) == (1, 1, 1)
    path = early.last["local_path"]
    assert (early.last["stage"], early.last["verified"]) == ("complete", True)
    assert file_sha256(path) == content.sha256()
    figures = [event["bytes_downloaded"] for event in early.events[:-1]]
    assert figures == sorted(figures)
    assert any(event["speed_mbps"] > 0 for event in early.events[:-1])
    assert {event["stage"] for event in early.events[:-1]} == {"downloading"}
    again = service.post("hf:org/model")
    assert again["local_path"] == path
    assert service.watch(again["download_id"]).wait().last["local_path"] == path


def test_the_store_is_the_hubs_own_cache(service: Service, hub: HubServer, env: dict[str, str]) -> None:
    files = {
        "config.json": b"{}",
        "model.safetensors": SyntheticFile(3 * MIB, seed=1),
        "tokenizer/vocab.txt": b"a\nb\n",
        "empty.txt": b"",
    }
    repo = hub.create("org/snap", files)  # type: ignore[arg-type]
    repo.tag("v1")
    path = service.bring("hf:org/snap@v1")["local_path"]
    cache = Path(env["HIVE_STORE"]) / "hub"
    info = scan_cache_dir(cache)
    assert info.warnings == []
    assert [r.repo_id for r in info.repos] == ["org/snap"]
    found = snapshot_download("org/snap", revision="v1", cache_dir=cache, local_files_only=True)
    assert found == path
    loaded = try_to_load_from_cache("org/snap", "tokenizer/vocab.txt", cache_dir=cache, revision="v1")
    assert isinstance(loaded, str)
    assert Path(loaded).read_bytes() == b"a\nb\n"
    checked = HfApi(endpoint=hub.endpoint).verify_repo_checksums("org/snap", revision="v1", cache_dir=cache)
    assert (checked.checked_count, checked.mismatches, checked.missing_paths) == (4, [], [])


def test_models_on_disk_are_listed_and_deleted(service: Service, hub: HubServer) -> None:
    hub.create("org/two", {"m-Q4_K_M.gguf": SyntheticFile(MIB, seed=1), "m-Q8_0.gguf": SyntheticFile(2 * MIB, seed=2)})
    for quant in ("Q4_K_M", "Q8_0"):
        service.bring(f"hf:org/two:{quant}")
    listed = requests.get(f"{service.server.url}/v1/models", timeout=60).json()
    assert [(m["id"], m["size"]) for m in listed["data"]] == [("org/two:Q4_K_M", MIB), ("org/two:Q8_0", 2 * MIB)]
    shown = requests.get(f"{service.server.url}/v1/models/org/two:Q8_0", timeout=60).json()
    assert (shown["owned_by"], shown["files"]) == ("org", [{"path": "m-Q8_0.gguf", "size": 2 * MIB}])
    gone = requests.delete(f"{service.server.url}/v1/models/org/two:Q8_0", timeout=60).json()
    assert (gone["deleted"], gone["freed_bytes"]) == (True, 2 * MIB)
    left = requests.get(f"{service.server.url}/v1/models", timeout=60).json()["data"]
    assert [m["id"] for m in left] == ["org/two:Q4_K_M"]
    assert service.post("hf:org/two:Q8_0")["local_path"] is None


@pytest.mark.parametrize(
    ("ref", "code", "words"),
    [
        ("hf:org/none", "MODEL_NOT_FOUND", "private"),
        ("hf:org/real@none", "REVISION_NOT_FOUND", ""),
        ("hf:org/real/none.gguf", "FILE_NOT_FOUND", ""),
        ("hf:org/real:Q2_K", "VARIANT_NOT_FOUND", ""),
        ("hf:org/closed", "MODEL_ACCESS_DENIED", "HF_TOKEN"),
        ("http://127.0.0.1:9/x.gguf", "UNSAFE_URL", "HIVE_ALLOW_HOSTS"),
        ("http://localhost:9/x.gguf", "UNSAFE_URL", "HIVE_ALLOW_HOSTS"),
    ],
)
def test_what_cannot_be_brought_ends_in_one_error_that_says_what_to_do(
    service: Service, hub: HubServer, ref: str, code: str, words: str
) -> None:
    hub.create("org/real", {"m-Q4_K_M.gguf": b"GGUF", "m-Q8_0.gguf": b"GGUF8"})
    hub.create("org/closed", {"m-Q4_K_M.gguf": b"GGUF"}, gated="manual")
    end = service.bring(ref)
    assert (end["stage"], end["code"], end["status"]) == ("error", code, "failed")
    assert words in end["message"]
    if code == "VARIANT_NOT_FOUND":
        assert "Q8_0" in str(end["details"])


def test_a_gated_model_comes_with_the_token_of_the_request(
    service: Service, hub: HubServer, store: RedisClient, env: dict[str, str]
) -> None:
    hub.create("org/gated", {"m-Q4_K_M.gguf": SyntheticFile(2 * MIB, seed=3)}, gated="manual")
    hub.access.issue(TOKEN, "org/gated")
    started = service.post("hf:org/gated", hf_token=TOKEN)
    client = service.watch(started["download_id"]).wait()
    assert client.last["stage"] == "complete", client.last
    assert secrets_in(store, TOKEN) == []
    assert not store.exists(f"hive:secret:{{{started['download_id']}}}")
    assert TOKEN not in str(client.events)
    assert TOKEN not in service.workers.output + service.server.output
    for folder in (env["HIVE_STORE"], env["HIVE_HOME"]):
        for path in Path(folder).rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    assert all("Authorization" not in hit.headers for hit in hub.hits(origin="cdn")), "the token went to the CDN"


def test_a_token_that_joins_a_request_without_one_opens_the_model_for_both(
    env: dict[str, str], hub: HubServer, store: RedisClient
) -> None:
    hub.create("org/gated", {"m-Q4_K_M.gguf": SyntheticFile(2 * MIB, seed=3, head=b"GGUF")}, gated="manual")
    hub.access.issue(TOKEN, "org/gated")
    with contextlib.ExitStack() as stack:
        server = Server(env)
        stack.callback(server.stop)
        server.wait_until_ready()
        with Client(server.url) as client:
            first = client.download("hf:org/gated")
            assert client.download("hf:org/gated", hf_token=TOKEN) == Started(
                download_id=first.download_id, local_path=None, joined=True
            )
            stack.callback(Workers(env, 1).stop)
            *_, end = client.watch(first.download_id)
    assert isinstance(end, Complete), end
    assert secrets_in(store, TOKEN) == []


def test_a_token_that_joins_and_is_refused_takes_nothing_from_who_asked_without(
    env: dict[str, str], hub: HubServer
) -> None:
    file = {"m-Q4_K_M.gguf": SyntheticFile(2 * MIB, seed=3, head=b"GGUF")}
    hub.create("org/gated", file, gated="manual")
    hub.create("org/open", file)
    hub.access.issue(TOKEN, "org/gated")
    with stopping(Server(env)) as server:
        assert isinstance(server, Server)
        server.wait_until_ready()
        with Client(server.url) as client:
            asked = [client.download(f"hf:org/{name}").download_id for name in ("gated", "open")]
            for name in ("gated", "open"):
                assert client.download(f"hf:org/{name}", hf_token="hf_nobodyKnows").download_id in asked
            alone = client.download("hf:org/open:Q4_K_M", hf_token="hf_nobodyKnows").download_id
            with stopping(Workers({**env, "HF_TOKEN": TOKEN}, 1)):
                ends = [list(client.watch(download_id))[-1] for download_id in (*asked, alone)]
    assert [type(end) for end in ends[:2]] == [Complete, Complete], ends
    assert isinstance(ends[2], Error)
    assert ends[2].code == "MODEL_ACCESS_DENIED", "who alone sends a token hears that it is wrong"


def test_a_token_that_comes_while_the_model_is_refused_is_tried(service: Service, hub: HubServer) -> None:
    hub.create("org/gated", {"m-Q4_K_M.gguf": SyntheticFile(2 * MIB, seed=3, head=b"GGUF")}, gated="manual")
    hub.access.issue(TOKEN, "org/gated")
    slow = hub.faults.add(faults.slow_connect(5.0), "/api/models/*", count=1)
    started = service.post("hf:org/gated")
    wait_for(lambda: slow.struck)
    assert service.post("hf:org/gated", hf_token=TOKEN) == {**started, "joined": True}
    assert service.watch(started["download_id"]).wait().last["stage"] == "complete"


def test_a_plain_url_arrives_and_its_query_stays_secret(
    service: Service, hub: HubServer, redis_url: str, env: dict[str, str]
) -> None:
    service.stop()
    allowed = {**env, "HIVE_ALLOW_HOSTS": hub.endpoint.removeprefix("http://")}
    again = Service(allowed)
    try:
        content = SyntheticFile(3 * MIB, seed=9)
        url = hub.plain("files/model.gguf", content) + "?signature=" + TOKEN
        end = again.bring(url, sha256=content.sha256())
        assert (end["stage"], end["verified"]) == ("complete", True)
        assert file_sha256(end["local_path"]) == content.sha256()
        assert again.post(url)["local_path"] == end["local_path"]
        assert any(TOKEN in str(hit.query) for hit in hub.hits("*model.gguf"))
        assert TOKEN not in again.workers.output + again.server.output
        wrong = again.bring(hub.plain("files/other.gguf", content), sha256="0" * 64)
        assert (wrong["stage"], wrong["code"]) == ("error", "CHECKSUM_MISMATCH")
    finally:
        again.stop()


def test_wrong_bytes_are_never_published(service: Service, hub: HubServer, env: dict[str, str]) -> None:
    hub.create("org/bad", {"m-Q4_K_M.gguf": SyntheticFile(2 * MIB, seed=4)})
    hub.faults.add(faults.wrong_byte(offset=MIB), "*.gguf", origin="cdn")
    end = service.bring("hf:org/bad")
    assert (end["stage"], end["code"]) == ("error", "CHECKSUM_MISMATCH")
    assert list((Path(env["HIVE_STORE"]) / "hub").rglob("blobs/*")) == []
    hub.faults.clear()
    assert service.bring("hf:org/bad")["stage"] == "complete"


def test_a_cut_connection_resumes(service: Service, hub: HubServer) -> None:
    content = SyntheticFile(24 * MIB, seed=5)
    hub.create("org/cut", {"m-Q4_K_M.gguf": content})
    hub.faults.add(faults.cut(at_offset=CUT_AT), "*.gguf", origin="cdn", count=1)
    end = service.bring("hf:org/cut")
    assert end["stage"] == "complete"
    assert file_sha256(end["local_path"]) == content.sha256()
    # Not by bytes that left the server: a connection whose rest another one takes over sends on for a while.
    begins = [first_byte(hit) for hit in hub.hits("*.gguf", origin="cdn")]
    was_cut = max(begin for begin in begins if begin < CUT_AT)
    assert begins.count(was_cut) == 1, "what came before the cut was fetched again"


def test_rate_limits_are_waited_for(service: Service, hub: HubServer) -> None:
    hub.create("org/limited", {"m-Q4_K_M.gguf": SyntheticFile(MIB, seed=6)})
    # Long enough to be seen also where a busy machine makes the stream leave out what is overtaken.
    hub.faults.add(faults.too_many_requests(retry_after_s=4), "/api/*", count=1)
    started = service.post("hf:org/limited")
    client = service.watch(started["download_id"]).wait()
    assert client.last["stage"] == "complete"
    assert "retrying" in [event.get("status") for event in client.events]


def test_an_update_fetches_only_what_changed(service: Service, hub: HubServer) -> None:
    repo = hub.create("org/moving", {"config.json": b"{}", "model.safetensors": SyntheticFile(4 * MIB, seed=1)})
    first = service.bring("hf:org/moving")["local_path"]
    hub.reset_log()
    repo.commit({"config.json": b'{"new": 1}'})
    assert service.post("hf:org/moving")["local_path"] == first, "answered from the disk"
    assert len(hub.log) == 0
    second = service.bring("hf:org/moving", update=True)["local_path"]
    assert second != first
    assert (Path(second) / "config.json").read_bytes() == b'{"new": 1}'
    assert hub.bytes_sent("*model.safetensors", origin="cdn") == 0


def test_the_disk_answers_when_the_hub_is_away(service: Service, hub: HubServer) -> None:
    hub.create("org/kept", {"m-Q4_K_M.gguf": SyntheticFile(MIB, seed=1)})
    path = service.bring("hf:org/kept")["local_path"]
    hub.stop()
    assert service.post("hf:org/kept")["local_path"] == path
