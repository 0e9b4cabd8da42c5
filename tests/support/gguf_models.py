"""Models for a real engine that take no room and no time: written here, a GGUF file of a llama without a brain.

`write_random` has random weights, so it says anything. `write_reciting` says one text, whatever it is asked, piece by
piece as the text was cut: each token has a dimension of its own, and the last matrix leads from it to the next one.
"""

from __future__ import annotations

import os
import random
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

#: Tokens before the first of a text: unknown, begin, end, and one for each byte.
SPECIAL, BYTES = 3, 256
BOS, EOS = 1, 2
_UINT32, _FLOAT32, _TEXT, _ARRAY, _INT32 = 4, 6, 8, 9, 5
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_ALIGNMENT: Final = 32
#: Bytes of random weights that are made at a time, and then repeated.
_NOISE_BYTES: Final = 4 << 20


class Shape(NamedTuple):
    """How large a model is: dimensions, blocks, heads, and what lies between."""

    width: int
    blocks: int
    heads: int = 4
    inner: int = 64
    context: int = 4096


class _Tensor(NamedTuple):
    name: str
    columns: int
    rows: int
    fill: str = "zeros"

    @property
    def size(self) -> int:
        return 4 * self.columns * max(self.rows, 1)


#: 800 KB.
SMALL: Final = Shape(64, 4)


def write_random(path: Path, shape: Shape = SMALL, seed: int = 7, *, pooling: int | None = None) -> Path:
    """A model with random weights and a token for each byte; with a `pooling` (1: the mean) it is one for vectors."""
    pieces: list[bytes] = []
    tensors = [
        _Tensor("token_embd.weight", shape.width, SPECIAL + BYTES, "noise"),
        _Tensor("output_norm.weight", shape.width, 0, "ones"),
        _Tensor("output.weight", shape.width, SPECIAL + BYTES, "noise"),
        *_blocks(shape, "noise"),
    ]
    return _write(path, shape, pieces, tensors, {}, seed, pooling)


def read_from_disk(path: Path) -> None:
    """Have the file read from the disk next, and not from memory, where all of it is there in two steps."""
    with path.open("rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_reciting(path: Path, pieces: Sequence[bytes], *, endless: bool = False, blocks: int = 2) -> Path:
    """A model that says these pieces, of which no two may be alike, and then ends; or begins again."""
    assert len(set(pieces)) == len(pieces)
    width = -(-(SPECIAL + BYTES + len(pieces)) // 64) * 64
    shape = Shape(width, blocks, heads=width // 64, inner=32)
    script = [_id_of(piece, pieces) for piece in pieces]
    leads = dict.fromkeys(range(SPECIAL + BYTES + len(pieces)), script[0])
    leads |= dict(zip(script, [*script[1:], script[0] if endless else EOS], strict=True))
    tensors = [
        _Tensor("token_embd.weight", width, SPECIAL + BYTES + len(pieces), "unit"),
        _Tensor("output_norm.weight", width, 0, "ones"),
        _Tensor("output.weight", width, SPECIAL + BYTES + len(pieces), "leads"),
        *_blocks(shape, "zeros"),
    ]
    return _write(path, shape, [piece for piece in pieces if len(piece) > 1 or piece.isalnum()], tensors, leads, 0)


def _id_of(piece: bytes, pieces: Sequence[bytes]) -> int:
    """The token of a piece: one byte that is no letter is a byte's own."""
    if len(piece) == 1 and not piece.isalnum():
        return SPECIAL + piece[0]
    words = [other for other in pieces if len(other) > 1 or other.isalnum()]
    return SPECIAL + BYTES + words.index(piece)


def _blocks(shape: Shape, fill: str) -> Iterator[_Tensor]:
    for number in range(shape.blocks):
        name = f"blk.{number}."
        yield _Tensor(f"{name}attn_norm.weight", shape.width, 0, "ones")
        yield _Tensor(f"{name}ffn_norm.weight", shape.width, 0, "ones")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield _Tensor(f"{name}{part}.weight", shape.width, shape.width, fill)
        yield _Tensor(f"{name}ffn_gate.weight", shape.width, shape.inner, fill)
        yield _Tensor(f"{name}ffn_up.weight", shape.width, shape.inner, fill)
        yield _Tensor(f"{name}ffn_down.weight", shape.inner, shape.width, fill)


def _write(
    path: Path,
    shape: Shape,
    pieces: Sequence[bytes],
    tensors: list[_Tensor],
    leads: dict[int, int],
    seed: int,
    pooling: int | None = None,
) -> Path:
    count = tensors[0].rows
    tokens = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(BYTES)), *pieces]
    # A space is written as U+2581 in such a vocabulary.
    tokens = [token.replace(b" ", "\u2581".encode()) for token in tokens]
    tokens += [b"<none %d>" % number for number in range(count - len(tokens))]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * BYTES, *[_NORMAL] * (count - SPECIAL - BYTES)]
    fields = [
        _text("general.architecture", b"llama"),
        _text("general.name", b"test"),
        _number("llama.context_length", shape.context),
        _number("llama.embedding_length", shape.width),
        _number("llama.block_count", shape.blocks),
        _number("llama.feed_forward_length", shape.inner),
        _number("llama.attention.head_count", shape.heads),
        _number("llama.attention.head_count_kv", shape.heads),
        _number("llama.rope.dimension_count", shape.width // shape.heads),
        _name("llama.attention.layer_norm_rms_epsilon", _FLOAT32) + struct.pack("<f", 1e-5),
        _number("llama.vocab_size", count),
        _text("tokenizer.ggml.model", b"llama"),
        _array("tokenizer.ggml.tokens", _TEXT, count) + b"".join(_string(token) for token in tokens),
        _array("tokenizer.ggml.scores", _FLOAT32, count) + bytes(4 * count),
        _array("tokenizer.ggml.token_type", _INT32, count) + struct.pack(f"<{count}i", *kinds),
        _number("tokenizer.ggml.bos_token_id", BOS),
        _number("tokenizer.ggml.eos_token_id", EOS),
        _number("tokenizer.ggml.unknown_token_id", 0),
    ]
    fields += [_number("llama.pooling_type", pooling)] if pooling is not None else []
    infos, offset = [], 0
    for tensor in tensors:
        sizes = [tensor.columns, tensor.rows] if tensor.rows else [tensor.columns]
        infos.append(_string(tensor.name.encode()) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, offset))
        offset += _aligned(tensor.size)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)) + b"".join([*fields, *infos])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head + bytes(_aligned(len(head)) - len(head)))
        noise = _noise(seed)
        for tensor in tensors:
            _fill(file, tensor, leads, noise)
    return path


def _fill(file: BinaryIO, tensor: _Tensor, leads: dict[int, int], noise: bytes) -> None:
    if tensor.fill == "noise":
        left = tensor.size
        while left:
            left -= file.write(noise[: min(left, len(noise))])
    elif tensor.fill == "ones":
        file.write(struct.pack("<f", 1.0) * tensor.columns)
    elif tensor.fill == "zeros":
        file.write(bytes(tensor.size))
    else:
        matrix = array("f", bytes(tensor.size))
        places = (
            ((row, row) for row in range(tensor.rows)) if tensor.fill == "unit" else ((n, t) for t, n in leads.items())
        )
        for row, column in places:
            matrix[row * tensor.columns + column] = 1.0
        file.write(matrix.tobytes())
    file.write(bytes(_aligned(tensor.size) - tensor.size))


def _noise(seed: int) -> bytes:
    """Weights around 0: each float's exponent stays small."""
    rng = random.Random(seed)
    values = array("f", (rng.gauss(0, 0.2) for _ in range(1 << 16)))
    return values.tobytes() * (_NOISE_BYTES // (4 << 16))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _name(name: str, kind: int) -> bytes:
    return _string(name.encode()) + struct.pack("<I", kind)


def _number(name: str, value: int) -> bytes:
    return _name(name, _UINT32) + struct.pack("<I", value)


def _text(name: str, value: bytes) -> bytes:
    return _name(name, _TEXT) + _string(value)


def _array(name: str, kind: int, count: int) -> bytes:
    return _name(name, _ARRAY) + struct.pack("<IQ", kind, count)
