"""GGUF files of a repository, grouped into the variants that people name: `Q4_K_M`, `UD-Q4_K_XL`, `BF16`.

Nothing in a repository says which quantisation a file holds but its name, and every publisher writes names in another
way: `model.Q4_K_M.gguf`, `Model-q4_k_m.gguf`, `BF16/Model-BF16-00001-of-00003.gguf`, `Q6_K/Model-00001-of-00002.gguf`.
So the name is read once, here, for both sides: what to fetch (`hive.wire.selection`) and what lies on the disk
(`hive.store.catalog`).
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from hive.wire.weights import count_absent

#: What is taken of a GGUF repository where nobody says what: the common balance of size and quality.
DEFAULT_QUANT = "Q4_K_M"
#: Projectors of a vision model from the one that is wanted most: they are small, and half precision runs everywhere.
PROJECTOR_ORDER = ("F16", "BF16", "F32")

_BEFORE, _AFTER = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_QUANT = re.compile(
    _BEFORE
    + r"""(
      (?:UD-)?
      (?: I?Q[1-9] (?: _(?:\d|KSS|KS|KT|KL|K|NL|XXS|XS|XXL|XL|S|M|L|P|R\d) )*   # Q4_K_M, IQ2_XXS, Q4_0_4_4, Q8_0, q4
        | TQ[12]_0 | I2_S
        | BF16 | FP?(?:16|32|64)
        | MXFP4(?:_MOE)? | NVFP4 )
    )"""
    + _AFTER,
    re.IGNORECASE | re.VERBOSE,
)
#: llama.cpp writes `-00001-of-00003`; people who cut by hand also `-1of3` and `-0001-OF-0003`.
_SHARD = re.compile(r"[-_.](\d{1,5})-?of-?(\d{1,5})$", re.IGNORECASE)
_RAW_PART = re.compile(
    r"\.gguf[._-](?:(?:part|split)[-_.]?[0-9a-z]{1,5}(?:[-_]?of[-_]?\d{1,5})?|\d{2,5}|a[a-z])$", re.IGNORECASE
)
_PROJECTOR = re.compile(r"mm-?proj", re.IGNORECASE)
_IMPORTANCE = re.compile(_BEFORE + r"imatrix", re.IGNORECASE)
#: What marks a file, or the folder that it lies in, as one that helps a model: it drafts for it, adapts it, or holds
#: its words alone.
_HELPER = re.compile(
    _BEFORE
    + r"(?:mtp|nextn|draft(?:er)?|speculator|eagle-?\d?|medusa|lora|adapter|control[-_]?vectors?|cvector"
    + r"|vocab|tokenizer)"
    + _AFTER,
    re.IGNORECASE,
)
_VOCABULARY = re.compile(_BEFORE + r"(?:vocab|tokenizer)" + _AFTER, re.IGNORECASE)


class Named(Protocol):
    """Anything with a path inside a repository and a size in bytes."""

    @property
    def path(self) -> str:
        """The path inside the repository."""

    @property
    def size(self) -> int:
        """The size in bytes."""


F = TypeVar("F", bound=Named)


class Variant(NamedTuple, Generic[F]):
    """One model of a repository in one quantisation.

    `files` are its shards in order; `missing` says how many of them the repository (or the disk) lacks; `raw_parts`
    marks pieces of a file that was cut with `split`, which no program loads before somebody joins them.
    """

    name: str
    files: tuple[F, ...]
    missing: int = 0
    raw_parts: bool = False

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def primary(self) -> str:
        """The path that a program opens: the file, or the first shard."""
        return self.files[0].path

    @property
    def helps(self) -> bool:
        """Whether it helps another model (drafts for it, adapts it, holds its vocabulary), as its path says."""
        return any(_HELPER.search(part) for part in self.primary.split("/"))


def main_models(found: Sequence[Variant[F]]) -> list[Variant[F]]:
    """Those that are models by themselves; all of them where each is a helper: then that is what is offered."""
    return [variant for variant in found if not variant.helps] or list(found)


def is_vocabulary(path: str) -> bool:
    """Whether a GGUF file holds no weights but words: a tokenizer."""
    return _is_gguf(path) and _VOCABULARY.search(posixpath.basename(path)) is not None


def variants(files: Iterable[F]) -> list[Variant[F]]:
    """The models among these files, by name and then path. Projectors and importance matrices are not models."""
    groups: dict[tuple[str, int, bool], list[tuple[int, F]]] = defaultdict(list)
    for file in files:
        if (place := _place(file.path)) is not None:
            stem, index, total, raw = place
            groups[stem, total, raw].append((index, file))
    found = [_variant(stem, total, raw, members) for (stem, total, raw), members in groups.items()]
    return sorted(found, key=lambda variant: (variant.name, variant.primary))


def projectors(files: Iterable[F]) -> list[F]:
    """The multimodal projectors (`mmproj`) among these files, by path."""
    found = [file for file in files if _is_gguf(file.path) and _PROJECTOR.search(posixpath.basename(file.path))]
    return sorted(found, key=lambda file: file.path)


def projector_for(variant: Variant[F], files: Iterable[F]) -> F | None:
    """The projector that goes with this model, or None where the repository has none.

    The nearest folder counts first, then F16, BF16, F32, then a name like the model's, then the larger file.
    """
    folder = posixpath.dirname(variant.primary)
    stem = _projector_stem(variant.primary)

    def rank(file: F) -> tuple[int, int, int, int]:
        home = posixpath.dirname(file.path)
        distance = 0 if home == folder else 1 if home == "" else 2
        quant = quant_of(file.path)
        precision = PROJECTOR_ORDER.index(quant) if quant in PROJECTOR_ORDER else len(PROJECTOR_ORDER)
        alike = len(posixpath.commonprefix([stem, _projector_stem(file.path)]))
        return distance, precision, -alike, -file.size

    return min(projectors(files), key=rank, default=None)


def quant_of(path: str) -> str | None:
    """The quantisation that a GGUF file's name, else its nearest folder, gives: in capitals, `fp16` is F16, or None."""
    stem = _RAW_PART.sub("", path)
    stem = stem[:-5] if _is_gguf(stem) else stem
    for part in reversed(_SHARD.sub("", stem).split("/")):
        if found := _QUANT.findall(part):
            return str(found[-1]).upper().replace("FP16", "F16").replace("FP32", "F32").replace("FP64", "F64")
    return None


def matching(found: Sequence[Variant[F]], quant: str) -> list[Variant[F]]:
    """The variants of this name in any case; where there is none, the dynamic ones (`UD-`) of it; else those whose
    file's name ends so, as people read it off: `i1-Q4_K_M`, `llama-13b.Q4_K_M`.
    """
    asked = quant.upper()
    wanted = asked.replace("FP16", "F16").replace("FP32", "F32")
    exact = [variant for variant in found if variant.name.upper() in (asked, wanted)]
    dynamic = [variant for variant in found if variant.name.upper() == f"UD-{wanted}"]
    if exact or dynamic or _QUANT.search(asked) is None:
        return exact or dynamic
    ending = re.compile(f"(?:^|[^A-Z0-9]){re.escape(asked)}$")
    return [variant for variant in found if ending.search(_stem(variant.primary).upper())]


def _place(path: str) -> tuple[str, int, int, bool] | None:
    """Where a model's file belongs: name without number, number, how many there are (0: not numbered), raw part?"""
    if ".gguf" not in path.lower():
        return None
    name = posixpath.basename(path)
    if _PROJECTOR.search(name) or (_IMPORTANCE.search(name) and not _QUANT.search(name)):
        return None
    if part := _RAW_PART.search(path):
        return path[: part.start()], 0, 0, True
    if not _is_gguf(path):
        return None
    stem = path[:-5]
    if shard := _SHARD.search(stem):
        return stem[: shard.start()], int(shard[1]), int(shard[2]), False
    return stem, 0, 0, False


def _variant(stem: str, total: int, raw: bool, members: list[tuple[int, F]]) -> Variant[F]:
    members.sort(key=lambda member: (member[0], member[1].path))
    files = tuple(file for _, file in members)
    name = quant_of(files[0].path) or posixpath.basename(stem)
    return Variant(name, files, count_absent({index for index, _ in members}, total), raw)


def _is_gguf(path: str) -> bool:
    return path[-5:].lower() == ".gguf"


def _stem(path: str) -> str:
    """A file's name without its ending and its number."""
    return _SHARD.sub("", posixpath.basename(path)[:-5])


def _projector_stem(path: str) -> str:
    """A name without what tells a projector from its model, for comparison."""
    name = _PROJECTOR.sub("", posixpath.basename(path))
    return name.lower().strip("-_. ").removeprefix("model").strip("-_. ")
