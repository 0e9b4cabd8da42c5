"""Verification: what is on the disk is read, and each way in which it can be wrong is said."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from hive.errors import ModelNotOnDisk
from hive.settings import Settings
from hive.store import checksum
from hive.store.cancellation import Stopped
from hive.store.inventory import all_targets, target
from hive.store.layout import encode_tree
from hive.store.verify import Verification
from hive.wire.maintenance import Note, Problem, Progress, VerificationLine, Verified
from hive.wire.selection import RepoFile
from tests.support.store import COMMIT, OTHER, QUANTS, WHOLE, put, put_tree, put_url, sha256


def verify(settings: Settings, *models: str) -> list[VerificationLine]:
    """All that is said of these models, or of the whole store."""
    said: list[VerificationLine] = []
    targets = [target(settings, model) for model in models] or all_targets(settings)
    end = Verification(settings, targets, said.append, threading.Event(), named=bool(models)).run()
    assert said[-1] == end
    return said


def problems(settings: Settings, *models: str) -> list[tuple[str, str]]:
    """Path and kind of everything that is wrong."""
    found = [(line.path, line.kind) for line in verify(settings, *models) if isinstance(line, Problem)]
    return sorted(found)


def end_of(said: list[VerificationLine]) -> Verified:
    assert isinstance(said[-1], Verified)
    return said[-1]


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def blob_of(snapshot: Path, path: str) -> Path:
    return (snapshot / path).resolve()


def test_a_sound_store_has_no_problems_and_everything_was_read(settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    put_tree(settings, "org/name", WHOLE)
    put_url(settings, "https://host.example/f", b"content")
    end = end_of(verify(settings))
    assert (end.models, end.files, end.problems) == (2, len(WHOLE) + 1, 0)
    assert end.bytes == sum(map(len, WHOLE.values())) + len(b"content")


def test_an_empty_store_is_right(settings: Settings) -> None:
    assert end_of(verify(settings)).models == 0


def test_one_changed_byte_is_found(settings: Settings) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    blob_of(snapshot, "model.safetensors").write_bytes(b"Weights")
    [found] = [line for line in verify(settings) if isinstance(line, Problem)]
    assert (found.model, found.path, found.kind) == (f"org/name@{COMMIT}", "model.safetensors", "wrong_digest")
    assert (found.expected, found.found) == (sha256(b"weights"), sha256(b"Weights"))


def test_gits_digest_is_checked_too(settings: Settings) -> None:
    snapshot = put(settings, "org/name", {})
    blobs = settings.hub_dir / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    for content in (b"right", b"wrong"):
        (blobs / git_sha1(content)).write_bytes(content)
        (snapshot / content.decode()).symlink_to(f"../../blobs/{git_sha1(content)}")
    assert problems(settings) == []
    (blobs / git_sha1(b"wrong")).write_bytes(b"wrogn")
    assert problems(settings) == [("wrong", "wrong_digest")]


def test_a_size_other_than_the_listings_is_told_without_reading(settings: Settings) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    put_tree(settings, "org/name", WHOLE)
    blob_of(snapshot, "model.safetensors").write_bytes(b"we")
    said = verify(settings)
    [found] = [line for line in said if isinstance(line, Problem)]
    assert (found.kind, found.expected, found.found) == ("wrong_size", "7", "2")
    assert end_of(said).bytes == sum(map(len, WHOLE.values())) - len(b"weights")


def test_a_link_without_a_blob_dangles(settings: Settings) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    blob_of(snapshot, "config.json").unlink()
    assert problems(settings) == [("config.json", "dangling_link")]


def test_a_link_that_leads_out_is_not_followed(settings: Settings, tmp_path: Path) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    (tmp_path / "outside").write_bytes(b"secret")
    (snapshot / "extra.json").symlink_to(tmp_path / "outside")
    (settings.hub_dir / "models--org--name" / "blobs" / sha256(b"x")).symlink_to(tmp_path / "outside")
    (snapshot / "x").symlink_to(f"../../blobs/{sha256(b'x')}")
    assert problems(settings) == [("extra.json", "foreign_link"), ("x", "dangling_link")]


def test_a_link_to_another_files_content_is_wrong(settings: Settings) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    put_tree(settings, "org/name", WHOLE)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(os.readlink(snapshot / "README.md"))
    assert problems(settings) == [("config.json", "wrong_digest")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(settings: Settings) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    blob_of(snapshot, "config.json").chmod(0)
    assert problems(settings) == [("config.json", "unreadable")]


def test_a_disk_that_fails_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    put(settings, "org/name", WHOLE)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("hive.store.checksum.os.preadv", fail)
    assert problems(settings) == [(path, "unreadable") for path in sorted(WHOLE)]


def test_a_shard_that_lacks_among_its_set_is_missing(settings: Settings) -> None:
    put(settings, "org/name", {f"m-{i:05d}-of-00003.safetensors": b"%d" % i for i in (1, 3)})
    put(settings, "datasets/org/name", {"train-00001-of-00003.parquet": b"1"})
    assert problems(settings) == [("m-00002-of-00003.safetensors", "missing")]


def test_listed_files_that_were_never_asked_for_are_a_note(settings: Settings) -> None:
    put(settings, "org/name", {"config.json": b"{}"})
    put_tree(settings, "org/name", WHOLE)
    said = verify(settings)
    [note] = [line for line in said if isinstance(line, Note)]
    assert note.paths == ("README.md", "model.safetensors")
    assert end_of(said).problems == 0


def test_files_without_links_are_compared_with_the_listing(settings: Settings) -> None:
    snapshot = settings.hub_dir / "models--org--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path, content in WHOLE.items():
        (snapshot / path).write_bytes(content)
    assert [line.paths for line in verify(settings) if isinstance(line, Note)] == [tuple(sorted(WHOLE))]
    trees = settings.hive_dir / "trees" / "models--org--name"
    trees.mkdir(parents=True)
    listed = [RepoFile(path, len(content), git_sha1(content)) for path, content in WHOLE.items()]
    (trees / f"{COMMIT}.json").write_bytes(encode_tree(listed))
    assert problems(settings) == []
    (snapshot / "model.safetensors").write_bytes(b"Weights")
    assert problems(settings) == [("model.safetensors", "wrong_digest")]


def test_a_content_that_two_commits_share_is_read_once_and_told_twice(settings: Settings) -> None:
    put(settings, "org/name", {"a": b"same"})
    snapshot = put(settings, "org/name", {"b": b"same"}, commit=OTHER, refs=())
    assert end_of(verify(settings)).bytes == 4
    blob_of(snapshot, "b").write_bytes(b"SAME")
    said = verify(settings)
    assert [(line.model, line.path) for line in said if isinstance(line, Problem)] == [
        (f"org/name@{COMMIT}", "a"),
        (f"org/name@{OTHER}", "b"),
    ]
    assert end_of(said).bytes == 4


def test_a_blob_in_the_shared_store_is_read_there(settings: Settings) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    blob = blob_of(snapshot, "model.safetensors")
    shared = settings.hub_dir / "blobs" / "cd" / ("cd" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert problems(settings) == []
    shared.write_bytes(b"WEIGHTS")
    assert problems(settings) == [("model.safetensors", "wrong_digest")]


def test_a_urls_file_is_compared_with_its_manifest(settings: Settings) -> None:
    path = put_url(settings, "https://host.example/f", b"content")
    path.write_bytes(b"CONTENT")
    assert problems(settings) == [("file.gguf", "wrong_digest")]
    path.write_bytes(b"cont")
    assert problems(settings) == [("file.gguf", "wrong_size")]
    path.unlink()
    assert problems(settings, f"url/{path.parent.name}/file.gguf") == [("file.gguf", "missing")]


def test_only_the_named_variant_is_read(settings: Settings) -> None:
    snapshot = put(settings, "org/q", QUANTS)
    blob_of(snapshot, "M-Q8_0.gguf").write_bytes(b"eight!!!")
    assert problems(settings, "org/q:Q4_K_M") == []
    assert problems(settings, "hf:org/q:q8_0") == [("M-Q8_0.gguf", "wrong_digest")]
    assert end_of(verify(settings, "org/q:Q4_K_M")).files == 2


def test_a_model_of_which_nothing_is_left_can_still_be_named(settings: Settings) -> None:
    snapshot = put(settings, "org/q", {"M-Q8_0.gguf": b"eight"})
    blob_of(snapshot, "M-Q8_0.gguf").unlink()
    assert problems(settings, "org/q:Q8_0") == [("M-Q8_0.gguf", "dangling_link")]


@pytest.mark.parametrize(
    "name", ["org/none", "org/q:Q2_K", "org/q@none", "org/q/none.gguf", "url/0123456789abcdef/x", "../../etc", "url/.."]
)
def test_what_is_not_on_disk_is_refused(settings: Settings, name: str) -> None:
    put(settings, "org/q", QUANTS)
    with pytest.raises(ModelNotOnDisk):
        verify(settings, name)


def test_a_file_that_is_exchanged_while_it_is_read_is_read_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = put(settings, "org/name", {"model.safetensors": b"weights"})
    blob = blob_of(snapshot, "model.safetensors")
    blob.write_bytes(b"WRONG!!")
    real = checksum._digest
    readings = []

    def exchange(*args: object) -> str:
        found = real(*args)  # type: ignore[arg-type]
        readings.append(found)
        if len(readings) == 1:
            (blob.parent / "new").write_bytes(b"weights")
            os.replace(blob.parent / "new", blob)
        return found

    monkeypatch.setattr(checksum, "_digest", exchange)
    assert problems(settings) == []
    assert readings == [sha256(b"WRONG!!"), sha256(b"weights")]


def test_a_stop_ends_it_within_a_block(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "BLOCK_BYTES", 1)
    put(settings, "org/name", {"model.safetensors": b"w" * 100_000})
    stop = threading.Event()
    said: list[VerificationLine] = []

    def say(line: VerificationLine) -> None:
        said.append(line)
        stop.set()

    with pytest.raises(Stopped):
        Verification(settings, all_targets(settings), say, stop).run()
    assert [type(line) for line in said] == [Progress]


def test_what_was_read_is_given_back_to_the_kernel(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    put(settings, "org/name", {"model.safetensors": b"w" * 10_000})
    given_back = []

    def note(file: int, at: int, count: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED:
            given_back.append((at, count))

    monkeypatch.setattr(checksum, "BLOCK_BYTES", 4096)
    monkeypatch.setattr("hive.store.checksum.os.posix_fadvise", note)
    assert problems(settings) == []
    assert given_back == [(0, 4096), (4096, 4096), (8192, 1808)]
