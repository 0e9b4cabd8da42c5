"""What is on the disk: found, listed, and told from what only looks like it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hive.errors import ModelNotOnDisk
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.layout import url_key
from hive.wire.refs import parse_ref
from tests.support.store import COMMIT, OTHER, QUANTS, SHARDS, WHOLE, put, put_tree, put_url, sha256


class TestFind:
    """A reference that needs no download."""

    def test_a_snapshot_is_found_by_its_listing(self, settings: Settings, catalog: ModelCatalog) -> None:
        snapshot = put(settings, "org/name", WHOLE)
        put_tree(settings, "org/name", WHOLE)

        found = catalog.find(parse_ref("hf:org/name"))

        assert found is not None
        assert (found.local_path, found.commit, found.model_id) == (str(snapshot), COMMIT, "org/name")
        assert found.size == sum(len(content) for content in WHOLE.values())
        assert {file.path for file in found.files} == set(WHOLE)

    def test_a_snapshot_that_lacks_only_duplicates_is_found(self, settings: Settings, catalog: ModelCatalog) -> None:
        put(settings, "org/name", WHOLE)
        put_tree(settings, "org/name", {**WHOLE, "pytorch_model.bin": b"the same weights"})

        assert catalog.find(parse_ref("org/name")) is not None
        assert catalog.find(parse_ref("org/name"), include=["*.bin"]) is None

    @pytest.mark.parametrize("lacking", WHOLE)
    def test_a_snapshot_that_lacks_a_file_is_not_found(
        self, settings: Settings, catalog: ModelCatalog, lacking: str
    ) -> None:
        put(settings, "org/name", {path: content for path, content in WHOLE.items() if path != lacking})
        put_tree(settings, "org/name", WHOLE)

        assert catalog.find(parse_ref("org/name")) is None

    def test_a_file_of_another_size_is_not_the_file(self, settings: Settings, catalog: ModelCatalog) -> None:
        put(settings, "org/name", {**WHOLE, "model.safetensors": b"half"})
        put_tree(settings, "org/name", WHOLE)

        assert catalog.find(parse_ref("org/name")) is None

    def test_the_listing_of_a_selection_in_hives_own_folder_counts(
        self, settings: Settings, catalog: ModelCatalog
    ) -> None:
        snapshot = put(settings, "org/q", {"M-Q8_0.gguf": b"eight...", "mmproj-F16.gguf": b"eyes"})
        put_tree(settings, "org/q", QUANTS)
        own = settings.hive_dir / "trees" / "models--org--q"
        own.mkdir(parents=True)
        (settings.hub_dir / "models--org--q" / "trees" / f"{COMMIT}.json").rename(own / f"{COMMIT}.json")

        found = catalog.find(parse_ref("org/q:q8_0"))

        assert found is not None
        assert (found.variant, found.local_path) == ("Q8_0", str(snapshot / "M-Q8_0.gguf"))
        assert found.model_id == "org/q:Q8_0"
        assert catalog.find(parse_ref("org/q")) is None

    def test_a_quantisation_without_a_listing_is_found_when_its_shards_are_complete(
        self, settings: Settings, catalog: ModelCatalog
    ) -> None:
        snapshot = put(settings, "org/q", SHARDS)

        found = catalog.find(parse_ref("org/q:BF16"))

        assert found is not None
        assert found.local_path == str(snapshot / "BF16/M-BF16-00001-of-00003.gguf")
        assert len(found.files) == 3
        assert catalog.find(parse_ref("org/q")) is None

    def test_a_quantisation_without_a_listing_that_lacks_a_shard_is_not_found(
        self, settings: Settings, catalog: ModelCatalog
    ) -> None:
        put(settings, "org/q", dict(list(SHARDS.items())[:2]))

        assert catalog.find(parse_ref("org/q:BF16")) is None

    def test_a_path_needs_no_listing(self, settings: Settings, catalog: ModelCatalog) -> None:
        snapshot = put(settings, "org/name", WHOLE)

        found = catalog.find(parse_ref("hf:org/name/config.json"))

        assert found is not None
        assert found.local_path == str(snapshot / "config.json")
        assert catalog.find(parse_ref("hf:org/name/absent.json")) is None

    def test_a_snapshot_without_a_listing_may_be_a_part_and_is_not_found(
        self, settings: Settings, catalog: ModelCatalog
    ) -> None:
        put(settings, "org/name", WHOLE)

        assert catalog.find(parse_ref("org/name")) is None
        assert catalog.find(parse_ref("org/name"), include=["config.json"]) is None

    @pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", OTHER])
    def test_a_revision_is_a_branch_a_tag_a_pull_request_or_a_commit(
        self, settings: Settings, catalog: ModelCatalog, revision: str
    ) -> None:
        put(settings, "org/name", {"a.txt": b"main"})
        snapshot = put(settings, "org/name", {"a.txt": b"other"}, commit=OTHER, refs=("v1.0", "refs/pr/1"))

        found = catalog.find(parse_ref(f"hf:org/name/a.txt@{revision}"))

        assert found is not None
        assert found.local_path == str(snapshot / "a.txt")
        assert catalog.find(parse_ref("hf:org/name/a.txt@absent")) is None

    def test_a_digest_that_is_asked_for_must_be_the_files(self, settings: Settings, catalog: ModelCatalog) -> None:
        put(settings, "org/name", WHOLE)
        put_tree(settings, "org/name", WHOLE)
        ref = parse_ref("hf:org/name/model.safetensors")

        assert catalog.find(ref, sha256=sha256(b"weights")) is not None
        assert catalog.find(ref, sha256=sha256(b"others")) is None

    def test_a_url_is_found_by_its_manifest(self, settings: Settings, catalog: ModelCatalog) -> None:
        url = "https://host.example/file.gguf?signature=abc"
        path = put_url(settings, url, b"content")

        found = catalog.find(parse_ref(url))

        assert found is not None
        assert (found.local_path, found.size) == (str(path), 7)
        assert catalog.find(parse_ref(url), sha256=sha256(b"content")) is not None
        assert catalog.find(parse_ref(url), sha256=sha256(b"another")) is None
        assert catalog.find(parse_ref("https://host.example/file.gguf")) is None

    def test_a_url_whose_file_is_cut_short_is_not_found(self, settings: Settings, catalog: ModelCatalog) -> None:
        put_url(settings, "https://host.example/f", b"cont", size=7)

        assert catalog.find(parse_ref("https://host.example/f")) is None

    def test_nothing_is_found_in_a_store_that_does_not_exist(self, catalog: ModelCatalog) -> None:
        assert catalog.find(parse_ref("org/name")) is None
        assert catalog.find(parse_ref("https://host.example/f")) is None
        assert catalog.list() == []


class TestList:
    """Every model on the disk."""

    def test_each_variant_is_a_model_with_its_projector(self, settings: Settings, catalog: ModelCatalog) -> None:
        snapshot = put(settings, "org/q", {**QUANTS, **SHARDS})

        found = {model.id: model for model in catalog.list()}

        assert list(found) == ["org/q:BF16", "org/q:Q4_K_M", "org/q:Q8_0"]
        eight = found["org/q:Q8_0"]
        assert {file.path for file in eight.files} == {"M-Q8_0.gguf", "mmproj-F16.gguf"}
        assert (eight.size, eight.variant, catalog.origin(eight).repo, eight.revision) == (12, "Q8_0", "org/q", COMMIT)
        assert eight.path == str(snapshot / "M-Q8_0.gguf")
        assert eight.refs == ("main",)
        assert abs(eight.created - time.time()) < 60
        assert found["org/q:BF16"].path == str(snapshot / "BF16/M-BF16-00001-of-00003.gguf")

    def test_a_snapshot_is_a_model_at_its_folder(self, settings: Settings, catalog: ModelCatalog) -> None:
        snapshot = put(settings, "org/name", WHOLE)

        [model] = catalog.list()

        assert (model.id, model.path, model.variant, model.complete) == ("org/name", str(snapshot), None, True)

    def test_other_weights_beside_gguf_are_a_model_of_their_own(
        self, settings: Settings, catalog: ModelCatalog
    ) -> None:
        put(settings, "org/both", {**WHOLE, "M-Q8_0.gguf": b"eight..."})

        assert [model.id for model in catalog.list()] == ["org/both", "org/both:Q8_0"]

    def test_revisions_beside_main_are_told_apart(self, settings: Settings, catalog: ModelCatalog) -> None:
        put(settings, "org/name", {"M-Q8_0.gguf": b"new"})
        put(settings, "org/name", {"M-Q8_0.gguf": b"old"}, commit=OTHER, refs=("v1.0", "refs/pr/3"))
        put(settings, "org/name", {"M-Q8_0.gguf": b"pin"}, commit="c" * 40, refs=())

        assert [model.id for model in catalog.list()] == [
            "org/name:Q8_0",
            f"org/name@{'c' * 40}:Q8_0",
            "org/name@refs/pr/3:Q8_0",
        ]

    def test_two_models_of_one_quantisation_have_ids_that_are_references(
        self, settings: Settings, catalog: ModelCatalog
    ) -> None:
        put(settings, "org/two", {"a-Q8_0.gguf": b"a", "b-Q8_0.gguf": b"b"})

        ids = [model.id for model in catalog.list()]

        assert ids == ["org/two/a-Q8_0.gguf", "org/two/b-Q8_0.gguf"]
        assert all(catalog.find(parse_ref(f"hf:{model_id}")) for model_id in ids)

    def test_a_model_that_lacks_shards_is_not_complete(self, settings: Settings, catalog: ModelCatalog) -> None:
        put(settings, "org/q", dict(list(SHARDS.items())[:2]))
        put(settings, "org/s", {"model-00001-of-00002.safetensors": b"half"})

        assert [(model.id, model.complete) for model in catalog.list()] == [("org/q:BF16", False), ("org/s", False)]

    def test_a_blob_with_two_names_is_counted_once(self, settings: Settings, catalog: ModelCatalog) -> None:
        put(settings, "org/name", {"a.safetensors": b"same", "b.safetensors": b"same"})

        assert catalog.list()[0].size == 4

    def test_a_urls_file_is_a_model_without_the_urls_query(self, settings: Settings, catalog: ModelCatalog) -> None:
        url = "https://host.example/file.gguf?signature=abc"
        path = put_url(settings, url, b"content")

        [model] = catalog.list()

        assert model.id == f"url/{url_key(url)}/file.gguf"
        assert (model.path, catalog.origin(model)) == (str(path), (None, "https://host.example/file.gguf"))
        assert catalog.get(model.id) == model

    @pytest.mark.parametrize(
        "model_id",
        ["org/absent", "org/name:Q8_0", "org/name@main", "", "/", "..", "../../etc", "org/name/..", "url/x/y", "url/"],
    )
    def test_an_id_that_is_not_in_the_list_is_not_on_the_disk(
        self, settings: Settings, catalog: ModelCatalog, model_id: str
    ) -> None:
        put(settings, "org/name", WHOLE)

        with pytest.raises(ModelNotOnDisk):
            catalog.get(model_id)

    def test_every_id_in_the_list_can_be_asked_for(self, settings: Settings, catalog: ModelCatalog) -> None:
        put(settings, "org/q", {**QUANTS, **SHARDS})
        put(settings, "org/q", WHOLE, commit=OTHER, refs=("refs/pr/1",))
        put_url(settings, "http://host.example/f", b"x")

        models = catalog.list()

        assert len(models) == 5
        assert [catalog.get(model.id) for model in models] == models

    def test_a_list_takes_little_more_than_looking_at_each_file_once(
        self, settings: Settings, catalog: ModelCatalog
    ) -> None:
        """Two hundred snapshots of fifty files: 0.2 s on an idle machine, where this is 1.3 times a plain walk."""
        put(settings, "org/repo-0", {f"part-{number % 7}/file-{number}.json": b"%d" % number for number in range(50)})
        for number in range(1, 200):
            _link_copy(settings.hub_dir / "models--org--repo-0", settings.hub_dir / f"models--org--repo-{number}")

        def look_at_each_file() -> None:
            for folder, _, names in os.walk(settings.hub_dir):
                for name in names:
                    os.stat(f"{folder}/{name}")

        def list_all() -> None:
            assert len(catalog.list()) == 200

        # One after the other, so that what else the machine does is the same for both.
        ratio = min(_cpu_seconds_of(list_all) / _cpu_seconds_of(look_at_each_file) for _ in range(5))
        assert ratio < 2.0


def _cpu_seconds_of(work: Callable[[], None]) -> float:
    """CPU and not the clock: other tests may run beside this one."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _link_copy(source: Path, target: Path) -> None:
    """A copy of a repository whose blobs are hard links: quick to make and the same to read."""
    for folder, _, names in os.walk(source):
        below = target / Path(folder).relative_to(source)
        below.mkdir()
        for name in names:
            path = Path(folder) / name
            if path.is_symlink():
                os.symlink(os.readlink(path), below / name)
            else:
                os.link(path, below / name)
