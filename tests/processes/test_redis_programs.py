"""The note of the program that has written the data, where something else lies in its place."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hive.processes.redis_programs import NOTE, find_programs, note_program


def test_a_program_is_noted_and_found(tmp_path: Path) -> None:
    note_program(tmp_path, sys.executable)
    assert find_programs(tmp_path)[0] == sys.executable


@pytest.mark.parametrize("target", ["there", "not there"])
def test_a_link_is_neither_read_nor_written_through(tmp_path: Path, target: str) -> None:
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    home.mkdir()
    if target == "there":
        elsewhere.write_text(sys.executable)
    (home / NOTE).symlink_to(elsewhere)
    assert sys.executable not in find_programs(home)
    note_program(home, "/another")
    assert elsewhere.exists() == (target == "there")
    assert target != "there" or elsewhere.read_text() == sys.executable


def test_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NOTE)
    assert sys.executable not in find_programs(tmp_path)
    note_program(tmp_path, sys.executable)
    assert (tmp_path / NOTE).is_fifo()
