"""Whole journeys on disks as people have them: without links, behind a link, read-only, full of surprises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import requests
from huggingface_hub import scan_cache_dir

from tests.hub import AnyContent, SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.mounts import mounted, read_only
from tests.support.service import Service
from tests.support.waiting import wait_for

#: A model with a large file, two equal ones, and folders.
MODEL: dict[str, AnyContent | None] = {
    "config.json": b"{}\n",
    "model.safetensors": SyntheticFile(24 * MIB, seed=1),
    "vocab.json": b"the same",
    "encoder/vocab.json": b"the same",
}


@contextlib.contextmanager
def serving(env: dict[str, str], **more: str) -> Iterator[Service]:
    service = Service({**env, "HIVE_KEEP_FREE_PERCENT": "0", **more}, workers=1)
    try:
        yield service
    finally:
        service.stop()


def whole(path: str) -> dict[str, str]:
    folder = Path(path)
    return {str(file.relative_to(folder)): file_sha256(str(file)) for file in folder.rglob("*") if file.is_file()}


def test_a_disk_without_links_holds_a_model_with_two_equal_files(
    env: dict[str, str], hub: HubServer, tmp_path: Path
) -> None:
    hub.create("org/name", MODEL)
    with mounted("exfat", tmp_path / "stick") as disk, serving(env, HIVE_STORE=str(disk)) as service:
        end = service.bring("hf:org/name")
        assert end["stage"] == "complete", end
        found = whole(end["local_path"])
        assert sorted(found) == sorted(MODEL)
        assert found["vocab.json"] == found["encoder/vocab.json"]
        assert not list((disk / "hub").glob("models--*/blobs/*"))
        again = service.post("hf:org/name")
        assert again["local_path"] == end["local_path"]
        freed = requests.delete(f"{service.server.url}/v1/models/org/name", timeout=60)
        assert freed.status_code == 200, freed.text
        assert not list((disk / "hub").glob("models--*"))


def test_a_cache_behind_a_link_to_another_disk_gets_the_model(
    env: dict[str, str], hub: HubServer, tmp_path: Path
) -> None:
    hub.create("org/name", MODEL)
    home = tmp_path / "home-of-hf"
    with mounted("tmpfs", tmp_path / "disk") as disk:
        (disk / "cache").mkdir()
        home.mkdir()
        (home / "hub").symlink_to(disk / "cache")
        with serving(
            {name: value for name, value in env.items() if name != "HIVE_STORE"}, HF_HOME=str(home)
        ) as service:
            end = service.bring("hf:org/name")
            assert end["stage"] == "complete", end
            assert sorted(whole(end["local_path"])) == sorted(MODEL)
            assert (disk / "cache" / "models--org--name").is_dir()
            assert not list((home / "hive" / "partial").glob("*"))
        assert {repo.repo_id for repo in scan_cache_dir(home / "hub").repos} == {"org/name"}


def test_a_store_that_goes_read_only_is_named_everywhere(env: dict[str, str], hub: HubServer, tmp_path: Path) -> None:
    hub.create("org/name", MODEL)
    hub.create("org/other", {"config.json": b"{}"})
    with mounted("tmpfs", tmp_path / "disk") as disk, serving(env, HIVE_STORE=str(disk)) as service:
        url = service.server.url
        assert service.bring("hf:org/name")["stage"] == "complete"
        assert requests.get(f"{url}/readyz", timeout=60).status_code == 200
        assert wait_for(lambda: read_only(disk))

        gone = requests.delete(f"{url}/v1/models/org/name", timeout=60)
        assert (gone.status_code, gone.json()["error"]["code"]) == (507, "STORE_NOT_WRITABLE")
        assert "Read-only file system" in gone.json()["error"]["message"]
        assert gone.json()["error"]["details"]["path"].startswith(str(disk))

        def why_not() -> str | None:
            answer = requests.get(f"{url}/readyz", timeout=60)
            return None if answer.ok else str(answer.json()["error"]["message"])

        assert str(disk) in wait_for(why_not, "it says that it is ready")

        end = service.bring("hf:org/other")
        assert (end["stage"], end["code"]) == ("error", "STORE_NOT_WRITABLE")
        assert str(disk) in end["message"]
        assert requests.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"] == "org/name"
