"""A pipeline in folders, the smallest repository worth fetching, and one of very many files."""

from tests.hub.content import AnyContent, SyntheticFile
from tests.hub.listings.build import GB, GGUF_HEAD, MB, build
from tests.hub.repo import Repo

#: Bytes of the large file of `tiny`.
TINY_MODEL_BYTES = 1 << 20


def diffusers(name: str = "stabilityai/stable-diffusion-xl-base-1.0", *, served_bytes: int | None = None) -> Repo:
    """A pipeline of models in folders, each also in fp16, some in other formats, and all in one file at the root."""
    sizes: dict[str, int | float] = {
        "sd_xl_base_1.0.safetensors": 6.94 * GB,
        "sd_xl_base_1.0_0.9vae.safetensors": 6.94 * GB,
        "text_encoder/model.safetensors": 492 * MB,
        "text_encoder/model.fp16.safetensors": 246 * MB,
        "text_encoder/flax_model.msgpack": 492 * MB,
        "text_encoder/model.onnx": 493 * MB,
        "text_encoder_2/model.safetensors": 2.78 * GB,
        "text_encoder_2/model.fp16.safetensors": 1.39 * GB,
        "unet/diffusion_pytorch_model.safetensors": 10.27 * GB,
        "unet/diffusion_pytorch_model.fp16.safetensors": 5.14 * GB,
        "unet/diffusion_flax_model.msgpack": 10.27 * GB,
        "vae/diffusion_pytorch_model.safetensors": 335 * MB,
        "vae/diffusion_pytorch_model.fp16.safetensors": 167 * MB,
        "01.png": 1.2 * MB,
    }
    parts = ("text_encoder", "text_encoder_2", "unet", "vae")
    texts = {
        "README.md": b"# A pipeline\n",
        "model_index.json": b'{"_class_name": "StableDiffusionXLPipeline"}\n',
        "scheduler/scheduler_config.json": b"{}\n",
        "tokenizer/vocab.json": b"{}\n",
        "tokenizer/merges.txt": b"#version: 0.2\n",
        **{f"{part}/config.json": b"{}\n" for part in parts},
    }
    return build(name, sizes, texts, served_bytes=served_bytes)


def tiny(name: str = "org/tiny") -> Repo:
    """Two small git files and one LFS file of 1 MiB: everything a first test needs, and all of it can be fetched."""
    repo = Repo(name)
    model = SyntheticFile(TINY_MODEL_BYTES, seed=1, head=GGUF_HEAD)
    repo.commit({"README.md": b"# tiny\n", "config.json": b'{"model_type": "llama"}\n', "tiny-Q4_K_M.gguf": model})
    return repo


def small_files(count: int, name: str = "org/many-files", *, size_bytes: int = 64) -> Repo:
    """So many git files, a hundred to a folder, all different."""
    files: dict[str, AnyContent | None] = {
        f"part-{number // 100:04d}/file-{number:06d}.txt": f"{number}\n".encode().ljust(size_bytes, b".")
        for number in range(count)
    }
    repo = Repo(name)
    repo.commit(files)
    return repo
