"""Folders that are opened, read and written without following links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hive.store.dirfd import (
    open_folder,
    read_file,
    remove_empty,
    size_of,
    subfolders,
    temporary_name,
    walk,
    write_file,
    write_link,
)


def test_folders_are_made_on_the_way_when_asked(tmp_path: Path) -> None:
    with open_folder(tmp_path / "new", "a", "b", create=True) as folder:
        write_file(folder, "file", b"content")

    assert (tmp_path / "new/a/b/file").read_bytes() == b"content"
    with pytest.raises(FileNotFoundError), open_folder(tmp_path, "absent"):
        pytest.fail("opened what does not exist")


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_link_on_the_way_is_refused(tmp_path: Path, create: bool, depth: int) -> None:
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    names = ("link", "b") if depth == 0 else ("a", "link")
    link = root.joinpath(*names[: depth + 1])
    link.symlink_to(outside if depth == 0 else outside / "b")

    with pytest.raises(OSError, match=r"directory|symbolic"), open_folder(root, *names, create=create):
        pytest.fail("went through a link")


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "a").mkdir(parents=True)
    (tmp_path / "store").symlink_to(tmp_path / "disk")

    with open_folder(tmp_path / "store") as folder:
        assert subfolders(folder) == ["a"]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(20):
        with open_folder(tmp_path, "a", "b", "c", create=True) as folder:
            write_file(folder, "f", b"")
            assert read_file(folder, "f", 10) == b""
        with pytest.raises(OSError, match="No such"), open_folder(tmp_path, "a", "x", "y"):
            pytest.fail("opened what does not exist")
        with open_folder(tmp_path) as root:
            assert [path for _, path, _ in walk(root)] == ["a/b/c/f"]

    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_a_link_a_pipe_or_too_long_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")

    with open_folder(tmp_path) as folder:
        assert read_file(folder, "file", 5) == b"12345"
        assert [read_file(folder, name, 5) for name in ("link", "pipe", "folder", "absent")] == [None] * 4
        assert read_file(folder, "file", 4) is None
        assert (size_of(folder, "file"), size_of(folder, "link"), size_of(folder, "absent")) == (5, None, None)


def test_a_file_that_cannot_be_written_leaves_no_rest(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()

    with open_folder(tmp_path) as folder:
        with pytest.raises(OSError, match="directory"):
            write_file(folder, "name", b"content")
        with pytest.raises(OSError, match="directory"):
            write_link(folder, "name", "target")

    assert os.listdir(tmp_path) == ["name"]


def test_writing_replaces_a_planted_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"keep")
    (tmp_path / "name").symlink_to(tmp_path / "outside")

    with open_folder(tmp_path) as folder:
        write_file(folder, "name", b"new")

    assert (tmp_path / "outside").read_bytes() == b"keep"
    assert (tmp_path / "name").read_bytes() == b"new"
    assert not (tmp_path / "name").is_symlink()


def test_a_link_is_turned_without_a_moment_in_which_it_is_missing(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        write_link(folder, "name", "one")
        write_link(folder, "name", "two")

    assert os.readlink(tmp_path / "name") == "two"
    assert os.listdir(tmp_path) == ["name"]


@pytest.mark.parametrize("name", ["x" * 255, "\u20ac" * 85, "short"])
def test_a_temporary_name_fits_beside_the_longest_name(name: str) -> None:
    assert len(temporary_name(name).encode()) <= 255
    assert temporary_name(name) != temporary_name(name)


def test_a_walk_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"")
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "file").write_bytes(b"")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")

    with open_folder(tmp_path / "root") as folder:
        assert sorted(path for _, path, _ in walk(folder)) == ["a/file", "link"]


def test_empty_folders_are_removed_up_to_the_first_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"")

    with open_folder(tmp_path) as folder:
        remove_empty(folder, "a/b/c")
        remove_empty(folder, "absent/x")

    assert os.listdir(tmp_path / "a") == ["file"]


def test_an_error_in_a_folder_carries_the_whole_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, open_folder(tmp_path, "a", "b", create=True) as folder:
        os.unlink("missing", dir_fd=folder)

    assert caught.value.filename == f"{tmp_path}/a/b/missing"


def test_an_error_of_a_descriptor_carries_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught, open_folder(tmp_path) as folder:
        os.write(folder, b"a folder is not written to")

    assert caught.value.filename == str(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")

    with pytest.raises(NotADirectoryError) as caught, open_folder(tmp_path, "a", "b", create=True):
        pass

    assert caught.value.filename == f"{tmp_path}/a"


def test_a_folder_that_need_not_be_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link").symlink_to(tmp_path)

    for name in ("nothing", "file", "link"):
        with open_folder(tmp_path, name, missing_ok=True) as folder:
            assert folder is None
