"""Errors of the disk: whatever a disk says is told as such, with the system's sentence and the path."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from pathlib import Path

import pytest

from hive.cli.errors import explain
from hive.disk_errors import disk_error, disk_full, is_disk_error, system_error
from hive.disk_errors import with_path as located
from hive.errors import DiskFull, HiveError, ResourcesExhausted, SourceChanged, StoreNotWritable

#: Everything that open(2), write(2), rename(2) and their like may say of a disk, and some that nobody expects.
REFUSALS = [
    *("EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ENAMETOOLONG", "EXDEV", "ENOTDIR", "EISDIR", "ELOOP", "ENOENT"),
    *("EEXIST", "ENOTEMPTY", "EMLINK", "EFBIG", "EBUSY", "ETXTBSY", "ENODEV", "ENXIO", "EINVAL", "ENOSYS", "ENOTSUP"),
    *("EREMOTEIO", "ENOLCK", "EDEADLK", "EILSEQ", "EUCLEAN", "ENOTCONN", "EHOSTDOWN", "ETIMEDOUT"),
]


@pytest.mark.parametrize("name", [name for name in REFUSALS if hasattr(errno, name)])
def test_whatever_a_disk_refuses_with_is_a_507_with_its_sentence_and_path(name: str) -> None:
    number = getattr(errno, name)
    error = OSError(number, os.strerror(number), "/store/hub/file")

    found = disk_error(error)

    assert is_disk_error(error)
    assert (type(found), found.status) == (StoreNotWritable, 507)
    assert os.strerror(number) in found.message
    assert "/store/hub/file" in found.message
    assert found.details["path"] == "/store/hub/file"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_full_quota_are_told_with_the_bytes_that_were_to_come(number: int) -> None:
    found = disk_error(OSError(number, os.strerror(number)), Path("/store/hive/partial"), needed=5)

    assert type(found) is DiskFull
    assert os.strerror(number) in found.message
    assert found.details == {"path": "/store/hive/partial", "needed": 5}


@pytest.mark.parametrize(
    ("number", "way_out"), [(errno.EMFILE, "ulimit -n"), (errno.ENFILE, "fs.file-max"), (errno.ENOMEM, "memory")]
)
def test_a_limit_of_the_process_is_no_fault_of_the_disk(number: int, way_out: str) -> None:
    found = disk_error(OSError(number, os.strerror(number), "/store"))

    assert type(found) is ResourcesExhausted
    assert way_out in found.message.partition("disk: ")[2].removeprefix(os.strerror(number))


@pytest.mark.parametrize(
    ("error", "way_out"),
    [(MemoryError(), "ulimit -v"), (RuntimeError("can't start new thread"), "ulimit -u"), (OSError(24, ""), "-n")],
)
def test_a_limit_of_the_process_is_no_mistake_of_hives(error: Exception, way_out: str) -> None:
    found = system_error(error)

    assert type(found) is ResourcesExhausted
    assert way_out in found.message
    assert system_error(RuntimeError("something else")) is None
    shown = explain(error)
    assert shown.code == "RESOURCES_EXHAUSTED"
    assert way_out in shown.message


def test_a_full_disk_that_a_command_meets_has_its_code_and_place() -> None:
    shown = explain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/store/hive/downloads/x"))

    assert shown.code == DiskFull.code
    assert shown.message.startswith("/store/hive/downloads/x: ")


def test_a_name_beside_a_folder_gets_the_folder() -> None:
    found = disk_error(OSError(errno.EROFS, "", "main"), Path("/store/hub/refs"))

    assert found.details["path"] == "/store/hub/refs/main"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "reset"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        TimeoutError(errno.ETIMEDOUT, "late"),
        TimeoutError("late"),
        socket.gaierror(socket.EAI_NONAME, "no such name"),
        ssl.SSLError(1, "bad certificate"),
        OSError(errno.EHOSTUNREACH, "no route"),
        OSError("something without a number"),
        ValueError("no system error"),
    ],
)
def test_what_a_network_says_is_not_the_disk_s(error: Exception) -> None:
    assert not is_disk_error(error)


def test_a_path_is_added_once_and_only_to_what_a_disk_said() -> None:
    here, there = Path("/here"), Path("/there")
    changed: HiveError = SourceChanged()

    assert located(located(StoreNotWritable("No."), here), there).message == "No. (/here)"
    assert located(changed, here) is changed


def test_a_disk_that_is_too_small_is_told_with_figures_and_its_path() -> None:
    full = disk_full(Path("/store"), needed=5_000_000_000, available=20_000_000, reserved=1_500_000_000)

    assert "free space at /store: 5.0 GB to come, 20.0 MB free, beside 1.5 GB" in full.message
    assert full.details == {
        "path": "/store",
        "needed": 5_000_000_000,
        "available": 20_000_000,
        "reserved": 1_500_000_000,
    }
