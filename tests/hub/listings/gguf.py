"""Repositories of GGUF quantisations, in the ways in which their best known makers lay them out."""

from tests.hub.listings.build import GB, MB, build, shards
from tests.hub.repo import Repo

#: Gigabytes of a model of 3 billion parameters in each quantisation.
QUANTS_3B_GB = {
    "IQ3_M": 1.60,
    "IQ4_XS": 1.83,
    "Q3_K_L": 1.82,
    "Q3_K_XL": 1.91,
    "Q4_0": 1.92,
    "Q4_0_4_4": 1.92,
    "Q4_0_8_8": 1.92,
    "Q4_K_S": 1.93,
    "Q4_K_M": 2.02,
    "Q4_K_L": 2.11,
    "Q5_K_S": 2.27,
    "Q5_K_M": 2.32,
    "Q5_K_L": 2.42,
    "Q6_K": 2.64,
    "Q6_K_L": 2.74,
    "Q8_0": 3.42,
    "f16": 6.43,
}

#: Gigabytes of a model of 70 billion parameters: those above 50 are split and lie in folders of their own.
QUANTS_70B_GB = {
    "IQ1_M": 16.75,
    "IQ2_XXS": 19.10,
    "Q2_K": 26.38,
    "Q3_K_M": 34.27,
    "IQ4_XS": 37.90,
    "Q4_K_S": 40.35,
    "Q4_K_M": 42.52,
    "Q5_K_S": 48.66,
    "Q5_K_M": 49.95,
    "Q6_K": 57.89,
    "Q8_0": 74.98,
    "f16": 141.12,
}

#: Gigabytes of a mixture of experts with 30 billion parameters; UD- are the maker's own dynamic quantisations.
QUANTS_30B_GB = {
    "IQ4_NL": 17.31,
    "IQ4_XS": 16.38,
    "Q2_K": 11.26,
    "Q3_K_M": 14.71,
    "Q4_0": 17.38,
    "Q4_1": 19.19,
    "Q4_K_M": 18.56,
    "Q4_K_S": 17.46,
    "Q5_K_M": 21.73,
    "Q6_K": 25.09,
    "Q8_0": 32.48,
    "UD-IQ1_S": 8.30,
    "UD-IQ2_XXS": 10.33,
    "UD-Q2_K_XL": 11.80,
    "UD-Q3_K_XL": 13.80,
    "UD-Q4_K_XL": 17.72,
    "UD-Q8_K_XL": 35.99,
}

#: Gigabytes above which a file is split.
SPLIT_OVER_GB = 50


def many_quants(name: str = "bartowski/Llama-3.2-3B-Instruct-GGUF", *, served_bytes: int | None = None) -> Repo:
    """One file per quantisation at the root, the importance matrix twice (one of them ends in .gguf), a README."""
    model = name.partition("/")[2].removesuffix("-GGUF")
    sizes: dict[str, int | float] = {f"{model}-{quant}.gguf": gb * GB for quant, gb in QUANTS_3B_GB.items()}
    sizes |= {f"{model}.imatrix": 2.99 * MB, "imatrix.dat": 2.99 * MB, f"{model}-imatrix.gguf": 3.1 * MB}
    return build(name, sizes, {"README.md": b"# Quantisations\n"}, served_bytes=served_bytes)


def sharded_quants(name: str = "bartowski/Llama-3.3-70B-Instruct-GGUF", *, served_bytes: int | None = None) -> Repo:
    """Small quantisations at the root, those over 50 GB in folders of their own, in shards."""
    model = name.partition("/")[2].removesuffix("-GGUF")
    sizes: dict[str, int | float] = {f"{model}.imatrix": 24.9 * MB}
    for quant, gb in QUANTS_70B_GB.items():
        if gb > SPLIT_OVER_GB:
            pattern = f"{model}-{quant}/{model}-{quant}-{{}}.gguf"
            sizes |= shards(pattern, gb * GB, int(gb // 40) + 1)
        else:
            sizes[f"{model}-{quant}.gguf"] = gb * GB
    return build(name, sizes, {"README.md": b"# Quantisations\n"}, served_bytes=served_bytes)


def unsloth(name: str = "unsloth/Qwen3-VL-30B-A3B-Instruct-GGUF", *, served_bytes: int | None = None) -> Repo:
    """UD- quantisations beside plain ones, BF16 in a folder and in shards, and three vision projectors."""
    model = name.partition("/")[2].removesuffix("-GGUF")
    sizes: dict[str, int | float] = {f"{model}-{quant}.gguf": gb * GB for quant, gb in QUANTS_30B_GB.items()}
    sizes |= shards(f"BF16/{model}-BF16-{{}}.gguf", 61.1 * GB, 3)
    sizes |= {"mmproj-BF16.gguf": 1.09 * GB, "mmproj-F16.gguf": 1.08 * GB, "mmproj-F32.gguf": 2.16 * GB}
    sizes["imatrix_unsloth.dat"] = 122 * MB
    return build(name, sizes, {"README.md": b"# Dynamic\n", "config.json": b"{}\n"}, served_bytes=served_bytes)
