"""What others put into the cache, by mistake or on purpose, and what the catalog makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.wire.refs import parse_ref
from tests.support.settings import settings_for
from tests.support.store import COMMIT, OTHER, TEXTS, WHOLE, put, put_tree, put_url


def test_a_planted_link_is_not_a_file_of_the_model(settings: Settings, catalog: ModelCatalog, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"weights")
    snapshot = put(settings, "org/name", TEXTS)
    put_tree(settings, "org/name", WHOLE)
    for target in (str(secret), os.path.relpath(secret, snapshot), "../../blobs/../../../../secret"):
        (snapshot / "model.safetensors").unlink(missing_ok=True)
        (snapshot / "model.safetensors").symlink_to(target)

        assert catalog.find(parse_ref("org/name")) is None
        assert catalog.find(parse_ref("hf:org/name/model.safetensors")) is None


def test_a_link_to_a_namesake_of_a_blob_is_not_a_file(
    settings: Settings, catalog: ModelCatalog, tmp_path: Path
) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    blob = (snapshot / "config.json").resolve()
    (tmp_path / blob.name).write_bytes(b"[]")
    for target in (str(tmp_path / blob.name), f"../../../../../{blob.name}", f"../../blobs/../../../../{blob.name}"):
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(target)

        assert catalog.find(parse_ref("hf:org/name/config.json")) is None


def test_a_blob_that_is_a_link_out_of_the_store_is_not_a_file(
    settings: Settings, catalog: ModelCatalog, tmp_path: Path
) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    blob = (snapshot / "config.json").resolve()
    blob.unlink()
    (tmp_path / "secret").write_bytes(b"{}")
    blob.symlink_to(tmp_path / "secret")

    assert catalog.find(parse_ref("hf:org/name/config.json")) is None
    assert "config.json" not in {file.path for file in catalog.get("org/name").files}


def test_a_blob_in_the_store_that_repositories_share_is_a_file(settings: Settings, catalog: ModelCatalog) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    blob = (snapshot / "config.json").resolve()
    shared = settings.hub_dir / "blobs" / "cd" / ("cd" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))

    assert catalog.find(parse_ref("hf:org/name/config.json")) is not None


def test_a_linked_folder_is_no_repository_and_no_snapshot(
    settings: Settings, catalog: ModelCatalog, tmp_path: Path
) -> None:
    elsewhere = settings_for(tmp_path / "elsewhere")
    snapshot = put(elsewhere, "org/name", WHOLE)
    put(settings, "org/other", WHOLE, commit=OTHER)
    (settings.hub_dir / "models--org--name").symlink_to(elsewhere.hub_dir / "models--org--name")
    (settings.hub_dir / "models--org--other" / "snapshots" / COMMIT).symlink_to(snapshot)

    assert catalog.find(parse_ref("hf:org/name/config.json")) is None
    assert catalog.find(parse_ref(f"hf:org/other/config.json@{COMMIT}")) is None
    assert [model.id for model in catalog.list()] == ["org/other"]


def test_a_file_that_lies_in_the_snapshot_itself_counts(settings: Settings, catalog: ModelCatalog) -> None:
    snapshot = put(settings, "org/name", {})
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(b"{}")

    assert catalog.find(parse_ref("hf:org/name/config.json")) is not None


def test_what_is_no_model_is_left_out_of_the_list(settings: Settings, catalog: ModelCatalog) -> None:
    put(settings, "org/name", WHOLE)
    hub = settings.hub_dir
    others = ("datasets", "datasets--a--b--c", "models--datasets--name", ".locks", "blobs", "models--")
    for name in (*others, "models--a--b--c", "x"):
        (hub / name / "snapshots" / COMMIT).mkdir(parents=True)
        (hub / name / "snapshots" / COMMIT / "file").write_bytes(b"x")
    (hub / "models--org--empty" / "snapshots" / COMMIT).mkdir(parents=True)
    (hub / "models--org--nothing").mkdir()
    (hub / "models--org--file").write_bytes(b"")
    (hub / "models--org--name" / "blobs" / "abc.incomplete").write_bytes(b"half")
    (hub / "models--org--name" / "refs" / "broken").write_bytes(b"no commit")
    (hub / "models--org--name" / "snapshots" / "not-a-commit").mkdir()
    (hub / "version.txt").write_bytes(b"1")

    assert [(model.id, model.refs) for model in catalog.list()] == [("org/name", ("main",))]


def test_data_sets_and_spaces_are_whole_and_have_no_variants(settings: Settings, catalog: ModelCatalog) -> None:
    for name in ("datasets--org--set", "spaces--org--space"):
        snapshot = settings.hub_dir / name / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        for path in ("a-Q4_K_M.gguf", "a-Q8_0.gguf", "train-00001-of-00002.parquet"):
            (snapshot / path).write_bytes(b"x")
    assert [(model.id, model.owned_by, len(model.files)) for model in catalog.list()] == [
        (f"datasets/org/set@{COMMIT}", "org", 3),
        (f"spaces/org/space@{COMMIT}", "org", 3),
    ]
    assert catalog.delete(f"datasets/org/set@{COMMIT}") == 3
    assert [model.id for model in catalog.list()] == [f"spaces/org/space@{COMMIT}"]


@pytest.mark.parametrize(
    "manifest", [b"", b"{", b"[]", b'{"name": "../../x"}', b"\xff", b"[" * 100_000, b'{"name": "absent"}']
)
def test_a_broken_manifest_is_no_model(settings: Settings, catalog: ModelCatalog, manifest: bytes) -> None:
    path = put_url(settings, "https://host.example/f", b"content")
    (path.parent / "manifest.json").write_bytes(manifest)

    assert catalog.list() == []
    assert catalog.find(parse_ref("https://host.example/f")) is None


@pytest.mark.parametrize(
    "listing",
    [b"", b"{", b"[" * 100_000, b'{"format_version": 2, "files": {}}', b'{"format_version": 1, "files": []}'],
)
def test_a_broken_listing_is_none(settings: Settings, catalog: ModelCatalog, listing: bytes) -> None:
    put(settings, "org/name", WHOLE)
    put_tree(settings, "org/name", WHOLE)
    (settings.hub_dir / "models--org--name" / "trees" / f"{COMMIT}.json").write_bytes(listing)

    assert catalog.find(parse_ref("org/name")) is None
    assert catalog.find(parse_ref("hf:org/name/config.json")) is not None


@pytest.mark.parametrize("digest", ["../../../x", "A" * 40, ""])
def test_a_listing_whose_digests_are_none_is_none(catalog: ModelCatalog, settings: Settings, digest: str) -> None:
    put_tree(settings, "org/name", WHOLE)
    path = settings.hub_dir / "models--org--name" / "trees" / f"{COMMIT}.json"
    assert catalog.tree("org/name", COMMIT) is not None
    path.write_bytes(path.read_bytes().replace(b"0" * 40, digest.encode()))

    assert catalog.tree("org/name", COMMIT) is None
