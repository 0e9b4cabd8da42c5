"""The listings look like what is on the Hub, and can be made small enough to be fetched."""

import json
import re
from collections.abc import Callable

import pytest

from tests.hub import HubServer, Repo, listings
from tests.hub.content import read_all
from tests.hub.fixtures import hub as hub
from tests.hub.listings.build import GB
from tests.hub.probe import probe

SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")

LARGE: list[Callable[..., Repo]] = [
    listings.many_quants,
    listings.sharded_quants,
    listings.unsloth,
    listings.sharded_safetensors,
    listings.single_safetensors,
    listings.diffusers,
]


def paths(repo: Repo) -> set[str]:
    """All paths of the main branch."""
    return set(repo.at("main").files)


@pytest.mark.parametrize("make", LARGE)
def test_shards_are_complete_and_weights_are_lfs(make: Callable[..., Repo]) -> None:
    files = make().at("main").files
    for path in files:
        if match := SHARD.fullmatch(path):
            stem, _, count, suffix = match.groups()
            assert all(f"{stem}-{number:05d}-of-{count}{suffix}" in files for number in range(1, int(count) + 1))
    weights = [entry for path, entry in files.items() if path.endswith((".gguf", ".safetensors", ".bin", ".pth"))]
    assert weights
    assert all(entry.lfs for entry in weights)


@pytest.mark.parametrize("make", LARGE)
def test_a_listing_can_be_made_small_enough_to_fetch(make: Callable[..., Repo], hub: HubServer) -> None:
    repo = hub.add(make(served_bytes=10_000))
    assert paths(repo) == paths(make())
    entry = next(entry for path, entry in repo.at("main").files.items() if path.endswith((".gguf", ".safetensors")))
    got = probe(probe(hub.resolve_url(repo, entry.path)).headers["location"])
    assert got.body == read_all(entry.content)
    assert len(got.body) == 10_000


def test_a_repository_of_quants_has_many_of_true_size_and_traps_beside_them() -> None:
    files = listings.many_quants().at("main").files
    assert files["Llama-3.2-3B-Instruct-Q4_K_M.gguf"].size == int(2.02 * GB)
    assert {"Llama-3.2-3B-Instruct-imatrix.gguf", "imatrix.dat", "README.md"} <= set(files)
    assert sum(path.endswith(".gguf") for path in files) == 18


def test_large_quants_lie_in_folders_and_in_shards() -> None:
    files = paths(listings.sharded_quants())
    assert "Llama-3.3-70B-Instruct-Q8_0/Llama-3.3-70B-Instruct-Q8_0-00001-of-00002.gguf" in files
    assert "Llama-3.3-70B-Instruct-Q4_K_M.gguf" in files


def test_the_dynamic_quants_come_with_projectors_and_sharded_bf16() -> None:
    files = paths(listings.unsloth())
    assert {"mmproj-F16.gguf", "mmproj-BF16.gguf", "imatrix_unsloth.dat"} <= files
    assert "BF16/Qwen3-VL-30B-A3B-Instruct-BF16-00003-of-00003.gguf" in files
    assert "Qwen3-VL-30B-A3B-Instruct-UD-Q4_K_XL.gguf" in files


def test_the_index_of_sharded_safetensors_names_every_shard() -> None:
    repo = listings.sharded_safetensors()
    index = json.loads(read_all(repo.file("model.safetensors.index.json").content))
    assert set(index["weight_map"].values()) == {p for p in paths(repo) if re.fullmatch(r"model-\d.*\.safetensors", p)}
    duplicates = {"consolidated.00.pth", "original/consolidated.00.pth", "tf_model.h5", "model.fp16.safetensors"}
    assert duplicates < paths(repo)
    total = sum(entry.size for entry in repo.at("main").files.values())
    assert total > 100 * GB


def test_small_files_are_as_many_as_asked_for_and_all_different() -> None:
    files = listings.small_files(350).at("main").files
    assert len(files) == len({entry.oid for entry in files.values()}) == 350
    assert not any(entry.lfs for entry in files.values())
