"""The limit of the bandwidth between commands of one machine: booked in a file, whoever comes, whatever it holds."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hive.store.layout import LOCKS
from workers.local.bandwidth import BOOKED_MAX_S, MachineLine

MB = 1_000_000

_OTHER = """
import sys
from pathlib import Path
from workers.local.bandwidth import MachineLine
print(MachineLine(Path(sys.argv[1]), 1_000_000).book(2_000_000)[1])
"""


def booked(line: MachineLine, n_bytes: int) -> float:
    """Seconds from now until these bytes may be accepted."""
    ours, moment_s = line.book(n_bytes)
    assert ours
    return moment_s - time.monotonic()


def test_without_a_limit_nothing_is_booked_and_no_file_is_made(tmp_path: Path) -> None:
    line = MachineLine(tmp_path, 0)
    assert not line.limited
    assert line.book(10 * MB) == (True, 0.0)
    assert list(tmp_path.iterdir()) == []


def test_what_one_books_the_next_waits_for(tmp_path: Path) -> None:
    one, other = MachineLine(tmp_path, MB), MachineLine(tmp_path, MB)
    assert booked(one, 3 * MB) <= 0
    assert booked(other, MB) == pytest.approx(3, abs=0.5)
    assert booked(one, MB) == pytest.approx(4, abs=0.5)


def test_another_process_stands_in_the_same_line(tmp_path: Path) -> None:
    assert booked(MachineLine(tmp_path, MB), 3 * MB) <= 0
    before_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _OTHER, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert before_s < float(done.stdout) < before_s + 3.5


@pytest.mark.parametrize(
    "content",
    [b"", b"x", struct.pack("<d", float("nan")), struct.pack("<d", float("inf")), struct.pack("<d", -1.0),
     struct.pack("<d", 1e12)],
)  # fmt: skip
def test_a_file_of_nonsense_keeps_nobody_waiting(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCKS).mkdir()
    (tmp_path / LOCKS / "bandwidth").write_bytes(content)
    assert booked(MachineLine(tmp_path, MB), MB) <= 0


def test_a_clock_that_began_anew_counts_as_now(tmp_path: Path) -> None:
    (tmp_path / LOCKS).mkdir()
    moment = struct.pack("<d", time.monotonic() + BOOKED_MAX_S + 60)
    (tmp_path / LOCKS / "bandwidth").write_bytes(moment)
    assert booked(MachineLine(tmp_path, MB), MB) <= 0


def test_where_the_file_cannot_be_opened_each_keeps_to_the_limit_for_itself(tmp_path: Path) -> None:
    (tmp_path / LOCKS).mkdir()
    os.symlink("/nowhere/else", tmp_path / LOCKS / "bandwidth")
    line = MachineLine(tmp_path, MB)
    assert booked(line, 2 * MB) <= 0
    assert booked(line, MB) > 1
