"""Publishing into the Hub's cache, as huggingface_hub's own tools see it, and into hive's folder for URLs."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from huggingface_hub import HfApi, scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import IncompleteSnapshotError

from hive.errors import DownloadError
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.layout import url_key
from hive.wire.refs import parse_ref
from tests.hub import AnyContent, HubServer, SyntheticFile
from tests.support.mounts import mounted
from tests.support.plans import MODEL, content_of, download, fetch_into, plan_for, repo_folder
from workers.publish import SYNCED_ALONE_FROM_BYTES, Store
from workers.transfer import Fetched

QUANTS: dict[str, AnyContent | None] = {
    "M-Q4_K_M.gguf": SyntheticFile(40_000, 4),
    "M-Q8_0.gguf": SyntheticFile(80_000, 8),
    "mmproj-F16.gguf": SyntheticFile(10_000, 16),
    "README.md": b"# Quantisations\n",
}


@pytest.fixture
def settings(hub_settings: Settings) -> Settings:
    return hub_settings


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings)


class TestHubCache:
    """What other tools read."""

    def test_huggingface_hub_finds_and_verifies_a_whole_model(self, hub: HubServer, settings: Settings) -> None:
        repo = hub.create("org/name", MODEL)
        commit = repo.at("main").sha

        store = download(settings, plan := plan_for(settings, "org/name"))

        info = scan_cache_dir(settings.hub_dir)
        assert info.warnings == []
        [found] = info.repos
        [revision] = found.revisions
        assert (found.repo_id, revision.commit_hash, revision.refs) == ("org/name", commit, frozenset({"main"}))
        snapshot = snapshot_download("org/name", cache_dir=settings.hub_dir, local_files_only=True)
        assert snapshot == store.local_path(plan)
        for path in MODEL:
            cached = try_to_load_from_cache("org/name", path, cache_dir=settings.hub_dir)
            assert isinstance(cached, str)
            content = repo.file(path).content
            assert Path(cached).read_bytes() == b"".join(content.blocks(0, content.size))
        api = HfApi(endpoint=hub.endpoint, token=False)
        verified = api.verify_repo_checksums("org/name", cache_dir=settings.hub_dir)
        assert verified.checked_count == len(MODEL)
        assert (verified.mismatches, verified.missing_paths, verified.extra_paths) == ([], [], [])

    def test_the_cache_is_the_same_as_huggingface_hubs_own(
        self, hub: HubServer, settings: Settings, tmp_path: Path
    ) -> None:
        hub.create("org/name", MODEL)
        download(settings, plan_for(settings, "org/name"))
        theirs = tmp_path / "theirs"

        snapshot_download("org/name", cache_dir=theirs, endpoint=hub.endpoint, token=False)

        ours = repo_folder(settings)
        assert _described(ours) == _described(theirs / ours.name)

    def test_a_selection_is_whole_to_tools_that_are_offline(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/q", QUANTS)

        download(settings, plan_for(settings, "org/q:Q8_0"))

        assert scan_cache_dir(settings.hub_dir).warnings == []
        snapshot = Path(snapshot_download("org/q", cache_dir=settings.hub_dir, local_files_only=True))
        assert sorted(os.listdir(snapshot)) == ["M-Q8_0.gguf", "mmproj-F16.gguf"]
        assert ModelCatalog(settings).find(parse_ref("org/q:Q8_0")) is not None
        assert ModelCatalog(settings).find(parse_ref("org/q")) is None

    def test_a_selection_that_becomes_the_whole_model_gets_its_listing(
        self, hub: HubServer, settings: Settings
    ) -> None:
        hub.create("org/q", QUANTS)
        for pattern in ("*Q8_0*", "*Q4_K_M*", "mmproj*"):
            download(settings, plan_for(settings, "org/q", include=(pattern,)))
        trees = repo_folder(settings, "models--org--q") / "trees"
        assert not trees.exists()

        download(settings, plan_for(settings, "org/q", include=("README.md",)))

        assert len(os.listdir(trees)) == 1

    def test_a_listing_that_huggingface_hub_wrote_is_left_as_it_is(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/q", QUANTS)
        snapshot_download(
            "org/q", cache_dir=settings.hub_dir, endpoint=hub.endpoint, token=False, allow_patterns="README.md"
        )

        download(settings, plan_for(settings, "org/q:Q8_0"))

        with pytest.raises(IncompleteSnapshotError):
            snapshot_download("org/q", cache_dir=settings.hub_dir, local_files_only=True)
        assert ModelCatalog(settings).find(parse_ref("org/q:Q8_0")) is not None

    @pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", "feature/new-head"])
    def test_the_ref_of_any_revision_leads_to_its_commit(
        self, hub: HubServer, settings: Settings, revision: str
    ) -> None:
        repo = hub.create("org/name", {"config.json": b"{}"})
        repo.tag("v1.0")
        repo.branch("feature/new-head")
        repo.pull_request(1, {"config.json": b"{ }"})

        download(settings, plan_for(settings, f"org/name@{revision}"))

        commit = repo.at(revision).sha
        assert (repo_folder(settings) / "refs" / revision).read_text() == commit
        assert ModelCatalog(settings).find(parse_ref(f"org/name@{revision}")) is not None
        assert scan_cache_dir(settings.hub_dir).warnings == []

    def test_a_commit_needs_no_ref(self, hub: HubServer, settings: Settings) -> None:
        commit = hub.create("org/name", {"config.json": b"{}"}).at("main").sha

        download(settings, plan_for(settings, f"org/name@{commit}"))

        assert not (repo_folder(settings) / "refs").exists()
        assert scan_cache_dir(settings.hub_dir).warnings == []

    def test_an_update_fetches_only_what_changed(self, hub: HubServer, settings: Settings) -> None:
        repo = hub.create("org/name", MODEL)
        download(settings, plan_for(settings, "org/name"))
        new = repo.commit({"config.json": b'{"changed": true}\n'})
        store = Store(settings)

        plan = plan_for(settings, "org/name")
        missing = store.missing(plan)
        download(settings, plan)

        assert [file.path for file in missing] == ["config.json"]
        assert (repo_folder(settings) / "refs" / "main").read_text() == new
        assert len(os.listdir(repo_folder(settings) / "snapshots")) == 2
        assert len(os.listdir(repo_folder(settings) / "blobs")) == len(MODEL) + 1
        assert scan_cache_dir(settings.hub_dir).warnings == []

    def test_a_content_with_two_names_is_fetched_once(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/name", {"a.txt": b"same", "b/c.txt": b"same", "d.txt": b"other"})
        plan = plan_for(settings, "org/name")

        missing = Store(settings).missing(plan)
        store = download(settings, plan)

        assert sorted(file.path for file in missing) in (["a.txt", "d.txt"], ["b/c.txt", "d.txt"])
        snapshot = Path(store.local_path(plan))
        assert [(snapshot / name).read_bytes() for name in ("a.txt", "b/c.txt")] == [b"same", b"same"]
        assert len(os.listdir(repo_folder(settings) / "blobs")) == 2

    def test_what_huggingface_hub_has_fetched_is_not_fetched_again(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/name", MODEL)
        snapshot_download("org/name", cache_dir=settings.hub_dir, endpoint=hub.endpoint, token=False)

        assert Store(settings).missing(plan_for(settings, "org/name")) == ()

    def test_backup_programs_are_told_that_the_folder_is_a_cache(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/name", {"config.json": b"{}"})
        download(settings, plan_for(settings, "org/name"))

        tag = (settings.hub_dir / "CACHEDIR.TAG").read_text()

        assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


class TestOrder:
    """What is there after a crash at any moment."""

    def test_before_the_end_nobody_takes_the_model_for_complete(
        self, hub: HubServer, settings: Settings, store: Store
    ) -> None:
        hub.create("org/name", MODEL)
        plan = plan_for(settings, "org/name")

        for file in plan.files:
            fetch_into(store, plan, file)
            assert ModelCatalog(settings).find(parse_ref("org/name")) is None
            assert not (repo_folder(settings) / "refs").exists()
            assert scan_cache_dir(settings.hub_dir).warnings == []
        store.complete(plan)

        assert ModelCatalog(settings).find(parse_ref("org/name")) is not None

    def test_a_large_and_a_small_file_leave_nothing_behind(
        self, hub: HubServer, settings: Settings, store: Store
    ) -> None:
        hub.create(
            "org/name", {"large.bin": SyntheticFile(SYNCED_ALONE_FROM_BYTES, 1), "small.bin": SyntheticFile(9, 2)}
        )
        plan = plan_for(settings, "org/name")
        for file in plan.files:
            Path(f"{store.partial(plan, file)}.journal").write_bytes(b"")

        download(settings, plan)

        assert os.listdir(settings.hive_dir / "partial") == []
        assert len(os.listdir(repo_folder(settings) / "blobs")) == 2

    @pytest.mark.parametrize("folder", ["hub/models--org--name", "hub/models--org--name/blobs", "hive/partial"])
    def test_a_folder_that_is_a_mount_of_its_own_gets_the_files_by_a_copy(
        self, hub: HubServer, settings: Settings, folder: str
    ) -> None:
        hub.create("org/name", {"a.bin": SyntheticFile(SYNCED_ALONE_FROM_BYTES, 1), "b.bin": SyntheticFile(9, 2)})
        with mounted("tmpfs", settings.store_dir / folder):
            store = download(settings, plan := plan_for(settings, "org/name"))

            assert store.missing(plan) == ()
            api = HfApi(endpoint=hub.endpoint, token=False)
            assert api.verify_repo_checksums("org/name", cache_dir=settings.hub_dir).mismatches == []
            assert os.listdir(settings.hive_dir / "partial") == []
            assert len(os.listdir(repo_folder(settings) / "blobs")) == 2

    def test_a_blob_without_its_link_is_used(self, hub: HubServer, settings: Settings, store: Store) -> None:
        hub.create("org/name", MODEL)
        plan = plan_for(settings, "org/name")
        for file in plan.files:
            fetch_into(store, plan, file)
        assert not (Path(store.local_path(plan)) / "model.safetensors").exists()

        assert store.missing(plan) == ()
        assert all(store.has(plan, file) for file in plan.files)
        store.complete(plan)

        assert (Path(store.local_path(plan)) / "model.safetensors").stat().st_size == 200_000

    def test_a_file_that_disappeared_is_no_complete_model(
        self, hub: HubServer, settings: Settings, store: Store
    ) -> None:
        hub.create("org/name", MODEL)
        plan = plan_for(settings, "org/name")
        for file in plan.files:
            fetch_into(store, plan, file)
        etag = next(file.etag for file in plan.files if file.path == "config.json")
        (repo_folder(settings) / "blobs" / (etag or "")).unlink()

        assert [file.path for file in store.missing(plan)] == ["config.json"]
        with pytest.raises(DownloadError, match=r"config\.json"):
            store.complete(plan)
        assert not (repo_folder(settings) / "refs").exists()

    def test_completing_twice_changes_nothing(self, hub: HubServer, settings: Settings, store: Store) -> None:
        hub.create("org/name", MODEL)
        plan = plan_for(settings, "org/name")
        download(settings, plan)
        before = _described(repo_folder(settings))

        store.complete(plan)

        assert _described(repo_folder(settings)) == before

    def test_a_blob_of_another_size_is_replaced(self, hub: HubServer, settings: Settings, store: Store) -> None:
        hub.create("org/name", MODEL)
        plan = plan_for(settings, "org/name")
        download(settings, plan)
        blob = (Path(store.local_path(plan)) / "model.safetensors").resolve()
        blob.write_bytes(b"short")

        assert [file.path for file in store.missing(plan)] == ["model.safetensors"]
        download(settings, plan)

        assert blob.stat().st_size == 200_000


class TestPartials:
    """Where files under way lie."""

    def test_two_repositories_share_the_partial_of_one_content(
        self, hub: HubServer, settings: Settings, store: Store
    ) -> None:
        hub.create("org/a", MODEL)
        hub.create("org/b", MODEL)
        a, b = plan_for(settings, "org/a"), plan_for(settings, "org/b")

        partials = [store.partial(a, file) for file in a.files]

        assert partials == [store.partial(b, file) for file in b.files]
        assert len(set(partials)) == len(MODEL)
        assert {partial.parent for partial in partials} == {settings.hive_dir / "partial"}
        sha256 = next(file.digest.hex for file in a.files if file.path == "model.safetensors" and file.digest)
        assert settings.hive_dir / "partial" / sha256 in partials

    def test_a_url_without_a_digest_has_a_partial_of_its_own(self, settings: Settings, store: Store) -> None:
        one, two = (plan_for(settings, f"https://host.example/f?id={number}") for number in (1, 2))

        assert store.partial(one, one.files[0]) != store.partial(two, two.files[0])
        assert "host" not in store.partial(one, one.files[0]).name


class TestUrls:
    """Files from plain URLs."""

    def test_a_file_lies_under_its_name_beside_a_manifest_without_the_query(
        self, hub: HubServer, settings: Settings
    ) -> None:
        url = f"{hub.plain('/models/file.gguf', b'content')}?signature=secret"

        store = download(settings, plan := plan_for(settings, url))

        path = Path(store.local_path(plan))
        assert path == settings.hive_dir / "files" / url_key(url) / "file.gguf"
        assert path.read_bytes() == b"content"
        manifest = json.loads((path.parent / "manifest.json").read_bytes())
        assert manifest.pop("fetched_at") > 0
        assert manifest == {
            "name": "file.gguf",
            "url": url.partition("?")[0],
            "size": 7,
            "sha256": hashlib.sha256(b"content").hexdigest(),
            "etag": None,
            "verified": False,
        }
        assert ModelCatalog(settings).find(parse_ref(url)) is not None

    def test_a_folder_that_is_a_mount_of_its_own_gets_the_file_by_a_copy(
        self, hub: HubServer, settings: Settings
    ) -> None:
        with mounted("tmpfs", settings.hive_dir / "files"):
            url = hub.plain(f"/{'模' * 80}.gguf", b"content")  # 245 bytes
            store = download(settings, plan := plan_for(settings, url))

            assert Path(store.local_path(plan)).read_bytes() == b"content"
            assert os.listdir(settings.hive_dir / "partial") == []

    def test_only_a_digest_makes_a_second_fetch_needless(self, hub: HubServer, settings: Settings) -> None:
        url = hub.plain("/f.gguf", b"content")
        digest = hashlib.sha256(b"content").hexdigest()
        download(settings, plan_for(settings, url, sha256=digest))
        store = Store(settings)

        same = plan_for(settings, url, sha256=digest)
        other = plan_for(settings, url, sha256="ab" * 32)
        unknown = plan_for(settings, url)

        assert store.has(same, same.files[0])
        assert not store.has(other, other.files[0])
        assert not store.has(unknown, unknown.files[0])

    def test_a_manifest_never_vouches_for_newer_bytes(
        self, hub: HubServer, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = hub.plain("/f.gguf", b"content")
        download(settings, plan := plan_for(settings, url))
        file = plan.files[0]
        partial = store.partial(plan, file)
        Path(f"{partial}.part").write_bytes(b"CONTENT")

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("workers.publish.write_file", die)
        with pytest.raises(KeyboardInterrupt):
            store.publish(plan, file, partial, Fetched(partial, 7, "ab" * 32, None, 0, 0.0, False))

        assert content_of(file) == b"content"
        assert ModelCatalog(settings).find(parse_ref(url)) is None


def _described(folder: Path) -> dict[str, str]:
    """Every file and link of a folder, with its content or target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = (
                json.dumps(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes().hex()
            )
        else:
            found[name] = "folder"
    return found
