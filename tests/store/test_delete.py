"""Deleting a model: exactly its own, and never more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from hive.errors import ModelNotOnDisk
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.wire.refs import parse_ref
from tests.support.store import COMMIT, OTHER, QUANTS, SHARDS, WHOLE, everything_below, put, put_tree, put_url


def ids(catalog: ModelCatalog) -> list[str]:
    return [model.id for model in catalog.list()]


def warnings(settings: Settings) -> list[str]:
    """What huggingface_hub finds wrong with the cache."""
    return [str(warning) for warning in scan_cache_dir(settings.hub_dir).warnings]


def test_a_snapshot_goes_with_all_that_belongs_to_it(settings: Settings, catalog: ModelCatalog) -> None:
    put(settings, "org/name", {**WHOLE, "deep/er/file.json": b"{}..."}, refs=("main", "refs/pr/1"))
    put_tree(settings, "org/name", WHOLE)
    put(settings, "org/other", WHOLE)
    (settings.hub_dir / "models--org--name" / ".no_exist" / COMMIT).mkdir(parents=True)

    freed = catalog.delete("org/name")

    assert freed == sum(len(content) for content in WHOLE.values()) + 5
    assert os.listdir(settings.hub_dir) == ["models--org--other"]
    assert ids(catalog) == ["org/other"]


def test_one_variant_goes_and_the_other_keeps_the_projector(settings: Settings, catalog: ModelCatalog) -> None:
    put(settings, "org/q", QUANTS)

    assert catalog.delete("org/q:Q8_0") == len(b"eight...")

    assert ids(catalog) == ["org/q:Q4_K_M"]
    assert catalog.find(parse_ref("org/q:Q4_K_M")) is not None
    assert len(catalog.get("org/q:Q4_K_M").files) == 2
    assert warnings(settings) == []


def test_the_last_variant_takes_the_projector_and_the_texts_along(settings: Settings, catalog: ModelCatalog) -> None:
    put(settings, "org/q", QUANTS)

    catalog.delete("org/q:Q8_0")
    freed = catalog.delete("org/q:Q4_K_M")

    assert freed == len(b"four" + b"eyes" + b"# quants")
    assert everything_below(settings.hub_dir) == set()


def test_the_folder_of_a_sharded_variant_goes_with_it(settings: Settings, catalog: ModelCatalog) -> None:
    snapshot = put(settings, "org/q", {**QUANTS, **SHARDS})

    assert catalog.delete("org/q:BF16") == 3

    assert not (snapshot / "BF16").exists()
    assert ids(catalog) == ["org/q:Q4_K_M", "org/q:Q8_0"]


def test_a_blob_that_another_commit_needs_stays(settings: Settings, catalog: ModelCatalog) -> None:
    put(settings, "org/name", {"model.safetensors": b"new", "config.json": b"the same"})
    put(settings, "org/name", {"model.safetensors": b"old!", "config.json": b"the same"}, commit=OTHER, refs=("v1",))

    freed = catalog.delete("org/name@v1")

    assert freed == len(b"old!")
    assert ids(catalog) == ["org/name"]
    assert len(catalog.get("org/name").files) == 2
    assert everything_below(settings.hub_dir / "models--org--name" / "refs") == {"main"}
    assert warnings(settings) == []


def test_a_blob_that_another_name_needs_stays(settings: Settings, catalog: ModelCatalog) -> None:
    put(settings, "org/q", {"a-Q8_0.gguf": b"same", "b-Q4_0.gguf": b"same"})

    assert catalog.delete("org/q:Q8_0") == 0
    assert catalog.delete("org/q:Q4_0") == 4


def test_another_tools_download_under_way_is_left_alone(settings: Settings, catalog: ModelCatalog) -> None:
    put(settings, "org/name", WHOLE)
    partial = settings.hub_dir / "models--org--name" / "blobs" / "abc.incomplete"
    partial.write_bytes(b"half")

    catalog.delete("org/name")

    assert partial.read_bytes() == b"half"
    assert ids(catalog) == []
    assert warnings(settings) == []


def test_the_listing_in_hives_own_folder_goes_too(settings: Settings, catalog: ModelCatalog) -> None:
    put(settings, "org/name", WHOLE)
    own = settings.hive_dir / "trees" / "models--org--name"
    own.mkdir(parents=True)
    (own / f"{COMMIT}.json").write_bytes(b"{}")

    catalog.delete("org/name")

    assert everything_below(settings.hive_dir) <= {"trees"}


def test_what_a_planted_link_points_to_is_not_touched(
    settings: Settings, catalog: ModelCatalog, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"keep me")
    snapshot = put(settings, "org/name", WHOLE)
    (snapshot / "file").symlink_to(outside / "precious")
    (snapshot / "folder").symlink_to(outside)
    (settings.hub_dir / "models--org--name" / "refs" / "linked").symlink_to(outside / "precious")

    catalog.delete("org/name")

    assert (outside / "precious").read_bytes() == b"keep me"
    assert not snapshot.exists()


def test_a_blob_in_the_shared_store_only_loses_its_link(settings: Settings, catalog: ModelCatalog) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    blob = (snapshot / "model.safetensors").resolve()
    shared = settings.hub_dir / "blobs" / "cd" / ("cd" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))

    freed = catalog.delete("org/name")

    assert freed == sum(len(content) for content in WHOLE.values()) - len(b"weights")
    assert shared.exists()
    assert not (settings.hub_dir / "models--org--name").exists()


def test_a_file_from_a_url_goes_with_its_manifest(settings: Settings, catalog: ModelCatalog) -> None:
    path = put_url(settings, "https://host.example/f", b"content")
    kept = put_url(settings, "https://host.example/g", b"another")

    freed = catalog.delete(f"url/{path.parent.name}/file.gguf")

    assert freed >= len(b"content")
    assert not path.parent.exists()
    assert kept.exists()


@pytest.mark.parametrize(
    "model_id",
    ["org/absent", "../../outside", "url/../../outside", "url/..", "org/name/../../..", "url//", "org/name@../../x"],
)
def test_an_id_that_is_not_in_the_list_deletes_nothing(
    settings: Settings, catalog: ModelCatalog, tmp_path: Path, model_id: str
) -> None:
    put(settings, "org/name", WHOLE)
    put_url(settings, "https://host.example/f", b"content")
    before = everything_below(tmp_path)

    with pytest.raises(ModelNotOnDisk):
        catalog.delete(model_id)

    assert everything_below(tmp_path) == before
