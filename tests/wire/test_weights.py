"""What is left of a repository without the weights that it holds twice."""

from __future__ import annotations

import tracemalloc

import pytest

from hive.wire.weights import absent_shards, are_weights_whole, is_weights, missing_shards, without_duplicates
from tests.support.listings import shards


@pytest.mark.parametrize(
    "duplicate",
    [
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "adapter_model.bin",
        "consolidated.00.pth",
        "consolidated.safetensors",
        "original/consolidated.00.pth",
        "original/params.json",
        "flax_model.msgpack",
        "tf_model.h5",
        "model.ckpt",
        "rust_model.ot",
        "model.tflite",
        "model.onnx",
        "model.onnx_data",
        "onnx/model_quantized.onnx",
        "onnx/config.json",
        "openvino/openvino_model.xml",
        "openvino_model.bin",
        "coreml/fill-mask/float32_model.mlpackage/Data/com.apple.CoreML/model.mlmodel",
        "Model.mlpackage/Manifest.json",
        "metal/model.bin",
        "model.fp16.safetensors",
        "model.fp32-00001-of-00002.safetensors",
        "model.safetensors.index.fp32.json",
    ],
)
def test_what_duplicates_safetensors_is_left_out(duplicate: str) -> None:
    assert without_duplicates(["config.json", duplicate, "model.safetensors"]) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    "kept",
    ["tokenizer.model", "training_args.bin", "scheduler.pt", "vocab.bin", "model.safetensors.index.json", "README.md"],
)
def test_what_is_no_duplicate_stays(kept: str) -> None:
    assert without_duplicates([kept, "model.safetensors"]) == [kept, "model.safetensors"]


def test_a_variant_stays_where_the_plain_file_is_not_there() -> None:
    files = ["unet/model.fp16.safetensors", "vae/model.fp16.safetensors", "vae/model.safetensors"]

    assert without_duplicates(files) == ["unet/model.fp16.safetensors", "vae/model.safetensors"]


def test_a_folder_without_safetensors_keeps_its_weights() -> None:
    files = ["text_encoder/model.safetensors", "text_encoder/pytorch_model.bin", "vae/pytorch_model.bin"]

    assert without_duplicates(files) == ["text_encoder/model.safetensors", "vae/pytorch_model.bin"]


def test_without_safetensors_pytorch_is_kept_alone() -> None:
    files = ["config.json", "flax_model.msgpack", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"]

    assert without_duplicates(files) == ["config.json", "pytorch_model.bin"]


def test_a_format_that_lacks_a_shard_pushes_nothing_out() -> None:
    files = [*shards("model-{}.safetensors", 3)[:2], "pytorch_model.bin"]
    assert without_duplicates(files) == files

    torch = [*shards("pytorch_model-{}.bin", 3)[:2], "tf_model.h5"]
    assert without_duplicates(torch) == ["tf_model.h5"]


@pytest.mark.parametrize(
    "files",
    [
        ["original/consolidated.00.pth", "original/params.json", "README.md"],
        ["consolidated.safetensors", "params.json", "tekken.json"],
        ["config.json", "onnx/model.onnx", "onnx/model_q4.onnx", "tokenizer.json"],
        ["weights.npz", "config.json"],
        ["model.bin", "vocabulary.txt", "config.json"],
    ],
)
def test_a_repository_of_one_format_is_left_whole(files: list[str]) -> None:
    assert without_duplicates(files) == files


def test_shards_of_several_sets_are_counted_apart() -> None:
    assert missing_shards([*shards("a-{}.bin", 3), *shards("b-{}.bin", 2)]) == 0
    assert missing_shards(["a-00001-of-00003.bin", "b-00002-of-00002.bin"]) == 3
    assert missing_shards(["config.json"]) == 0


def test_sets_that_say_a_large_total_cost_no_more_than_others() -> None:
    lone = [f"{number}-00001-of-99999.safetensors" for number in range(100)]
    tracemalloc.start()
    try:
        assert missing_shards(lone) == 100 * 99_998
        assert absent_shards(lone, 1)[0] == "0-00002-of-99999.safetensors"
        assert not are_weights_whole(lone)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20


def test_weights_are_told_from_the_rest() -> None:
    assert is_weights("unet/model.safetensors")
    assert is_weights("pytorch_model.bin")
    assert not is_weights("tokenizer.json")
    assert not is_weights("README.md")
