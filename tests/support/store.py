"""Caches of the Hub for tests, laid out by hand as huggingface_hub does it, without a download."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hive.settings import Settings
from hive.store.layout import Manifest, encode_tree, repo_folder, url_key
from hive.store.store_id import STORE_ID
from hive.wire.selection import RepoFile

#: Two commits.
COMMIT = "a" * 40
OTHER = "b" * 40


#: A model of safetensors, one of GGUF variants with a projector, and one in shards.
TEXTS = {"config.json": b"{}", "README.md": b"# A model"}
WHOLE = {**TEXTS, "model.safetensors": b"weights"}
QUANTS = {"M-Q4_K_M.gguf": b"four", "M-Q8_0.gguf": b"eight...", "mmproj-F16.gguf": b"eyes", "README.md": b"# quants"}
SHARDS = {f"BF16/M-BF16-{number:05d}-of-00003.gguf": b"%d" % number for number in (1, 2, 3)}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(
    settings: Settings,
    repo: str,
    files: Mapping[str, bytes],
    *,
    commit: str = COMMIT,
    refs: tuple[str, ...] = ("main",),
) -> Path:
    """Put files of a commit into the cache, without a listing; gives the snapshot's folder."""
    folder = settings.hub_dir / repo_folder(repo)
    snapshot = folder / "snapshots" / commit
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        blob = folder / "blobs" / sha256(content)
        blob.write_bytes(content)
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    for ref in refs:
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return snapshot


def put_tree(settings: Settings, repo: str, files: Mapping[str, bytes], *, commit: str = COMMIT) -> None:
    """Put the Hub's listing of a commit beside its snapshot."""
    trees = settings.hub_dir / repo_folder(repo) / "trees"
    trees.mkdir(parents=True, exist_ok=True)
    listed = [RepoFile(path, len(content), "0" * 40, sha256(content)) for path, content in files.items()]
    (trees / f"{commit}.json").write_bytes(encode_tree(listed))


def put_url(settings: Settings, url: str, content: bytes, *, name: str = "file.gguf", size: int | None = None) -> Path:
    """Put a file from a URL into the store; gives its path."""
    folder = settings.hive_dir / "files" / url_key(url)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    shown = url.partition("?")[0]
    manifest = Manifest(name=name, url=shown, size=len(content) if size is None else size, sha256=sha256(content))
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return folder / name


def everything_below(folder: Path) -> set[str]:
    """Every file, link and folder below a folder, by its path."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def empty_store(store: Path) -> None:
    """Remove all that is in a store while a server has it: its id stays, by which the server knows it."""
    for folder in (store, store / "hive"):
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.is_symlink() or not entry.is_dir():
                if entry.name != STORE_ID:
                    entry.unlink(missing_ok=True)
            elif entry != store / "hive":
                shutil.rmtree(entry, ignore_errors=True)
