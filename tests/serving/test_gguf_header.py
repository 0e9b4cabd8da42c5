"""The head of a model file, which came from anywhere: whatever it says is refused or read, soon, in little memory."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from hive.errors import ModelNotServable
from hive.serving import gguf_header
from hive.serving.gguf_header import read_gguf, shards
from tests.support.gguf_models import write_random

UINT32, INT32, FLOAT32, TEXT, ARRAY, UINT64 = 4, 5, 6, 8, 9, 10
#: Heads of which some are changed by chance.
TRIES = 300


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def field(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def head(*fields: bytes, blocks: bytes | None = None) -> bytes:
    """A model of two layers with these fields beside."""
    own = [
        field(b"general.architecture", TEXT, text(b"llama")),
        blocks or field(b"llama.block_count", UINT32, struct.pack("<I", 2)),
        field(b"llama.attention.head_count", UINT32, struct.pack("<I", 4)),
        field(b"llama.embedding_length", UINT32, struct.pack("<I", 64)),
    ]
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(own) + len(fields)) + b"".join([*fields, *own])


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    return path


def test_what_counts_is_read_from_among_all_else(tmp_path: Path) -> None:
    others = [
        field(b"tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", TEXT, 3) + text(b"a") * 3),
        field(b"tokenizer.ggml.scores", ARRAY, struct.pack("<IQ", FLOAT32, 5000) + bytes(20_000)),
        field(b"llama.attention.head_count_kv", ARRAY, struct.pack("<IQ2I", UINT32, 2, 1, 3)),
        field(b"general.name", TEXT, text(b"\xff" * 100_000)),
    ]
    info = read_gguf(written(tmp_path, head(*others)))
    assert (info.architecture, info.layers, info.kv_bytes_per_token) == ("llama", 3, 2 * 4 * 32)


@pytest.mark.parametrize(
    "data",
    [
        head(blocks=field(b"llama.block_count", FLOAT32, struct.pack("<f", float("nan")))),
        head(blocks=field(b"llama.block_count", FLOAT32, struct.pack("<f", float("inf")))),
        head(blocks=field(b"llama.block_count", INT32, struct.pack("<i", -2))),
        head(blocks=field(b"llama.block_count", UINT64, struct.pack("<Q", 1 << 63))),
        head(blocks=field(b"llama.block_count", TEXT, text(b"2"))),
        head(field(b"x", ARRAY, struct.pack("<IQ", TEXT, 1 << 40))),
        head(field(b"x", ARRAY, struct.pack("<IQ", UINT32, 1 << 62))),
        head(field(b"x", ARRAY, struct.pack("<IQ", ARRAY, 1))),
        head(field(b"x", 99, b"")),
        head(field(b"x", TEXT, struct.pack("<Q", 1 << 63))),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60),
        head()[:60],
    ],
    ids=["nan", "inf", "negative", "huge", "text", "texts", "numbers", "nested", "kind", "length", "fields", "cut"],
)
def test_absurd_figures_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelNotServable):
        read_gguf(written(tmp_path, data))


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        (b"llama.attention.head_count_kv", TEXT, text(b"four")),
        (b"llama.attention.head_count_kv", INT32, struct.pack("<i", -8)),
        (b"llama.attention.head_count_kv", ARRAY, struct.pack("<IQi", INT32, 1, -8)),
        (b"llama.context_length", INT32, struct.pack("<i", -1)),
        (b"llama.attention.key_length", INT32, struct.pack("<i", -9)),
    ],
)
def test_no_figure_makes_the_memory_that_a_model_takes_less_than_nothing(
    tmp_path: Path, name: bytes, kind: int, value: bytes
) -> None:
    info = read_gguf(written(tmp_path, head(field(name, kind, value))))
    assert info.kv_bytes_per_token >= 0
    assert info.context_of(512) == 512


def test_texts_in_arrays_are_bounded_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "MAX_TEXTS", 10)
    array = field(b"x", ARRAY, struct.pack("<IQ", TEXT, 6) + text(b"") * 6)
    read_gguf(written(tmp_path, head(array)))
    with pytest.raises(ModelNotServable):
        read_gguf(written(tmp_path, head(array, array)))


def test_a_head_that_was_changed_by_chance_is_read_or_refused(tmp_path: Path) -> None:
    data, chance = write_random(tmp_path / "r.gguf").read_bytes()[:24_000], random.Random(5)
    for _ in range(TRIES):
        changed = bytearray(data)
        for _ in range(3):
            changed[chance.randrange(8, 900)] = chance.choice((0, 127, 128, 255, chance.randrange(256)))
        try:
            assert read_gguf(written(tmp_path, bytes(changed))).kv_bytes_per_token >= 0
        except ModelNotServable:
            continue


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["m.gguf"], 1),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], 2),
        (["m-00001-of-999999999999.gguf"], 1),
        (["m-00001-of-\u0662\u0662\u0662\u0662\u0662.gguf"], 1),
    ],
)
def test_the_files_of_a_model_are_found_by_the_first(tmp_path: Path, names: Sequence[str], found: int) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert len(shards(tmp_path / names[0])) == found


def test_a_part_of_a_model_is_no_model_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    second = tmp_path / "m-00002-of-00003.gguf"
    second.touch()
    with pytest.raises(ModelNotServable, match="part 2 of 3"):
        shards(second)
    with pytest.raises(ModelNotServable, match=r"Part 1 of 3 .*m-00001-of-00003\.gguf"):
        shards(tmp_path / "m-00001-of-00003.gguf")
