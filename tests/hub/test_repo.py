"""The ids of repositories are git's own, and content made by offset is the same wherever one begins to read."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hub import ListedFile, PathFile, Repo, SyntheticFile
from tests.hub.content import BLOCK_BYTES, Bytes, ContentUnavailable, read_all
from tests.hub.gitobjects import lfs_pointer

FILES = {"b.txt": b"b\n", "a/deep/er.txt": b"deep\n", "a/x.txt": b"x\n", "a.txt": b"a\n", "ü.txt": b"u\n"}


def git(folder: Path, *arguments: str) -> str:
    """The output of a git command in a folder, by the stand-in's author at the time of its first commit."""
    who = {"NAME": "Stand-in", "EMAIL": "stand-in@example.invalid", "DATE": "1735689600 +0000"}
    people = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    quiet = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=folder, env=people | quiet, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_blobs_trees_and_commits_have_the_ids_that_git_gives_them(tmp_path: Path) -> None:
    repo = Repo("org/name")
    sha = repo.commit(FILES, message="First")
    git(tmp_path, "init", "--quiet")
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    git(tmp_path, "add", ".")
    tree = git(tmp_path, "write-tree")
    assert repo.file("a/x.txt").oid == git(tmp_path, "hash-object", "a/x.txt")
    assert repo.at("main").tree.oid == tree
    # The stand-in's message has no newline at its end; commit-tree adds none to what it reads.
    (tmp_path / "message").write_bytes(b"First")
    assert sha == git(tmp_path, "commit-tree", tree, "-F", "message")


def test_an_lfs_files_id_is_that_of_its_pointer() -> None:
    repo = Repo("org/name")
    content = SyntheticFile(20_000_000)
    repo.commit({"weights": content})
    entry = repo.file("weights")
    pointer = lfs_pointer(content.sha256(), content.size)
    assert entry.lfs
    assert entry.pointer == pointer
    assert entry.oid == hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()


@pytest.mark.parametrize(
    ("path", "data", "lfs"),
    [
        ("config.json", b"{}", False),
        ("vocab.txt", b"word\n" * 1_000, False),
        ("model.gguf", b"GGUF", True),
        ("UPPER.GGUF", b"GGUF", True),
        ("tiny.safetensors", b"{}", True),
        ("picture.png", b"\x89PNG\0\0", True),
        ("large.txt", b"x" * ((10 << 20) + 1), True),
    ],
)
def test_large_files_known_endings_and_binary_ones_are_lfs(path: str, data: bytes, lfs: bool) -> None:
    repo = Repo("org/name")
    repo.commit({path: data})
    assert repo.file(path).lfs is lfs


def test_a_commit_changes_the_files_it_names_and_no_others() -> None:
    repo = Repo("org/name")
    first = repo.commit({"a.txt": b"1", "b.txt": b"1"})
    second = repo.commit({"a.txt": b"2", "b.txt": None, "c.txt": b"2"})
    third = repo.commit({"d.txt": b"3"}, replace=True)
    assert set(repo.at(first).files) == {"a.txt", "b.txt"}
    assert set(repo.at(second).files) == {"a.txt", "c.txt"}
    assert set(repo.at("main").files) == set(repo.at(third).files) == {"d.txt"}


def test_revisions_are_branches_tags_refs_and_commits() -> None:
    repo = Repo("org/name")
    first = repo.commit({"a.txt": b"1"})
    repo.tag("v1")
    second = repo.commit({"a.txt": b"2"}, branch="dev")
    third = repo.pull_request(3, {"a.txt": b"3"})
    found = {name: repo.at(name).sha for name in ("main", "refs/heads/main", "v1", "dev", "refs/pr/3", second)}
    assert list(found.values()) == [first, first, first, second, third, second]
    assert repo.find("nope") is None
    with pytest.raises(KeyError, match="no revision 'nope'"):
        repo.at("nope")


def test_the_same_files_give_the_same_commit_in_every_run() -> None:
    shas = set()
    for _ in range(2):
        repo = Repo("org/name")
        shas.add(repo.commit({"a.txt": b"1", "m.gguf": SyntheticFile(100_000, seed=4)}))
    assert len(shas) == 1


def test_names_that_no_honest_repository_has_can_be_listed() -> None:
    names = ["../up.txt", "/etc/passwd", "a//b.txt", "nul\0.txt", "line\nbreak.txt", ".git/hooks/post-checkout", "CON"]
    repo = Repo("org/evil")
    repo.commit(dict.fromkeys(names, b"x"))
    listed = [entry.path for entry in repo.at("main").tree.walk(recursive=True)]
    assert set(names) <= set(listed)


@pytest.mark.parametrize("start", [0, 1, 7, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 5])
@pytest.mark.parametrize("length", [0, 1, 100, BLOCK_BYTES, BLOCK_BYTES + 9])
def test_synthetic_content_is_the_same_from_wherever_it_is_read(start: int, length: int) -> None:
    content = SyntheticFile(3 * BLOCK_BYTES + 17, seed=2, head=b"GGUF\x03")
    part = b"".join(content.blocks(start, start + length))
    assert part == read_all(content)[start : start + length]


def test_no_two_blocks_of_synthetic_content_are_alike() -> None:
    content = SyntheticFile(64 * BLOCK_BYTES)
    digests = {hashlib.sha256(block).digest() for block in content.blocks(0, content.size)}
    assert len(digests) == 64


def test_another_seed_is_another_content() -> None:
    assert SyntheticFile(100_000, seed=1).sha256() != SyntheticFile(100_000, seed=2).sha256()


def test_all_kinds_of_content_agree_on_their_bytes_and_their_digest(tmp_path: Path) -> None:
    synthetic = SyntheticFile(BLOCK_BYTES + 3, seed=8, head=b"head")
    data = read_all(synthetic)
    (tmp_path / "file").write_bytes(data)
    on_disk, written = PathFile(tmp_path / "file"), Bytes(data)
    assert data.startswith(b"head")
    assert read_all(on_disk) == read_all(written) == data
    assert synthetic.sha256() == on_disk.sha256() == written.sha256() == hashlib.sha256(data).hexdigest()


def test_a_listed_file_has_a_size_and_a_digest_and_no_bytes() -> None:
    listed = ListedFile(100_000_000_000, seed=1)
    assert listed.size == 100_000_000_000
    assert listed.sha256() != ListedFile(100_000_000_000, seed=2).sha256()
    with pytest.raises(ContentUnavailable):
        next(listed.blocks(0, 1))
