"""Ollama's names where nothing says that they are: recognised, and refused with two ways to write the model.

Ollama's registry is another one than the Hub, with names of its own (`llama3.2:3b`), and hive asks it where somebody
writes `ollama:` in front. A guess would bring another file than was meant, so the person gets names to copy.
"""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = re.compile(r"[a-z][a-z0-9._-]*(?::[A-Za-z0-9][A-Za-z0-9._-]*)?")
_WRITABLE: Final = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*(?::[A-Za-z0-9_][A-Za-z0-9._-]*)?"
)
_HOSTS: Final = ("ollama.com/", "www.ollama.com/", "registry.ollama.ai/", "ollama.ai/")
_PAGE: Final = re.compile(r"https?://(?:www\.)?(?:registry\.)?ollama\.(?:com|ai)/(?:library/[^/]+|[^/]+/[^/]+)/?", re.I)
#: Ollama's families and the Hub's repositories of the same models. `{}` is the size, with its first letter in capitals.
_FAMILIES: Final = {
    "llama3.2": "bartowski/Llama-3.2-{}-Instruct-GGUF",
    "llama3.1": "bartowski/Meta-Llama-3.1-{}-Instruct-GGUF",
    "llama3.3": "bartowski/Llama-3.3-{}-Instruct-GGUF",
    "qwen2.5": "Qwen/Qwen2.5-{}-Instruct-GGUF",
    "qwen2.5-coder": "Qwen/Qwen2.5-Coder-{}-Instruct-GGUF",
    "qwen3": "Qwen/Qwen3-{}-GGUF",
    "gemma2": "bartowski/gemma-2-{}-it-GGUF",
    "gemma3": "ggml-org/gemma-3-{}-it-GGUF",
    "deepseek-r1": "unsloth/DeepSeek-R1-Distill-Qwen-{}-GGUF",
    "mistral": "bartowski/Mistral-7B-Instruct-v0.3-GGUF",
    "phi4": "microsoft/phi-4-gguf",
    "tinyllama": "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
    "nomic-embed-text": "nomic-ai/nomic-embed-text-v1.5-GGUF",
}
#: What such a name means without a tag.
_SIZES: Final = {
    "llama3.2": "3B",
    "llama3.1": "8B",
    "llama3.3": "70B",
    "qwen2.5": "7B",
    "qwen2.5-coder": "7B",
    "qwen3": "8B",
    "gemma2": "9b",
    "gemma3": "4b",
    "deepseek-r1": "7B",
}


def is_name(text: str) -> bool:
    """Whether this is a name of Ollama's: `ollama:x`, an address of its registry, or a name such as `llama3.2:3b`."""
    head = text.partition("/")[0].lower()
    return text.lower().startswith("ollama:") or head + "/" in _HOSTS or bool(_PAGE.fullmatch(text)) or _is_bare(text)


def hint(text: str) -> str:
    """What to write for an Ollama name."""
    text = re.sub(r"^https?://", "", text, flags=re.IGNORECASE)
    for host in _HOSTS:
        text = text.removeprefix(host)
    name = text.removeprefix("ollama:").removeprefix("//").removeprefix("library/").rstrip("/")
    family, _, tag = name.partition(":")
    size = re.match(r"(\d+(?:\.\d+)?)([bm])", tag, re.IGNORECASE)
    default = _SIZES.get(family, "")
    shown = f"{size[1]}{size[2].upper() if default.isupper() else size[2].lower()}" if size else default
    if repo := _FAMILIES.get(family):
        way = f"The Hub has the model as hf:{repo.format(shown)}"
    else:
        way = f"Look for it at https://huggingface.co/models?search={re.sub(r'[^A-Za-z0-9._-]+', '+', family)}+gguf"
    said = f"{name[:60]!r} is a name of Ollama's registry"
    return f"{said}: write ollama:{name} for that. {way}." if _WRITABLE.fullmatch(name) else f"{said}. {way}."


def _is_bare(text: str) -> bool:
    """Whether this is a name without a slash, with a tag or of a family that is known."""
    if "/" in text or not _NAME.fullmatch(text):
        return False
    family, _, tag = text.partition(":")
    return family != "hf" and (family in _FAMILIES or (bool(tag) and any(char.isdigit() for char in text)))
