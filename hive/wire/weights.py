"""Which files of a repository say the same thing twice, so that a snapshot is fetched without them.

Many repositories hold one model as safetensors, as PyTorch pickles, for TensorFlow, Flax, ONNX, OpenVINO and Core ML,
and again in half precision. The easy way, fetching all of it, costs three to six times the bytes; a fixed list of bad
endings loses the only weights of an older repository. So each folder is looked at by itself (diffusion pipelines have a
model per folder): a format goes only where a better one is complete beside it.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

#: Formats from the one that is kept first. The rest compete only in a repository that has no safetensors at all.
FORMATS: Final = (
    *("safetensors", "pytorch", "original", "tensorflow", "flax", "onnx"),
    *("openvino", "checkpoint", "rust", "coreml", "tflite", "metal"),
)
#: Folders that hold one format, with whatever belongs to it. They are judged with the folder that they lie in.
_FORMAT_FOLDERS: Final = {
    "onnx": "onnx",
    "openvino": "openvino",
    "coreml": "coreml",
    "tflite": "tflite",
    "original": "original",
    "metal": "metal",
}
_NAMES: Final = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("original", r"consolidated[^/]*\.(pth|safetensors)"),
        ("safetensors", r".+\.safetensors(\.index[^/]*\.json)?"),
        ("pytorch", r"([^/]*pytorch_model|adapter_model)[^/]*\.bin(\.index[^/]*\.json)?"),
        ("tensorflow", r".+\.h5(\.index\.json)?"),
        ("flax", r".+\.msgpack(\.index\.json)?"),
        ("openvino", r"openvino_[^/]*\.(bin|xml)"),
        ("onnx", r".+\.onnx([._]data[^/]*)?"),
        ("checkpoint", r".+\.ckpt"),
        ("rust", r".+\.ot"),
        ("coreml", r".+\.mlmodel"),
        ("tflite", r".+\.tflite"),
    )
)
#: What PyTorch, Paddle, joblib and their like write, and archives that hold such files. Of `.bin` only the names that
#: they give: others are no pickles.
_PICKLE_ENDINGS: Final = (
    *(".pt", ".pt2", ".pth", ".pyth", ".th", ".t7", ".ptl", ".ckpt", ".distcp", ".mar", ".nemo"),
    *(".pkl", ".pickle", ".pk", ".p", ".cloudpickle", ".dill", ".joblib", ".jbl", ".sav", ".pdparams", ".pdopt"),
)
#: What such a file may be packed in.
_PACKED: Final = re.compile(r"(?:\.(?:gz|bz2|xz|lzma|zst|lz4|zip|tar|tgz))+$")
_PICKLED_BIN: Final = re.compile(
    r"(?:[^/]*pytorch_|adapter_model|training_args|optimizer|scheduler|random_states|learned_embeds|mm_projector"
    r"|non_lora_trainables|ip[-_]adapter)[^/]*\.bin"
)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
_INDEX = re.compile(r"\.index[^/]*\.json$")
_TWIN = re.compile(r"\.(fp16|fp32|fp8|bf16|f16|non_ema|ema|int8)(?=\.|-|$)", re.IGNORECASE)


def without_duplicates(paths: Iterable[str]) -> list[str]:
    """These paths of one repository without the weights that others among them hold too; the order stays."""
    paths = list(paths)
    placed = {path: _placed(path) for path in paths}
    formats: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, (home, kind) in placed.items():
        if kind:
            formats[home][kind].append(path)
    any_safetensors = any("safetensors" in kinds for kinds in formats.values())
    kept = {home: _best(kinds, any_safetensors) for home, kinds in formats.items()}
    chosen = [path for path in paths if not (kind := placed[path][1]) or kept[placed[path][0]] in (None, kind)]
    return _without_twins(chosen)


def is_beside_weights(path: str) -> bool:
    """Whether a file comes with weights and is none: a template, a licence, a model card."""
    return not (is_weights(path) or is_pickle(path) or path.lower().endswith(".gguf"))


def is_pickle(path: str) -> bool:
    """Whether this file is a pickle by its name: reading it may run what somebody has put into it."""
    name = _PACKED.sub("", posixpath.basename(path).lower())
    return name.endswith(_PICKLE_ENDINGS) or _PICKLED_BIN.fullmatch(name) is not None


def without_pickles(paths: Iterable[str]) -> list[str]:
    """These paths without the pickles that lie in a folder with weights in safetensors: what a trainer has left beside
    them. Where there are no such weights the pickles are the model.
    """
    paths = list(paths)
    safe = {posixpath.dirname(path) for path in paths if path.lower().endswith(".safetensors")}
    return [path for path in paths if not (is_pickle(path) and posixpath.dirname(path) in safe)]


def is_weights(path: str) -> bool:
    """Whether this file holds weights (or their index) in any format but GGUF."""
    return _placed(path)[1] is not None


def missing_shards(paths: Iterable[str]) -> int:
    """How many files lack among sets numbered `-00001-of-00003`; a set is what differs in nothing but the number."""
    return sum(count_absent(found.present, found.total) for found in _shard_sets(paths))


def absent_shards(paths: Iterable[str], limit: int) -> list[str]:
    """The paths of shards that lack among such sets, sorted; at most `limit` of a set."""
    return sorted(
        f"{found.stem}-{number:05d}-of-{found.total:05d}{found.ending}"
        for found in _shard_sets(paths)
        for number in itertools.islice(_absent(found.present, found.total), limit)
    )


def are_weights_whole(paths: Iterable[str]) -> bool:
    """Whether something among these weights is complete: a file of its own, or all shards of one."""
    weights = [path for path in paths if not path.endswith(".json")]
    sets = _shard_sets(weights)
    alone = [path for path in weights if not _SHARD.search(path)]
    return bool(alone) or any(not count_absent(found.present, found.total) for found in sets)


class _ShardSet(NamedTuple):
    """Shards of one file: what their paths have in common, how many there should be, and the numbers that are here."""

    stem: str
    total: int
    ending: str
    present: set[int]


def _shard_sets(paths: Iterable[str]) -> list[_ShardSet]:
    sets: dict[tuple[str, int, str], set[int]] = defaultdict(set)
    for path in paths:
        if shard := _SHARD.search(path):
            sets[path[: shard.start()], int(shard[2]), path[shard.end() :]].add(int(shard[1]))
    return [_ShardSet(*key, present) for key, present in sets.items()]


def count_absent(present: set[int], total: int) -> int:
    """How many of `total` shards lack, by the numbers that are here. A name may say any total: none is gone through."""
    numbers = _numbers(present, total)
    return len(numbers) - sum(number in numbers for number in present)


def _absent(present: set[int], total: int) -> Iterator[int]:
    """The numbers of shards that lack, in order."""
    return (number for number in _numbers(present, total) if number not in present)


def _numbers(present: set[int], total: int) -> range:
    """The numbers that `total` shards have; some publishers count from zero."""
    return range(total) if 0 in present else range(1, total + 1)


def _placed(path: str) -> tuple[str, str | None]:
    """The folder that a file competes in and its format, None for what is no weight: configurations, texts."""
    segments = path.split("/")
    for depth, segment in enumerate(segments[:-1]):
        name = segment.lower()
        kind = "coreml" if name.endswith(".mlpackage") else _FORMAT_FOLDERS.get(name)
        if kind and (kind != "original" or depth == 0):
            return "/".join(segments[:depth]), kind
    home, name = posixpath.split(path)
    return home, next((kind for kind, pattern in _NAMES if pattern.fullmatch(name)), None)


def _best(kinds: dict[str, list[str]], any_safetensors: bool) -> str | None:
    """The one format to keep in a folder, or None for all. Where the repository has safetensors, only they push out."""
    for kind in FORMATS[:1] if any_safetensors else FORMATS:
        weights = [path for path in kinds.get(kind, ()) if not path.endswith(".json")]
        if weights and not missing_shards(weights):
            return kind
    return None


def _without_twins(paths: list[str]) -> list[str]:
    """Without `model.fp16.safetensors` (and its index) where `model.safetensors` or its shards are there."""
    plain = {_whole(path) for path in paths if ".safetensors" in path and _twin_of(path) is None}
    return [path for path in paths if (twin := _twin_of(path)) is None or _whole(twin) not in plain]


def _twin_of(path: str) -> str | None:
    """The path that a variant is a twin of: without `.fp16`. None where it is no variant."""
    folder, name = posixpath.split(path)
    if ".safetensors" not in name or not _TWIN.search(name):
        return None
    return posixpath.join(folder, _TWIN.sub("", name, count=1))


def _whole(path: str) -> str:
    """What all shards of one file, and their index, have in common."""
    return _INDEX.sub("", _SHARD.sub("", path))
