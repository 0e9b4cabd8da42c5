"""Repositories of safetensors weights, with the other formats in which the same weights are often repeated."""

import json

from tests.hub.listings.build import GB, MB, build, shards
from tests.hub.repo import Repo

#: The small files that make a model usable.
TEXTS = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "LICENSE": b"Apache License 2.0\n",
    "config.json": b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}\n',
    "generation_config.json": b'{"do_sample": true}\n',
    "special_tokens_map.json": b"{}\n",
    "tokenizer_config.json": b'{"model_max_length": 131072}\n',
}

#: Small enough for git, and yet listed by size only.
TOKENIZER_BYTES = 9_085_657


def sharded_safetensors(name: str = "meta-llama/Llama-3.1-8B-Instruct", *, served_bytes: int | None = None) -> Repo:
    """Four shards and their index; and the same weights as .bin, .pth, ONNX, Flax, TensorFlow and in fp16."""
    weights = shards("model-{}.safetensors", 16.06 * GB, 4)
    duplicates: dict[str, int | float] = {
        **shards("pytorch_model-{}.bin", 16.06 * GB, 2),
        "consolidated.00.pth": 16.06 * GB,
        "original/consolidated.00.pth": 16.06 * GB,
        "original/tokenizer.model": 2.18 * MB,
        "onnx/model.onnx": 0.6 * MB,
        "onnx/model.onnx_data": 16.06 * GB,
        "onnx/model_quantized.onnx": 8.1 * GB,
        "flax_model.msgpack": 16.06 * GB,
        "tf_model.h5": 16.06 * GB,
        "model.fp16.safetensors": 16.06 * GB,
    }
    texts = {
        **TEXTS,
        "model.safetensors.index.json": _index(weights),
        "pytorch_model.bin.index.json": _index(shards("pytorch_model-{}.bin", 16.06 * GB, 2)),
        "original/params.json": b'{"dim": 4096}\n',
        "onnx/config.json": b"{}\n",
    }
    sizes = {"tokenizer.json": TOKENIZER_BYTES, **weights, **duplicates}
    return build(name, sizes, texts, served_bytes=served_bytes)


def single_safetensors(
    name: str = "sentence-transformers/all-MiniLM-L6-v2", *, served_bytes: int | None = None
) -> Repo:
    """One safetensors file with its duplicates, as small models have them."""
    sizes = {
        "model.safetensors": 90.9 * MB,
        "pytorch_model.bin": 90.9 * MB,
        "rust_model.ot": 90.9 * MB,
        "tf_model.h5": 91 * MB,
        "onnx/model.onnx": 90.4 * MB,
        "openvino/openvino_model.bin": 90.3 * MB,
        "openvino/openvino_model.xml": 0.21 * MB,
    }
    texts = {**TEXTS, "modules.json": b"[]\n", "1_Pooling/config.json": b"{}\n", "vocab.txt": b"[PAD]\n"}
    return build(name, sizes, texts, served_bytes=served_bytes)


def _index(weights: dict[str, int]) -> bytes:
    layers = {f"model.layers.{number}.weight": path for number, path in enumerate(weights)}
    return json.dumps({"metadata": {"total_size": sum(weights.values())}, "weight_map": layers}).encode()
