"""Names of GGUF files as their publishers really write them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.wire.gguf import matching, projector_for, projectors, quant_of, variants
from tests.support.listings import listed, shards

NAMES = {
    "Llama-3.2-3B-Instruct-Q4_K_M.gguf": "Q4_K_M",
    "mistral-7b-instruct-v0.2.Q5_K_S.gguf": "Q5_K_S",
    "Meta-Llama-3-8B-Instruct.i1-IQ2_XXS.gguf": "IQ2_XXS",
    "gemma-2b-it-q4_k_m.gguf": "Q4_K_M",
    "qwen2.5-7b-instruct-q3_k_m-00001-of-00002.gguf": "Q3_K_M",
    "Phi-3-mini-4k-instruct-q4.gguf": "Q4",
    "Phi-3-mini-4k-instruct-fp16.gguf": "F16",
    "model.f16.gguf": "F16",
    "ggml-model-f32.gguf": "F32",
    "Model-BF16.gguf": "BF16",
    "BF16/Model-BF16-00001-of-00003.gguf": "BF16",
    "Q6_K/Model-00001-of-00002.gguf": "Q6_K",
    "Llama-3.3-70B-Instruct-f16/Llama-3.3-70B-Instruct-f16-00002-of-00004.gguf": "F16",
    "Qwen3-30B-A3B-UD-Q4_K_XL.gguf": "UD-Q4_K_XL",
    "DeepSeek-R1-UD-IQ1_S/DeepSeek-R1-UD-IQ1_S-00001-of-00003.gguf": "UD-IQ1_S",
    "Llama-3.2-3B-Instruct-Q4_0_4_4.gguf": "Q4_0_4_4",
    "Model-Q4_0_8_8.gguf": "Q4_0_8_8",
    "Model-IQ4_NL.gguf": "IQ4_NL",
    "Model-IQ4_KSS.gguf": "IQ4_KSS",
    "Model-TQ1_0.gguf": "TQ1_0",
    "ggml-model-i2_s.gguf": "I2_S",
    "gpt-oss-20b-mxfp4.gguf": "MXFP4",
    "gpt-oss-20b-MXFP4_MOE.gguf": "MXFP4_MOE",
    "model_Q8_0.gguf": "Q8_0",
    "model.f16.q6.gguf": "Q6",
    "QwQ-32B-Q2_K_L.gguf": "Q2_K_L",
    "Qwen2-VL-7B-Instruct-Q6_K_L.gguf": "Q6_K_L",
    "mmproj-F16.gguf": "F16",
    "mmproj-model-bf16.gguf": "BF16",
    "Model-Q8_0.gguf.part1of2": "Q8_0",
    "Qwen2-7B.gguf": None,
    "model.gguf": None,
}


@pytest.mark.parametrize(("path", "quant"), NAMES.items())
def test_the_quantisation_is_read_from_the_name_or_the_folder(path: str, quant: str | None) -> None:
    assert quant_of(path) == quant


def test_shards_are_one_variant_in_their_order() -> None:
    names = list(shards("BF16/M-BF16-{}.gguf", 12))
    random.Random(1).shuffle(names)

    [variant] = variants(listed(*names))

    assert variant.name == "BF16"
    assert [file.path for file in variant.files] == sorted(names)
    assert variant.missing == 0
    assert variant.primary == "BF16/M-BF16-00001-of-00012.gguf"


def test_a_missing_shard_is_counted() -> None:
    [variant] = variants(listed(*shards("M-Q8_0-{}.gguf", 4)[1:]))

    assert variant.missing == 1


def test_projectors_and_importance_matrices_are_no_variants() -> None:
    files = listed("M-Q4_K_M.gguf", "mmproj-F16.gguf", "M.mmproj-Q8_0.gguf", "imatrix_unsloth.gguf", "M-imatrix.gguf")

    assert [variant.name for variant in variants(files)] == ["Q4_K_M"]
    assert [file.path for file in projectors(files)] == ["M.mmproj-Q8_0.gguf", "mmproj-F16.gguf"]


def test_a_quantisation_that_used_an_importance_matrix_is_a_variant() -> None:
    assert [v.name for v in variants(listed("Model-imatrix-Q4_K_M.gguf"))] == ["Q4_K_M"]


def test_a_variant_without_a_quantisation_is_named_like_its_file() -> None:
    assert [v.name for v in variants(listed("folder/Great-Model.gguf"))] == ["Great-Model"]


@pytest.mark.parametrize("ending", ["part1of2", "part01", "part-a", "split-a"])
def test_pieces_of_a_cut_file_are_marked(ending: str) -> None:
    separator = "-" if ending.startswith("split") else "."
    [variant] = variants(listed(f"M.Q8_0.gguf{separator}{ending}"))

    assert variant.name == "Q8_0"
    assert variant.raw_parts


@pytest.mark.parametrize("asked", ["q4_k_xl", "Q4_K_XL", "UD-Q4_K_XL", "ud-q4_k_xl"])
def test_a_dynamic_quantisation_is_found_with_and_without_its_prefix(asked: str) -> None:
    found = variants(listed("M-UD-Q4_K_XL.gguf", "M-Q4_K_M.gguf"))

    assert [variant.name for variant in matching(found, asked)] == ["UD-Q4_K_XL"]


def test_the_plain_quantisation_goes_before_the_dynamic_one() -> None:
    found = variants(listed("M-UD-Q2_K.gguf", "M-Q2_K.gguf"))

    assert [variant.name for variant in matching(found, "Q2_K")] == ["Q2_K"]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], "mmproj-F16.gguf"),
        (["mmproj-F32.gguf", "mmproj-BF16.gguf"], "mmproj-BF16.gguf"),
        (["mmproj-F32.gguf", "mmproj-Q8_0.gguf"], "mmproj-F32.gguf"),
        (["mmproj-Q8_0.gguf"], "mmproj-Q8_0.gguf"),
        (["mmproj-a-f16.gguf", "mmproj-b-f16.gguf"], "mmproj-a-f16.gguf"),
        (["other/mmproj-F16.gguf", "mmproj-F32.gguf"], "mmproj-F32.gguf"),
        ([], None),
    ],
)
def test_the_best_projector_goes_with_the_model(offered: list[str], chosen: str | None) -> None:
    files = listed("a-Q4_K_M.gguf", *offered)
    [variant] = [v for v in variants(files) if v.name == "Q4_K_M"]

    found = projector_for(variant, files)

    assert (found.path if found else None) == chosen


@given(st.lists(st.text(min_size=1, max_size=60), max_size=30, unique=True))
def test_no_name_breaks_the_grouping(names: list[str]) -> None:
    files = listed(*(f"{name}.gguf" for name in names))
    grouped = [file.path for variant in variants(files) for file in variant.files]

    assert len(grouped) == len(set(grouped))
    assert set(grouped) <= {file.path for file in files}
