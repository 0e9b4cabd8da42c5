"""Ollama's names of models, read as references, and the other way round.

Ollama writes a model of the Hub as `hf.co/org/name:Q4_K_M`, where the tag `latest` means whatever there is, and
capitals mean nothing. A name without a slash (`llama3.2:1b`), or behind the address of Ollama's registry, is one of
that registry, which hive asks for it (hive/wire/registries.py); `org/name` is one of the Hub, as hive reads it
everywhere.
"""

from __future__ import annotations

from typing import Final

from hive.wire.refs import ANY_QUANT, MAX_REF_CHARS, ModelRef, RefError, parse_ref
from hive.wire.registries import LIBRARY, OLLAMA, OLLAMA_SCHEME, registry_name

#: What a model of the Hub, and one of somebody's in Ollama's registry, begins with here.
HOST: Final = "hf.co/"
REGISTRY: Final = "registry.ollama.ai/"
_REGISTRIES: Final = (REGISTRY, "ollama.com/", "ollama.ai/")


def read_name(text: str) -> ModelRef | None:
    """The reference that a name means; None for one that is none."""
    if len(text) > MAX_REF_CHARS or text.lower().startswith(("http:", "https:", "file:", OLLAMA_SCHEME)):
        return None
    host = next((host for host in _REGISTRIES if text.lower().startswith(host)), "")
    of_registry = bool(host) or "/" not in text
    try:
        ref = parse_ref(f"{OLLAMA_SCHEME}{text[len(host) :]}" if of_registry else text)
    except RefError:
        return None
    if of_registry != ref.repo.startswith(OLLAMA):
        return None
    return ref if ref.kind == "hf" and ref.is_model and ref.path is None else None


def name_of(model_id: str) -> str:
    """The name of a model of the list: always with a tag, as Ollama's clients split it there."""
    head, _, variant = model_id.partition(":")
    repo, _, tag = head.partition("@")
    if (found := registry_name(repo)) is not None and found.kind == "ollama":
        path = found.path.removeprefix(f"{LIBRARY}/")
        return f"{REGISTRY if '/' in path else ''}{path}:{tag or ANY_QUANT}"
    return f"{HOST}{head}:{variant or ANY_QUANT}"


def same_name(one: str, other: str) -> bool:
    """Whether two names mean the same model."""
    return one.casefold() == other.casefold()
