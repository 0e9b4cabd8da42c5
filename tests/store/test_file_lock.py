"""A lock of one name: what it leaves where it cannot be signed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hive.store.file_lock import FileLock, holder_of


def test_one_that_cannot_be_signed_for_want_of_room_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            FileLock(tmp_path, "download").acquire("us")
    assert len(os.listdir("/proc/self/fd")) == before
    lock = FileLock(tmp_path, "download")
    assert lock.acquire("them")
    assert holder_of(tmp_path, "download") == "them"
    lock.release()
    assert holder_of(tmp_path, "download") is None
