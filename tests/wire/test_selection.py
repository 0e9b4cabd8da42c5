"""What a reference means in repositories as they are on the Hub."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub.utils._paths import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st

from hive.wire.selection import (
    AmbiguousVariant,
    ConflictingSelection,
    NoSuchFile,
    NoSuchVariant,
    PicklesOnly,
    Selection,
    filtered,
    select,
)
from tests.hub import listings
from tests.support.listings import listed, listing, shards

QUANTS = listing(listings.many_quants())
UNSLOTH = listing(listings.unsloth())


def paths(selection: Selection) -> list[str]:
    return [file.path for file in selection.files]


class TestGguf:
    """Repositories with GGUF files."""

    def test_q4_k_m_is_taken_where_nobody_says_what(self) -> None:
        selection = select(QUANTS)

        assert paths(selection) == ["Llama-3.2-3B-Instruct-Q4_K_M.gguf"]
        assert (selection.kind, selection.variant) == ("gguf", "Q4_K_M")
        assert selection.primary == "Llama-3.2-3B-Instruct-Q4_K_M.gguf"
        assert selection.size == 2_020_000_000

    def test_the_only_variant_is_taken_whatever_it_is(self) -> None:
        assert select(listed("README.md", "M-IQ1_S.gguf")).variant == "IQ1_S"
        assert paths(select(listed("model.gguf"))) == ["model.gguf"]

    def test_several_variants_without_the_default_are_listed_with_their_sizes(self) -> None:
        with pytest.raises(AmbiguousVariant, match=r"Q6_K \(0\.0 GB\), Q8_0") as caught:
            select(listed("M-Q8_0.gguf", "M-Q6_K.gguf"))

        assert caught.value.details["variants"] == [
            {"name": "Q6_K", "size": 1001, "files": ["M-Q6_K.gguf"]},
            {"name": "Q8_0", "size": 1000, "files": ["M-Q8_0.gguf"]},
        ]

    @pytest.mark.parametrize("asked", ["Q6_K", "q6_k"])
    def test_a_quantisation_is_found_in_any_case(self, asked: str) -> None:
        assert paths(select(QUANTS, quant=asked)) == ["Llama-3.2-3B-Instruct-Q6_K.gguf"]

    @pytest.mark.parametrize("asked", ["F16", "fp16"])
    def test_fp16_is_f16(self, asked: str) -> None:
        assert paths(select(QUANTS, quant=asked)) == ["Llama-3.2-3B-Instruct-f16.gguf"]

    def test_a_quantisation_that_is_not_there_names_those_that_are(self) -> None:
        with pytest.raises(NoSuchVariant) as caught:
            select(QUANTS, quant="Q5_1")

        assert not isinstance(caught.value, AmbiguousVariant)
        assert {variant["name"] for variant in caught.value.details["variants"]} >= {"Q4_K_M", "Q8_0", "F16"}

    def test_a_variant_has_all_its_shards_and_the_projector(self) -> None:
        selection = select(UNSLOTH, quant="BF16")

        model = "Qwen3-VL-30B-A3B-Instruct-BF16"
        assert sorted(paths(selection)) == [*shards(f"BF16/{model}-{{}}.gguf", 3), "mmproj-F16.gguf"]
        assert selection.primary == f"BF16/{model}-00001-of-00003.gguf"

    def test_shards_in_a_folder_named_like_the_file_are_found(self) -> None:
        selection = select(listing(listings.sharded_quants()), quant="Q8_0")

        assert len(selection.files) == 2
        assert selection.primary == ("Llama-3.3-70B-Instruct-Q8_0/Llama-3.3-70B-Instruct-Q8_0-00001-of-00002.gguf")

    def test_the_projector_can_be_excluded(self) -> None:
        assert paths(select(UNSLOTH, exclude=["mmproj*"])) == ["Qwen3-VL-30B-A3B-Instruct-Q4_K_M.gguf"]

    def test_missing_shards_are_an_error_that_says_so(self) -> None:
        with pytest.raises(NoSuchVariant, match=r"Q8_0 is not complete .* it lacks 1 of 3 shards"):
            select(listed(*shards("M-Q8_0-{}.gguf", 3)[:2]), quant="Q8_0")

    def test_of_a_complete_and_a_broken_variant_of_one_name_the_complete_is_taken(self) -> None:
        files = listed("old/M-Q8_0-00001-of-00002.gguf", "M-Q8_0.gguf")

        assert paths(select(files, quant="Q8_0")) == ["M-Q8_0.gguf"]

    def test_one_quantisation_of_two_models_is_ambiguous_and_names_the_files(self) -> None:
        with pytest.raises(AmbiguousVariant, match=r"a-Q4_K_M\.gguf, b-Q4_K_M\.gguf"):
            select(listed("a-Q4_K_M.gguf", "b-Q4_K_M.gguf"))

    def test_a_file_cut_into_pieces_is_refused_with_the_way_to_get_it(self) -> None:
        with pytest.raises(NoSuchVariant, match="include"):
            select(listed("M.Q8_0.gguf.part1of2", "M.Q8_0.gguf.part2of2"), quant="Q8_0")

    def test_a_quantisation_of_a_repository_without_gguf_does_not_exist(self) -> None:
        with pytest.raises(NoSuchVariant, match="no GGUF"):
            select(listing(listings.single_safetensors()), quant="Q4_K_M")


class TestSnapshot:
    """Repositories of other weights."""

    def test_a_snapshot_is_taken_without_its_duplicates(self) -> None:
        selection = select(listing(listings.sharded_safetensors()))

        assert [path for path in paths(selection) if "safetensors" in path] == [
            *shards("model-{}.safetensors", 4),
            "model.safetensors.index.json",
        ]
        assert not [path for path in paths(selection) if path.endswith((".bin", ".pth", ".onnx", ".h5", ".msgpack"))]
        assert {"config.json", "tokenizer.json", "README.md"} <= set(paths(selection))
        assert (selection.kind, selection.variant, selection.primary) == ("snapshot", None, None)

    def test_a_pipeline_in_folders_is_taken_without_its_duplicates(self) -> None:
        chosen = paths(select(listing(listings.diffusers())))

        assert "unet/diffusion_pytorch_model.safetensors" in chosen
        assert not [path for path in chosen if "fp16" in path or path.endswith((".msgpack", ".onnx"))]
        assert "scheduler/scheduler_config.json" in chosen

    def test_a_repository_of_one_file_is_opened_at_that_file(self) -> None:
        assert select(listed("model.safetensors")).primary == "model.safetensors"

    def test_an_empty_repository_has_nothing_to_fetch(self) -> None:
        with pytest.raises(NoSuchFile, match="empty"):
            select(())


class TestFilesAndPatterns:
    """One path, include and exclude."""

    def test_a_path_means_that_file_alone(self) -> None:
        selection = select(UNSLOTH, path="mmproj-F32.gguf")

        assert paths(selection) == ["mmproj-F32.gguf"]
        assert (selection.kind, selection.primary) == ("file", "mmproj-F32.gguf")

    def test_a_path_that_does_not_exist_names_what_is_like_it(self) -> None:
        with pytest.raises(NoSuchFile, match="Did you mean") as caught:
            select(QUANTS, path="Llama-3.2-3B-Instruct-Q4_K_N.gguf")

        assert "Llama-3.2-3B-Instruct-Q4_K_M.gguf" in caught.value.details["similar"]
        assert len(caught.value.details["similar"]) <= 5

    def test_include_means_exactly_what_matches(self) -> None:
        files = listing(listings.sharded_safetensors())

        assert paths(select(files, include=["*.pth", "onnx/"], exclude=["original/"])) == [
            "consolidated.00.pth",
            "onnx/config.json",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "onnx/model_quantized.onnx",
        ]

    def test_the_matches_of_several_files_are_opened_at_the_folder(self) -> None:
        assert select(QUANTS, include=["*Q4_K_*"]).primary is None

    def test_matches_that_are_one_sharded_model_are_opened_at_the_first_shard(self) -> None:
        selection = select(UNSLOTH, include=["BF16/"])

        assert selection.primary == "BF16/Qwen3-VL-30B-A3B-Instruct-BF16-00001-of-00003.gguf"
        assert selection.variant == "BF16"

    def test_exclude_takes_from_what_would_be_chosen(self) -> None:
        chosen = paths(select(listed("config.json", "model.safetensors", "README.md"), exclude=["*.md"]))

        assert chosen == ["config.json", "model.safetensors"]

    @pytest.mark.parametrize(("include", "exclude"), [(("*.exe",), ()), ((), ("*",)), (("*.md",), ("README*",))])
    def test_nothing_left_is_an_error(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
        with pytest.raises(NoSuchFile, match="nothing to fetch"):
            select(QUANTS, include=include, exclude=exclude)

    @pytest.mark.parametrize("asked", [{"path": "README.md"}, {"quant": "Q4_K_M"}])
    def test_include_beside_a_file_or_a_quantisation_is_refused(self, asked: dict[str, str]) -> None:
        with pytest.raises(ConflictingSelection):
            select(QUANTS, include=["*"], path=asked.get("path"), quant=asked.get("quant"))

    @given(
        st.lists(st.sampled_from(["a/", "*.json", "*", "a/b/*", "[ab]*", "A*", "?.txt", "a"]), max_size=4),
        st.lists(st.sampled_from(["a/", "*.json", "b?", "a/b/", "*.TXT"]), max_size=4),
    )
    def test_patterns_match_as_in_huggingface_hub(self, include: list[str], exclude: list[str]) -> None:
        files = listed("a/b/c.json", "a/x.txt", "A.json", "a", "b1", "x.txt", "a.TXT", "d/a/y.json")
        theirs = filter_repo_objects(
            [file.path for file in files], allow_patterns=include or None, ignore_patterns=exclude or None
        )

        assert [file.path for file in filtered(files, include, exclude)] == list(theirs)


#: A model with what its trainer has left beside it, and a part of it in a folder that has pickles alone.
TRAINED = (
    *("config.json", "model.safetensors", "training_args.bin", "optimizer.pt", "rng_state_0.pth", "state.pkl"),
    *("vocab.bin", "voices/a.pt"),
)
OLD = ("config.json", "pytorch_model.bin", "tokenizer.json")


class TestPickles:
    """Files that may run code when they are read."""

    def test_they_stay_away_where_safe_weights_lie_beside_them(self) -> None:
        expected = ["config.json", "model.safetensors", "vocab.bin", "voices/a.pt"]
        assert sorted(paths(select(listed(*TRAINED)))) == expected

    def test_a_repository_with_nothing_else_comes_as_ever(self) -> None:
        assert paths(select(listed(*OLD))) == list(OLD)

    def test_who_wants_them_all_gets_them_all(self) -> None:
        assert paths(select(listed(*TRAINED), pickles="always")) == list(TRAINED)

    def test_who_wants_none_gets_none_and_is_told_where_nothing_is_left(self) -> None:
        assert paths(select(listed(*TRAINED), pickles="never")) == ["config.json", "model.safetensors", "vocab.bin"]
        with pytest.raises(PicklesOnly, match=r"pytorch_model\.bin.*HIVE_ALLOW_PICKLES"):
            select(listed(*OLD), pickles="never")

    @pytest.mark.parametrize(
        "name",
        [
            *("a.PT", "a.pt2", "a.pth.tar", "a.pkl.gz", "a.p", "a.pk", "a.cloudpickle", "a.pyth", "a.th", "a.mar"),
            *("a.sav", "a.pdparams", "a.distcp", "a.nemo", "a.pickle.tar.bz2", "pytorch_lora_weights.bin"),
            *("learned_embeds.bin", "ip-adapter_sd15.bin", "mm_projector.bin", "Optimizer_0.bin"),
        ],
    )
    def test_they_are_known_by_the_names_that_programs_give_them(self, name: str) -> None:
        assert paths(select(listed("model.safetensors", name))) == ["model.safetensors"]
        others = ["model.safetensors", "vocab.gz", "model.bin", "a.tar"]
        assert sorted(paths(select(listed(*others)))) == sorted(others)

    @pytest.mark.parametrize("pickles", ["auto", "never"])
    def test_what_is_named_comes(self, pickles: Any) -> None:
        assert paths(select(listed(*OLD), path="pytorch_model.bin", pickles=pickles)) == ["pytorch_model.bin"]
        assert paths(select(listed(*TRAINED), include=["*.pt"], pickles=pickles)) == ["optimizer.pt", "voices/a.pt"]

    def test_a_folder_is_judged_as_a_repository(self) -> None:
        inside = listed("a/model.safetensors", "a/optimizer.pt", "b/model.pt")
        assert paths(select(inside, path="a")) == ["a/model.safetensors"]
        assert paths(select(inside, path="b")) == ["b/model.pt"]
        with pytest.raises(PicklesOnly):
            select(listed("b/pytorch_model.bin", "c"), path="b/", pickles="never")
