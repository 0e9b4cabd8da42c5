"""A file of the worker's own machine, copied into the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from hive.errors import FileNotFound
from workers.sources.local_file import copy_local_file


def test_a_source_that_cannot_be_read_is_not_told_as_a_fault_of_the_store(tmp_path: Path) -> None:
    # It opens, and its first read is an EIO: nothing is mapped at address 0.
    with pytest.raises(FileNotFound, match="cannot read /proc/self/mem: Input/output error"):
        copy_local_file(Path("/proc/self/mem"), tmp_path / "x", None, lambda _: None)
