"""Ollama's names of models, read as references to the Hub, and the other way round.

Ollama writes a model of the Hub as `hf.co/org/name:Q4_K_M`, where the tag `latest` means whatever there is, and
capitals mean nothing. A name without a slash (`llama3.2`) is one of Ollama's own registry, which this door does not
ask: it is answered as a model that is not there, as that registry does for a name that it does not know.
"""

from __future__ import annotations

from typing import Final

from hive.wire.refs import ANY_QUANT, MAX_REF_CHARS, ModelRef, RefError, parse_ref

#: What such a name begins with here.
HOST: Final = "hf.co/"


def read_name(text: str) -> ModelRef | None:
    """The reference that a name means; None for one of another registry, or none at all."""
    if "/" not in text or len(text) > MAX_REF_CHARS or text.lower().startswith(("http:", "https:", "file:")):
        return None
    try:
        ref = parse_ref(text)
    except RefError:
        return None
    return ref if ref.kind == "hf" and ref.is_model and ref.path is None else None


def name_of(model_id: str) -> str:
    """The name of a model of the list: always with a tag, as Ollama's clients split it there."""
    head, _, tag = model_id.partition(":")
    return f"{HOST}{head}:{tag or ANY_QUANT}"


def same_name(one: str, other: str) -> bool:
    """Whether two names mean the same model."""
    return one.casefold() == other.casefold()
