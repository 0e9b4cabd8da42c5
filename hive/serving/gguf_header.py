"""GGUF metadata: what the head of a model's file says of its layers, and so of the memory that it takes.

Problem: how many layers there are, and how large the cache of a context becomes, stands in the file's head, among a
vocabulary of megabytes. The easy way, the `gguf` package, brings numpy and reads all of it. So the head is read here, a
field at a time: strings and numbers that somebody asks for are kept, arrays are skipped, and every length is bounded,
because the file came from anywhere.
"""

from __future__ import annotations

import math
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from hive.errors import ModelNotServable
from hive.plain_file import open_plain_file

#: What a GGUF file begins with, and the versions of it that are read.
MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
#: The most fields of a head, bytes of a name and of a text, elements of an array, and texts in all arrays.
MAX_FIELDS: Final = 65_536
MAX_NAME_BYTES: Final = 65_535
MAX_TEXT_BYTES: Final = 16 << 20
MAX_ELEMENTS: Final = 1 << 24
MAX_TEXTS: Final = 1 << 22
#: The fields that are kept, behind the name of the architecture; how many of them, and bytes of a text among them.
ARCHITECTURE: Final = "general.architecture"
WANTED: Final = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "pooling_type",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
    }
)
MAX_WANTED: Final = 64
MAX_KEPT_TEXT_BYTES: Final = 256
#: Architectures that make vectors of texts; and the ways (mean, the first token, the last) in which a model of another
#: one that says so makes them of its tokens'.
ENCODERS: Final = frozenset(
    {
        "bert",
        "nomic-bert",
        "nomic-bert-moe",
        "jina-bert-v2",
        "jina-bert-v3",
        "neo-bert",
        "modern-bert",
        "eurobert",
        "gemma-embedding",
    }
)
POOLED: Final = frozenset({1, 2, 3})
#: What the names of the vocabulary's fields begin with; they come last.
VOCABULARY: Final = "tokenizer."
#: Dimensions of a tensor.
MAX_DIMENSIONS: Final = 8
#: Elements of an array of numbers that are kept: one for each layer.
MAX_KEPT: Final = 4096

#: Number types by their code: how struct reads them.
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
#: A file of a model in several, as llama.cpp names them.
_SHARD: Final = re.compile(r"(?P<stem>.+-)(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII)

Value = int | float | bool | str | tuple[int | float | bool, ...]


class GgufInfo(NamedTuple):
    """What of a model's head counts here. Bytes of the cache are those of one token of context, in half precision."""

    architecture: str
    block_count: int
    context_length: int
    kv_bytes_per_token: int
    #: Whether it makes vectors of texts, and no text.
    makes_vectors: bool = False
    #: Numbers of such a vector; 0 where the file does not say.
    vector_length: int = 0

    @property
    def layers(self) -> int:
        """The layers that an engine loads: the blocks, and what stands behind them."""
        return self.block_count + 1

    def context_of(self, asked: int) -> int:
        """The tokens of context that the model gets: as many as were asked for, and no more than it was made for."""
        return min(asked, self.context_length) if self.context_length else asked


def shards(path: Path) -> list[Path]:
    """The files of a model, by the first of them, or its only one.

    Raises:
        ModelNotServable: it is another of them, or one is missing.
    """
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if int(match["number"]) != 1:
        raise ModelNotServable(f"The file is part {int(match['number'])} of {count} of a model. Name the first.")
    parts = [path.with_name(f"{match['stem']}{number:05}-of-{match['count']}.gguf") for number in range(1, count + 1)]
    for number, part in enumerate(parts, 1):
        if not part.exists():
            raise ModelNotServable(f"Part {number} of {count} of the model is missing: {part.name}. Pull it again.")
    return parts


def read_gguf(path: Path) -> GgufInfo:
    """What the file's head says.

    Raises:
        ModelNotServable: it is no GGUF file, or its head is broken or ends too early.
        OSError: it cannot be read.
    """
    try:
        with os.fdopen(open_plain_file(path, os.O_RDONLY, follow=True), "rb") as file:
            return _info(_fields(file))
    except (struct.error, EOFError, ValueError, OverflowError):
        raise ModelNotServable(
            "The file's head is broken, or ends too early: it is no whole GGUF file. Fetch it again: hive verify."
        ) from None


def read_head(path: Path, *, whole: bool = False) -> dict[str, Value]:
    """The fields that stand before the vocabulary, which is most of a head; with `whole` all of them, and how many
    parameters the tensors have as `general.parameter_count`.

    Raises:
        ModelNotServable: as `read_gguf`.
        OSError: it cannot be read.
    """
    try:
        with os.fdopen(open_plain_file(path, os.O_RDONLY, follow=True), "rb") as file:
            found = _fields(file, "" if whole else VOCABULARY)
            if whole:
                end = file.tell()
                file.seek(len(MAGIC) + 4)
                (tensors,) = _unpack(file, "Q")
                file.seek(end)
                found.setdefault("general.parameter_count", _parameters(file, tensors))
            return found
    except (struct.error, EOFError, UnicodeDecodeError, OverflowError, MemoryError):
        raise ModelNotServable("The file's head is broken, or ends too early: it is no whole GGUF file.") from None


def _parameters(file: BinaryIO, tensors: int) -> int:
    """The elements of all tensors, whose list follows the fields."""
    if tensors > MAX_FIELDS:
        raise EOFError
    count = 0
    for _ in range(tensors):
        _text(file, MAX_NAME_BYTES)
        (dimensions,) = _unpack(file, "I")
        if dimensions > MAX_DIMENSIONS:
            raise EOFError
        count += math.prod(_unpack(file, "Q" * dimensions))
        _unpack(file, "IQ")
    return min(count, 1 << 53)


def _fields(file: BinaryIO, until: str = "") -> dict[str, Value]:
    magic = file.read(4)
    if magic != MAGIC:
        raise ModelNotServable("The file is no GGUF file: it does not begin with 'GGUF'. Name a GGUF variant.")
    (version,) = _unpack(file, "I")
    if version not in VERSIONS:
        raise ModelNotServable(f"GGUF files of version {version} are not known; versions 2 and 3 are.")
    _, count = _unpack(file, "QQ")
    if count > MAX_FIELDS:
        raise EOFError
    found: dict[str, Value] = {}
    texts = 0
    for _ in range(count):
        name = _text(file, MAX_NAME_BYTES)
        if until and name.startswith(until):
            break
        (kind,) = _unpack(file, "I")
        if (name == ARCHITECTURE or name.partition(".")[2] in WANTED) and len(found) < MAX_WANTED:
            value = _value(file, kind)
            if value is not None:
                found[name[:MAX_KEPT_TEXT_BYTES]] = value
            continue
        texts += _skip_value(file, kind)
        if texts > MAX_TEXTS:
            raise EOFError
    return found


def _value(file: BinaryIO, kind: int) -> Value | None:
    """A value that is wanted; None for one that is not what it should be."""
    if kind in _NUMBERS:
        number: int | float | bool = _unpack(file, _NUMBERS[kind])[0]
        return number
    if kind == _TEXT:
        return _text(file, MAX_KEPT_TEXT_BYTES)
    at = file.tell()
    if kind == _ARRAY:
        kind, length = _unpack(file, "IQ")
        if kind in _NUMBERS and length <= MAX_KEPT:
            return tuple(_unpack(file, _NUMBERS[kind] * length))
        file.seek(at)
        kind = _ARRAY
    _skip_value(file, kind)
    return None


def _skip_value(file: BinaryIO, kind: int) -> int:
    """Pass over a value; how many texts an array of it had, each of which takes time."""
    if kind in _NUMBERS:
        _skip(file, struct.calcsize(f"<{_NUMBERS[kind]}"))
        return 0
    if kind == _TEXT:
        _skip(file, _unpack(file, "Q")[0])
        return 0
    if kind != _ARRAY:
        raise EOFError
    kind, length = _unpack(file, "IQ")
    if length > (MAX_TEXTS if kind == _TEXT else MAX_ELEMENTS):
        raise EOFError
    if kind == _TEXT:
        for _ in range(length):
            _skip(file, _unpack(file, "Q")[0])
        return length
    code = _NUMBERS.get(kind)
    if code is None:
        raise EOFError  # arrays of arrays: no model has them
    _skip(file, struct.calcsize(f"<{code}") * length)
    return 0


def _unpack(file: BinaryIO, code: str) -> tuple[int, ...]:
    code = f"<{code}"
    data = file.read(struct.calcsize(code))
    return struct.unpack(code, data)


def _text(file: BinaryIO, most: int) -> str:
    (length,) = _unpack(file, "Q")
    if length > most:
        raise EOFError
    data = file.read(length)
    if len(data) != length:
        raise EOFError
    return data.decode("utf-8", "replace")


def _skip(file: BinaryIO, size: int) -> None:
    if size > MAX_TEXT_BYTES * 8:
        raise EOFError
    file.seek(size, 1)


def _info(fields: dict[str, Value]) -> GgufInfo:
    architecture = fields.get(ARCHITECTURE)
    if not isinstance(architecture, str):
        raise ModelNotServable("The file does not say which architecture the model has.")

    def number(name: str) -> int:
        found = fields.get(f"{architecture}.{name}", 0)
        return max(int(found), 0) if isinstance(found, int | float) else 0

    blocks = number("block_count")
    if not 1 <= blocks <= MAX_KEPT:
        raise ModelNotServable(f"The file holds no language model: {architecture}, {blocks} layers.")
    heads_kv = fields.get(f"{architecture}.attention.head_count_kv", 0)
    heads = number("attention.head_count")
    if isinstance(heads_kv, tuple):
        all_heads_kv = sum(max(int(n), 0) for n in heads_kv)
    else:
        all_heads_kv = (number("attention.head_count_kv") or heads) * blocks
    width = number("embedding_length") // heads if heads else 0
    key = number("attention.key_length") or width
    value = number("attention.value_length") or width
    vectors = architecture in ENCODERS or number("pooling_type") in POOLED
    length = number("embedding_length_out") or number("embedding_length")
    return GgufInfo(architecture, blocks, number("context_length"), 2 * all_heads_kv * (key + value), vectors, length)
