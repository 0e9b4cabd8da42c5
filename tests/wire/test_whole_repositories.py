"""What a repository is, judged as a whole: listings as publishers make them, and what a bare name of each means."""

from __future__ import annotations

import pytest

from hive.wire.selection import AmbiguousVariant, NoSuchFile, NoSuchVariant, RepoFile, select
from tests.support.listings import listed

MB, GB = 10**6, 10**9

#: A name for the listing, its files with their sizes, the files that the repository's bare name means, and what is
#: opened (None: the folder).
LISTINGS: list[tuple[str, dict[str, int], list[str], str | None]] = [
    (
        "a tokenizer in GGUF beside safetensors",
        {"config.json": 500, "model.safetensors": 900_000, "tokenizer.gguf": 50_000},
        ["config.json", "model.safetensors", "tokenizer.gguf"],
        None,
    ),
    (
        "a copy in GGUF beside complete shards",
        {
            "config.json": 500,
            "model-00001-of-00002.safetensors": 4_900 * MB,
            "model-00002-of-00002.safetensors": 100 * MB,
            "model.safetensors.index.json": 20_000,
            "gemma-2b.gguf": 10_000 * MB,
        },
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ],
        None,
    ),
    (
        "a quantisation of four bits beside half precision",
        {"config.json": 1, "model.safetensors": 16 * GB, "model-Q4_K_M.gguf": 4_900 * MB},
        ["config.json", "model.safetensors"],
        None,
    ),
    (
        "pickles beside GGUF",
        {"config.json": 1, "pytorch_model.bin": 5 * GB, "m-Q8_0.gguf": 3 * GB},
        ["config.json", "pytorch_model.bin"],
        None,
    ),
    (
        "shards that are not complete beside GGUF",
        {"model-00001-of-00002.safetensors": 5 * GB, "m-Q8_0.gguf": 8 * GB},
        ["m-Q8_0.gguf"],
        "m-Q8_0.gguf",
    ),
    (
        "an adapter in safetensors beside the merged GGUF",
        {"adapter_config.json": 1, "adapter_model.safetensors": 100 * MB, "merged-Q4_K_M.gguf": 5 * GB},
        ["merged-Q4_K_M.gguf"],
        "merged-Q4_K_M.gguf",
    ),
    (
        "drafts of the model in folders and by name",
        {
            "g-Q8_0.gguf": 8 * GB,
            "g-Q4_K_M.gguf": 4 * GB,
            "MTP/g-Q8_0-MTP.gguf": 800 * MB,
            "mtp-g-Q4_K_M.gguf": 400 * MB,
            "draft/g-Q4_K_M.gguf": 300 * MB,
            "g-eagle3-Q4_K_M.gguf": 300 * MB,
        },
        ["g-Q4_K_M.gguf"],
        "g-Q4_K_M.gguf",
    ),
    (
        "one model with everything that helps it",
        {
            "m-Q5_K_S.gguf": 5 * GB,
            "mmproj-m-F16.gguf": 800 * MB,
            "m.imatrix.gguf": 4 * MB,
            "lora-style-f16.gguf": 50 * MB,
            "ggml-vocab-m.gguf": 2 * MB,
            "control-vector-happy.gguf": 1 * MB,
        },
        ["m-Q5_K_S.gguf", "mmproj-m-F16.gguf"],
        "m-Q5_K_S.gguf",
    ),
    (
        "a repository of drafts only",
        {"Llama-EAGLE3-Q4_K_M.gguf": 500 * MB, "Llama-EAGLE3-Q8_0.gguf": 900 * MB},
        ["Llama-EAGLE3-Q4_K_M.gguf"],
        "Llama-EAGLE3-Q4_K_M.gguf",
    ),
    (
        "an adapter in GGUF alone",
        {"lora-adapter-F16.gguf": 90 * MB, "README.md": 1},
        ["lora-adapter-F16.gguf"],
        "lora-adapter-F16.gguf",
    ),
    (
        "a vocabulary alone",
        {"ggml-vocab-llama.gguf": 2 * MB},
        ["ggml-vocab-llama.gguf"],
        "ggml-vocab-llama.gguf",
    ),
    (
        "names of Windows' devices",
        {"config.json": 1, "model.safetensors": MB, "aux/x.json": 1, "nul.py": 1},
        ["aux/x.json", "config.json", "model.safetensors", "nul.py"],
        None,
    ),
    (
        "endings in capitals",
        {"CONFIG.JSON": 1, "Model-Q4_K_M.GGUF": GB, "MMPROJ-F16.GGUF": MB},
        ["MMPROJ-F16.GGUF", "Model-Q4_K_M.GGUF"],
        "Model-Q4_K_M.GGUF",
    ),
    (
        "a diffusion pipeline",
        {
            "model_index.json": 1,
            "unet/config.json": 1,
            "unet/diffusion_pytorch_model.safetensors": 5 * GB,
            "unet/diffusion_pytorch_model.bin": 5 * GB,
            "vae/diffusion_pytorch_model.safetensors": 300 * MB,
            "vae/diffusion_pytorch_model.fp16.safetensors": 150 * MB,
            "text_encoder/model.safetensors": GB,
        },
        [
            "model_index.json",
            "text_encoder/model.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        ],
        None,
    ),
    (
        "a pipeline with a quantised unet beside",
        {
            "model_index.json": 1,
            "transformer/diffusion_pytorch_model.safetensors": 23 * GB,
            "vae/diffusion_pytorch_model.safetensors": 300 * MB,
            "flux-Q4_0.gguf": 7 * GB,
        },
        [
            "model_index.json",
            "transformer/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        ],
        None,
    ),
    (
        "ONNX alone",
        {"config.json": 1, "onnx/model.onnx": GB, "onnx/model.onnx_data": 3 * GB},
        ["config.json", "onnx/model.onnx", "onnx/model.onnx_data"],
        None,
    ),
    (
        "a sentence transformer in many formats",
        {
            "config.json": 1,
            "modules.json": 1,
            "1_Pooling/config.json": 1,
            "2_Dense/model.safetensors": MB,
            "2_Dense/pytorch_model.bin": MB,
            "model.safetensors": 90 * MB,
            "pytorch_model.bin": 90 * MB,
            "tf_model.h5": 90 * MB,
            "rust_model.ot": 90 * MB,
            "onnx/model.onnx": 90 * MB,
            "openvino/openvino_model.bin": 90 * MB,
            "openvino/openvino_model.xml": MB,
        },
        [
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "config.json",
            "model.safetensors",
            "modules.json",
        ],
        None,
    ),
    (
        "OpenVINO alone",
        {"openvino_model.bin": GB, "openvino_model.xml": 1, "config.json": 1},
        ["config.json", "openvino_model.bin", "openvino_model.xml"],
        None,
    ),
    (
        "MLX",
        {"config.json": 1, "model.safetensors": 2 * GB, "model.safetensors.index.json": 1},
        ["config.json", "model.safetensors", "model.safetensors.index.json"],
        None,
    ),
    (
        "a projector alone",
        {"README.md": 1, "mmproj-model-f16.gguf": 600 * MB},
        ["README.md", "mmproj-model-f16.gguf"],
        None,
    ),
    (
        "an importance matrix alone",
        {"imatrix.gguf": 5 * MB},
        ["imatrix.gguf"],
        "imatrix.gguf",
    ),
    (
        "shards that are counted from zero",
        {"config.json": 1, "model-00000-of-00002.safetensors": GB, "model-00001-of-00002.safetensors": GB},
        ["config.json", "model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"],
        None,
    ),
    (
        "GGUF shards that are counted from zero",
        {"m-Q4_K_M-00000-of-00002.gguf": GB, "m-Q4_K_M-00001-of-00002.gguf": GB},
        ["m-Q4_K_M-00000-of-00002.gguf", "m-Q4_K_M-00001-of-00002.gguf"],
        "m-Q4_K_M-00000-of-00002.gguf",
    ),
    (
        "a checkpoint in the making beside the model",
        {"model.safetensors": GB, "checkpoint-5/model-00001-of-00002.safetensors": GB},
        ["checkpoint-5/model-00001-of-00002.safetensors", "model.safetensors"],
        None,
    ),
    (
        "an adapter",
        {"adapter_config.json": 1, "adapter_model.safetensors": 50 * MB, "adapter_model.bin": 50 * MB},
        ["adapter_config.json", "adapter_model.safetensors"],
        None,
    ),
]


def files_of(sizes: dict[str, int]) -> list[RepoFile]:
    return [RepoFile(path, size, "0" * 40) for path, size in sizes.items()]


@pytest.mark.parametrize(("name", "sizes", "meant", "opened"), LISTINGS, ids=[name for name, *_ in LISTINGS])
def test_a_bare_name_means_the_model(name: str, sizes: dict[str, int], meant: list[str], opened: str | None) -> None:
    selection = select(files_of(sizes))

    assert sorted(file.path for file in selection.files) == meant
    assert selection.primary == opened


class TestFolders:
    """A path that is a folder: what lies below it."""

    FILES = listed(
        "README.md",
        "UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00002.gguf",
        "UD-Q4_K_XL/m-UD-Q4_K_XL-00002-of-00002.gguf",
        "Q8_0/m-Q8_0.gguf",
        "mmproj-F16.gguf",
        "original/params.json",
        "original/consolidated.pth",
        "Q8_0.txt",
    )

    @pytest.mark.parametrize("path", ["UD-Q4_K_XL/", "UD-Q4_K_XL"])
    def test_the_folder_of_a_variant_is_that_variant(self, path: str) -> None:
        selection = select(self.FILES, path=path)

        assert (selection.kind, selection.variant) == ("gguf", "UD-Q4_K_XL")
        assert [file.path for file in selection.files] == [
            *("UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00002.gguf", "UD-Q4_K_XL/m-UD-Q4_K_XL-00002-of-00002.gguf"),
            "mmproj-F16.gguf",
        ]

    def test_any_other_folder_is_all_that_lies_below_it(self) -> None:
        selection = select(self.FILES, path="original/")

        assert [file.path for file in selection.files] == ["original/params.json", "original/consolidated.pth"]
        assert selection.primary == "original"

    def test_a_name_is_a_file_before_it_is_a_folder_and_a_folder_s_is_not(self) -> None:
        files = listed("both", "both/inside.txt")

        assert [file.path for file in select(files, path="both").files] == ["both"]
        assert [file.path for file in select(files, path="both/").files] == ["both/inside.txt"]

    def test_a_folder_that_does_not_exist_is_a_file_that_does_not(self) -> None:
        with pytest.raises(NoSuchFile, match="Q9"):
            select(self.FILES, path="Q9/")


@pytest.mark.parametrize(
    "part",
    [
        *(".gguf.part1of2", ".gguf.part2of2", ".gguf-part-a", ".gguf.part-01", ".gguf-split-a", ".gguf_part_1"),
        *(".gguf.001", ".gguf.aa", ".gguf.split01", ".GGUF.PART1OF2"),
    ],
)
def test_pieces_that_somebody_has_to_join_are_no_model(part: str) -> None:
    with pytest.raises(NoSuchVariant, match="join"):
        select(listed(f"m-Q8_0{part}"))


@pytest.mark.parametrize("ending", [".gguf.md", ".gguf.json", ".gguf.sha256", ".gguf.txt"])
def test_what_only_speaks_of_a_gguf_file_is_none(ending: str) -> None:
    selection = select(listed("model.safetensors", f"m-Q8_0{ending}"))

    assert selection.kind == "snapshot"


def test_a_quantisation_is_the_main_model_s_and_a_helper_is_named_by_its_path() -> None:
    files = listed("g-Q8_0.gguf", "MTP/g-Q8_0-MTP.gguf", "mtp-g-Q8_0.gguf")

    assert [file.path for file in select(files, quant="Q8_0").files] == ["g-Q8_0.gguf"]
    assert [file.path for file in select(files, path="MTP/g-Q8_0-MTP.gguf").files] == ["MTP/g-Q8_0-MTP.gguf"]


def test_two_models_of_one_quantisation_are_a_question() -> None:
    with pytest.raises(AmbiguousVariant, match="2 times"):
        select(listed("alpha-Q8_0.gguf", "beta-Q8_0.gguf"), quant="Q8_0")


def test_a_quantisation_is_taken_from_a_repository_of_other_weights_too() -> None:
    files = files_of({"model.safetensors": 16 * GB, "m-Q4_K_M.gguf": 4 * GB, "m-Q8_0.gguf": 8 * GB})

    assert [file.path for file in select(files, quant="Q8_0").files] == ["m-Q8_0.gguf"]


@pytest.mark.parametrize(
    "lacking",
    [
        ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors", "model.safetensors.index.json"],
        ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "config.json"],
        ["config.json", "model-00000-of-00003.safetensors", "model-00001-of-00003.safetensors"],
        ["a/model-00001-of-00002.safetensors", "b/model-00002-of-00002.safetensors"],
    ],
)
def test_a_model_whose_shards_are_not_all_there_is_not_brought_as_if_it_were_whole(lacking: list[str]) -> None:
    with pytest.raises(NoSuchFile, match="not complete in the repository: it lacks"):
        select(listed(*lacking))

    assert len(select(listed(*lacking), include=["*"]).files) == len(lacking)


@pytest.mark.parametrize(
    "shards",
    [
        ["M-Q8_0-00001-OF-00002.gguf", "M-Q8_0-00002-OF-00002.gguf"],
        ["m-Q8_0-1of2.gguf", "m-Q8_0-2of2.gguf"],
        ["m.Q8_0-0001-of-0002.gguf", "m.Q8_0-0002-of-0002.gguf"],
        ["m-Q8_0_1-of-2.gguf", "m-Q8_0_2-of-2.gguf"],
        ["m-Q8_0.gguf-00001-of-00002.gguf", "m-Q8_0.gguf-00002-of-00002.gguf"],
    ],
)
def test_shards_are_one_model_however_they_are_numbered(shards: list[str]) -> None:
    assert [file.path for file in select(listed(*shards)).files] == shards

    with pytest.raises(NoSuchVariant, match="it lacks"):
        select(listed(shards[0]))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("i1-Q4_K_M", "m.i1-Q4_K_M.gguf"),
        ("LLAMA-13B.Q4_0", "llama-13b.Q4_0.gguf"),
        ("big-F16", "big-F16/big-F16-00001-of-00001.gguf"),
    ],
)
def test_a_quantisation_may_be_written_as_the_file_s_name_ends(asked: str, found: str) -> None:
    files = listed(
        "m.i1-Q4_K_M.gguf", "llama-7b.Q4_0.gguf", "llama-13b.Q4_0.gguf", "big-F16/big-F16-00001-of-00001.gguf"
    )

    assert select(files, quant=asked).primary == found


@pytest.mark.parametrize("asked", ["M", "K_M", "3b.Q4_0", "GGUF"])
def test_a_part_of_a_quantisation_is_none(asked: str) -> None:
    with pytest.raises(NoSuchVariant, match="has no"):
        select(listed("m.i1-Q4_K_M.gguf", "llama-13b.Q4_0.gguf"), quant=asked)


@pytest.mark.parametrize("path", ["*Q8_0.gguf", "*.gguf", "m-?.gguf", "[ab].gguf"])
def test_a_pattern_in_place_of_a_file_says_where_patterns_go(path: str) -> None:
    with pytest.raises(NoSuchFile, match="--include"):
        select(listed("m-Q8_0.gguf"), path=path)
