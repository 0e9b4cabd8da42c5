"""Which files of a repository a reference means.

    a path                     that file, or what lies below that folder
    include / exclude globs    exactly what matches
    a repository with GGUF     one variant: all its shards, and the projector (`mmproj`) when there is one
    a data set, a Space        all of it
    any other                  the snapshot, without formats that duplicate other weights, and without pickles that lie
                               beside weights in safetensors

A GGUF repository is one whose weights are GGUF: a tokenizer in that format beside other weights makes none, nor does
a copy of the model beside its complete safetensors. What helps a model (drafts, adapters) is fetched by its path.

The worker asks this of the Hub's listing and the HTTP process of the listing on the disk: one answer, or a model that
is on the disk would be fetched again.
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec

from hive.wire.gguf import DEFAULT_QUANT, Variant, is_vocabulary, main_models, matching, projector_for, variants
from hive.wire.weights import (
    absent_shards,
    are_weights_whole,
    is_pickle,
    is_weights,
    missing_shards,
    without_duplicates,
    without_pickles,
)
from hive.wire.words import counted

#: How many names an error lists; a repository may have thousands of files.
MAX_LISTED = 50
#: How alike (0 to 1) a file's name must be to be offered instead of one that does not exist, and how many are offered.
NEAR_MISS_RATIO = 0.5
MAX_NEAR_MISSES = 5
#: How many names are compared for that, and how many characters at the end of each.
MAX_COMPARED = 300
MAX_COMPARED_CHARS = 160

#: Weights in another format that have less than this part of the bytes of the smallest GGUF variant are no copy of the
#: model: an encoder, an adapter. A quantisation of four bits has a quarter of half precision's.
OTHER_WEIGHTS_RATIO = 0.5

#: What makes a path a pattern.
_GLOB = re.compile(r"[*?]|\[.+\]")

Kind = Literal["file", "gguf", "snapshot"]
#: Whether pickles belong to a snapshot: `auto` where no weights in safetensors lie beside them.
Pickles = Literal["auto", "always", "never"]


class RepoFile(msgspec.Struct, frozen=True, gc=False):
    """One file as the Hub lists it: `size` in bytes, `blob_id` git's sha1 (of an LFS *pointer*), `sha256` for LFS."""

    path: str
    size: int
    blob_id: str
    sha256: str | None = None
    xet_hash: str | None = None

    @property
    def etag(self) -> str:
        """The digest of the content, which names its blob: sha256 for an LFS file, git's sha1 for any other."""
        return self.sha256 or self.blob_id


class Selection(msgspec.Struct, frozen=True):
    """The files that are meant. `primary` is the path that a program opens, None where that is the folder."""

    files: tuple[RepoFile, ...]
    kind: Kind
    variant: str | None = None
    primary: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class SelectionError(ValueError):
    """A reference means no file, or not clearly which. The text says what to do, `details` the figures behind it."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = details


class NoSuchFile(SelectionError):
    """The repository has no file of this path, or none that the patterns leave. `details`: `path`, `similar`."""


class PicklesOnly(SelectionError):
    """The weights are pickles, and the settings want none unless they are named. `details`: `path`."""


class NoSuchVariant(SelectionError):
    """The repository does not have this quantisation, or not all of it. `details`: `quant`, `variants`."""


class ConflictingSelection(SelectionError):
    """Patterns were given beside a path or a quantisation, so that it is not clear which of them is meant."""


class AmbiguousVariant(NoSuchVariant):
    """Several variants could be meant. `details`: `variants` with their sizes in bytes and files."""


def select(
    files: Iterable[RepoFile],
    *,
    path: str | None = None,
    quant: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    similar: bool = True,
    pickles: Pickles = "auto",
    is_model: bool = True,
) -> Selection:
    """The files that a reference with this path or quantisation, and these patterns, means.

    `pickles`: whether a snapshot has them (always, never, or where a folder has no weights in safetensors); what is
    named by its path or by `include` always comes. `is_model`: whether what models consist of counts at all.

    `similar`: look for names like that of a file which is not there, for the error. Whoever drops the error saves that.

    Raises:
        ConflictingSelection: `include` beside a path or a quantisation.
        NoSuchFile: no such path, or nothing matches the patterns.
        NoSuchVariant: no such quantisation, shards that are missing, or pieces that must be joined first.
        AmbiguousVariant: several could be meant.
    """
    files = tuple(files)
    if include and (path or quant):
        raise ConflictingSelection("Give include patterns, or name a file or a quantisation: not both.")
    if path is not None:
        folder = path.rstrip("/")
        if not is_model and (below := [file for file in files if file.path.startswith(f"{folder}/")]):
            return Selection(tuple(_some(filtered(below, (), exclude), (), exclude)), "snapshot", None, folder)
        return _at_path(files, path, exclude, similar=similar, pickles=pickles)
    if not is_model:
        return Selection(tuple(_some(filtered(files, include, exclude), include, exclude)), "snapshot")
    if include:
        chosen = filtered(files, include, exclude)
        return _selection(_some(chosen, include, exclude), "snapshot")
    return _whole(files, quant, exclude, pickles)


def _whole(
    files: tuple[RepoFile, ...], quant: str | None, exclude: Sequence[str], pickles: Pickles = "auto"
) -> Selection:
    """A repository, or a folder of one: a variant where its weights are GGUF, else the snapshot."""
    models = main_models(variants(files))
    others = without_duplicates(file.path for file in files if not _is_gguf(file.path))
    if quant or (models and not _has_other_weights(files, models, others)):
        return _one_variant(files, _choose(models, quant), exclude)
    kept = {*others, *(file.path for file in files if is_vocabulary(file.path))}
    if not models and not any(is_weights(path) for path in others):
        # A projector, an importance matrix: then that is what is offered.
        kept.update(file.path for file in files)
    if pickles != "always":
        kept = _without_pickles(kept, pickles)
    chosen = filtered([file for file in files if file.path in kept], (), exclude)
    if not exclude:
        _check_shards([file.path for file in chosen if is_weights(file.path)])
    return _selection(_some(chosen, (), exclude), "snapshot")


def _without_pickles(kept: set[str], pickles: Pickles) -> set[str]:
    """Raises PicklesOnly where nothing but pickles holds the weights, and none are wanted."""
    if pickles == "auto":
        return set(without_pickles(kept))
    left = {path for path in kept if not is_pickle(path)}
    if any(is_weights(path) for path in kept) and not any(is_weights(path) for path in left):
        found = sorted(path for path in kept if is_pickle(path))
        raise PicklesOnly(
            f"The model's weights are pickles ({_listed(found[:MAX_NEAR_MISSES])}), which may run code when they are "
            "read, and HIVE_ALLOW_PICKLES=never. If you trust them, name the files or give include patterns.",
            path=found[0],
        )
    return left


def _check_shards(weights: Sequence[str]) -> None:
    """Raise NoSuchFile where the only weights are shards of which the repository lacks some."""
    if not weights or are_weights_whole(weights) or not (absent := absent_shards(weights, MAX_NEAR_MISSES)):
        return
    text = f"The model is not complete in the repository: it lacks {_listed(absent)}. Include patterns bring the rest."
    raise NoSuchFile(text, path=absent[0], similar=[])


def _has_other_weights(files: Sequence[RepoFile], models: Sequence[Variant[RepoFile]], others: Sequence[str]) -> bool:
    """Whether the model itself is here in another format: complete, and no mere part of what the GGUF files hold."""
    weights = {path for path in others if is_weights(path) and not path.endswith(".json")}
    if not weights or missing_shards(weights):
        return False
    size = sum(file.size for file in files if file.path in weights)
    if all(variant.helps for variant in models):
        return True
    return size >= OTHER_WEIGHTS_RATIO * min(variant.size for variant in models)


def at_path(path: str, paths: Iterable[str]) -> list[str]:
    """Which of these paths one in a reference means: the file, or what lies below the folder."""
    paths, folder = list(paths), path.rstrip("/") + "/"
    below = [found for found in paths if found.startswith(folder)]
    file = [found for found in paths if found == path.rstrip("/")]
    return (below or file) if path.endswith("/") else (file or below)


def filtered(files: Iterable[RepoFile], include: Sequence[str], exclude: Sequence[str]) -> list[RepoFile]:
    """What matches any of `include` (all, where it is empty) and none of `exclude`.

    As in huggingface_hub: shell patterns over the whole path; `*` crosses folders, case counts, `name/` is all below.
    """
    wanted, unwanted = _patterns(include), _patterns(exclude)
    return [
        file
        for file in files
        if (not wanted or any(fnmatchcase(file.path, pattern) for pattern in wanted))
        and not any(fnmatchcase(file.path, pattern) for pattern in unwanted)
    ]


def _at_path(
    files: tuple[RepoFile, ...], path: str, exclude: Sequence[str], *, similar: bool, pickles: Pickles
) -> Selection:
    meant = set(at_path(path, (file.path for file in files)))
    found = [file for file in files if file.path in meant]
    if found and found[0].path != path.rstrip("/"):
        return _one_folder(files, tuple(found), path.rstrip("/"), exclude, pickles)
    if not found:
        near = near_misses(path, [file.path for file in files]) if similar else []
        hint = f" Did you mean {near[0]}?" if near else ""
        if _GLOB.search(path):
            hint = " Patterns go into include (hive pull --include)."
        raise NoSuchFile(f"The model has no file {path}.{hint}", path=path, similar=near)
    return _selection(_some(filtered(found, (), exclude), (), exclude), "file")


def near_misses(path: str, paths: Iterable[str]) -> list[str]:
    """Up to `MAX_NEAR_MISSES` of these paths that are most like one that is not there, the most like first.

    difflib compares two names in the time of the product of their lengths, and a repository may have 200,000. So it
    sees some hundred only: files of the same name elsewhere, then of the same ending, then of about the same length.
    """
    name, length = path.rpartition("/")[2].lower(), len(path)
    ending = name.rpartition(".")[2]

    def unlikeness(other: str) -> tuple[bool, bool, int]:
        other_name = other.rpartition("/")[2].lower()
        return other_name != name, other_name.rpartition(".")[2] != ending, abs(len(other) - length)

    compared = {other[-MAX_COMPARED_CHARS:]: other for other in heapq.nsmallest(MAX_COMPARED, paths, key=unlikeness)}
    near = difflib.get_close_matches(path[-MAX_COMPARED_CHARS:], compared, MAX_NEAR_MISSES, NEAR_MISS_RATIO)
    return [compared[other] for other in near]


def _one_folder(
    files: tuple[RepoFile, ...], found: tuple[RepoFile, ...], folder: str, exclude: Sequence[str], pickles: Pickles
) -> Selection:
    """What lies below a folder, as if that were the repository; a projector may lie above it."""
    selection = _whole(found, None, exclude, pickles)
    if selection.kind == "gguf":
        variant = next(v for v in variants(found) if v.files[0] in selection.files)
        return _one_variant(files, variant, exclude)
    return Selection(selection.files, "snapshot", selection.variant, selection.primary or folder)


def _choose(models: list[Variant[RepoFile]], quant: str | None) -> Variant[RepoFile]:
    """The variant that is asked for, or the default: the only one, else Q4_K_M."""
    if not models:
        raise NoSuchVariant(
            "The model has no GGUF files, so it has no quantisations. Leave the ':' and what follows away.",
            quant=quant,
            variants=[],
        )
    if quant is not None:
        found = matching(models, quant)
        if not found:
            raise NoSuchVariant(
                f"The model has no {quant}. It has: {_names(models)}.", quant=quant, variants=_table(models)
            )
    else:
        found = models if len(models) == 1 else matching(models, DEFAULT_QUANT)
        if not found:
            text = f"The model has several variants, and no {DEFAULT_QUANT}. Choose one: {_names(models)}."
            raise AmbiguousVariant(text, variants=_table(models))
    usable = [variant for variant in found if not variant.missing and not variant.raw_parts] or found
    if len(usable) > 1:
        text = f"{usable[0].name} is there {len(usable)} times. Name the file: {_listed(v.primary for v in usable)}."
        raise AmbiguousVariant(text, variants=_table(usable))
    return _checked(usable[0])


def _checked(variant: Variant[RepoFile]) -> Variant[RepoFile]:
    problem = None
    if variant.raw_parts:
        problem = f"was cut into pieces that somebody has to join ({variant.primary}). Fetch them with include patterns"
    elif variant.missing:
        total = variant.missing + len(variant.files)
        problem = f"is not complete in the repository: it lacks {variant.missing} of {counted(total, 'shard')}"
    if problem:
        raise NoSuchVariant(f"{variant.name} {problem}.", quant=variant.name, variants=_table([variant]))
    return variant


def _one_variant(files: tuple[RepoFile, ...], variant: Variant[RepoFile], exclude: Sequence[str]) -> Selection:
    projector = projector_for(variant, files)
    chosen = filtered([*variant.files, *([projector] if projector else [])], (), exclude)
    paths = {file.path for file in _some(chosen, (), exclude)}
    primary = variant.primary if variant.primary in paths else None
    return Selection(tuple(file for file in chosen), "gguf", variant.name, primary)


def _selection(chosen: list[RepoFile], kind: Kind) -> Selection:
    """One file is opened itself, and so is the first shard where the files are one sharded GGUF; else the folder."""
    models = variants(chosen)
    whole = len(models) == 1 and set(models[0].files) == set(chosen) and not models[0].missing
    primary = chosen[0].path if len(chosen) == 1 else models[0].primary if whole and not models[0].raw_parts else None
    return Selection(tuple(chosen), kind, models[0].name if whole else None, primary)


def _some(chosen: list[RepoFile], include: Sequence[str], exclude: Sequence[str]) -> list[RepoFile]:
    if not chosen:
        patterns = " and ".join(
            f"{name} {_listed(globs)}" for name, globs in (("include", include), ("exclude", exclude)) if globs
        )
        why = f"{patterns} leave nothing of it" if patterns else "it is empty"
        raise NoSuchFile(f"There is nothing to fetch from this model: {why}.", path=None, similar=[])
    return chosen


def quantisations(files: Iterable[RepoFile]) -> list[dict[str, Any]]:
    """What of a repository can be asked for by `:NAME`, as errors list it: name, bytes, files."""
    return _table(main_models(variants(files)))


def _is_gguf(path: str) -> bool:
    return path[-5:].lower() == ".gguf"


def _patterns(patterns: Iterable[str]) -> list[str]:
    return [f"{pattern}*" if pattern.endswith("/") else pattern for pattern in patterns]


def _table(models: Sequence[Variant[RepoFile]]) -> list[dict[str, Any]]:
    """The variants for `details`: name, bytes, files."""
    return [
        {"name": variant.name, "size": variant.size, "files": [file.path for file in variant.files[:MAX_LISTED]]}
        for variant in models[:MAX_LISTED]
    ]


def _names(models: Sequence[Variant[RepoFile]]) -> str:
    """The variants for a sentence, with sizes."""
    return _listed(f"{variant.name} ({variant.size / 1e9:.1f} GB)" for variant in models)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
