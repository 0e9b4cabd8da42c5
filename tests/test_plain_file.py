"""What is opened by name in the store and in a home: a pipe or a link in its place is refused and not waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hive.errors import HiveError
from hive.plain_file import NOT_PLAIN
from hive.processes.instance_lock import LOCK_NAME, InstanceLock
from hive.processes.instance_lock import holder_of as holder_of_home
from hive.processes.log_file import RotatedFile, open_log, tail
from hive.serving.gguf_header import read_gguf
from hive.store.dirfd import copy_file, open_folder
from hive.store.file_lock import FileLock
from hive.store.file_lock import holder_of as holder_of_lock
from hive.store.filesystem import Place
from hive.store.frontier import JournalTail, open_partial
from hive.store.layout import LOCKS, PARTIAL
from hive.store.partial_lock import PartialLocks
from hive.store.trash import hub_lock
from workers.sources.local_file import copy_local_file
from workers.transfer.state.disk import open_data
from workers.transfer.state.journal import recover


def _copied(root: Path) -> None:
    with open_folder(root) as folder:
        copy_file(folder, "name", folder, "copy")


def _hub_locked(root: Path) -> None:
    with hub_lock(root, "models--a--b", "name"):
        pytest.fail("a lock on what is no file")


def _copied_from_here(root: Path) -> None:
    (root / "source").write_bytes(b"x")
    copy_local_file(root / "source", root / "name", None, lambda _: None)


#: Where it lies, and who opens it.
REFUSED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "log": ("name", lambda root: open_log(root / "name")),
    "audit log": ("name", lambda root: RotatedFile(root / "name")),
    "home's lock": (LOCK_NAME, lambda root: InstanceLock(root).acquire()),
    "lock": (f"{LOCKS}/name", lambda root: FileLock(root, "name").acquire("me")),
    "lock of a partial file": (
        f"{PARTIAL}/name.lock",
        lambda root: PartialLocks(Place(root, (PARTIAL,)), "r").acquire("name"),
    ),
    "lock of the Hub's tools": (".locks/models--a--b/name.lock", _hub_locked),
    "journal of a file that is followed": (
        f"{PARTIAL}/name.journal",
        lambda root: JournalTail(root, "name").frontier(),
    ),
    "file that is followed": (f"{PARTIAL}/name.part", lambda root: open_partial(root, "name")),
    "partial file": ("name.part", lambda root: open_data(root / "name.part")),
    "copy of a file of this machine": ("name.part", _copied_from_here),
    "file that is copied": ("name", _copied),
}
#: The same where it is as if there were nothing.
PASSED_OVER: dict[str, tuple[str, Callable[[Path], object]]] = {
    "end of a log": ("name", lambda root: tail(root / "name", 3) or None),
    "holder of a home": (LOCK_NAME, holder_of_home),
    "holder of a lock": (f"{LOCKS}/name", lambda root: holder_of_lock(root, "name")),
    "journal": ("name", lambda root: recover(root / "name", 1, "")),
}


def plant(place: Path, kind: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    else:
        (place.parent / "elsewhere").write_bytes(b"content of somebody else\n")
        place.symlink_to("elsewhere")


@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, what: str, kind: str) -> None:
    at, opened = REFUSED[what]
    plant(tmp_path / at, kind)
    with pytest.raises((OSError, HiveError)) as failed:
        opened(tmp_path)
    reason = failed.value if isinstance(failed.value, OSError) else failed.value.__cause__
    assert isinstance(reason, OSError), failed.value
    assert reason.errno in NOT_PLAIN
    assert reason.strerror == "it is no plain file"
    if kind == "link":
        assert (tmp_path / at).with_name("elsewhere").read_bytes() == b"content of somebody else\n"


@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("what", PASSED_OVER)
def test_what_is_no_file_says_nothing(tmp_path: Path, what: str, kind: str) -> None:
    at, opened = PASSED_OVER[what]
    plant(tmp_path / at, kind)
    assert opened(tmp_path) is None


def test_a_model_in_whose_place_a_pipe_lies_is_not_waited_for(tmp_path: Path) -> None:
    plant(tmp_path / "model.gguf", "pipe")
    with pytest.raises(OSError, match="no plain file"):
        read_gguf(tmp_path / "model.gguf")
