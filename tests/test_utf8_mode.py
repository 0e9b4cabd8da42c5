"""hive's programs in a locale whose encoding is not UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hive.utf8_mode import utf8_environment

#: ASCII, and none of Python's ways out of it (PEP 538, PEP 540).
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}

_PROGRAM = """
import os, sys
print(sys.getfilesystemencoding(), flush=True)
from hive.utf8_mode import ensure_utf8
ensure_utf8()
os.write(1, " ".join(sys.argv).encode("utf-8", "surrogateescape") + b"\\n")
"""


@pytest.mark.parametrize("options", [[], ["-I"]], ids=str)
def test_a_program_begins_anew_once_and_keeps_its_arguments(options: list[str]) -> None:
    command = [sys.executable.encode(), *(option.encode() for option in options), b"-c", _PROGRAM.encode()]
    done = subprocess.run(
        [*command, "模型".encode(), b"caf\xe9"], env=os.environ | ASCII, capture_output=True, timeout=60
    )
    encodings = b"utf-8\n" if options else b"ascii\nutf-8\n"  # `-I` passes over PYTHONUTF8, not over LC_ALL
    assert done.stdout == encodings + b"-c " + "模型".encode() + b" caf\xe9\n", done.stderr


def test_workers_read_their_arguments_as_utf8() -> None:
    command = [sys.executable, "-P", "-m", "workers", "--模型"]
    done = subprocess.run(command, env=os.environ | ASCII, capture_output=True, timeout=60)
    assert "--模型".encode() in done.stderr


@pytest.mark.parametrize(
    ("shown", "kept"), [("iso8859-1", "iso8859-1"), ("ANSI_X3.4-1968", None), ("utf-8", None), (None, None)]
)
def test_a_terminal_keeps_its_letters(shown: str | None, kept: str | None) -> None:
    environ = utf8_environment({"PYTHONUTF8": "0", "A": "b"}, shown)
    assert environ == {"PYTHONUTF8": "1", "A": "b"} | ({"PYTHONIOENCODING": kept} if kept else {})


def test_what_somebody_chose_for_streams_stays() -> None:
    assert utf8_environment({"PYTHONIOENCODING": "cp1252"}, "iso8859-1")["PYTHONIOENCODING"] == "cp1252"
