"""Whether this host's workers are well, as their files say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from hive.processes import pulse
from hive.processes.pulse import Looked, Pulse

ME = os.getpid()


def age(home: Path, seconds: float) -> None:
    for path in (home / pulse.FOLDER).iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_nobody_is_there_where_nobody_was(tmp_path: Path) -> None:
    assert pulse.look(tmp_path) == Looked((), ())


def test_a_worker_is_well_while_it_beats_and_hangs_when_it_does_not(tmp_path: Path) -> None:
    own = Pulse(tmp_path)
    own.beat()
    assert pulse.look(tmp_path) == Looked((ME,), ())
    age(tmp_path, pulse.MAX_SILENCE_S + 1)
    assert pulse.look(tmp_path) == Looked((ME,), (ME,))
    own.beat()
    assert pulse.look(tmp_path) == Looked((ME,), ())
    own.end()
    assert pulse.look(tmp_path) == Looked((), ())
    own.end()


def test_what_a_killed_worker_left_is_removed_and_what_others_left_is_not_ours(tmp_path: Path) -> None:
    code = "import sys, pathlib; from hive.processes.pulse import Pulse; Pulse(pathlib.Path(sys.argv[1])).beat()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    folder = tmp_path / pulse.FOLDER
    (folder / "another-host.7").touch()
    (folder / f"{os.uname().nodename}.notes").touch()
    assert len(list(folder.iterdir())) == 3
    assert pulse.look(tmp_path) == Looked((), ())
    assert sorted(path.name for path in folder.iterdir()) == sorted(["another-host.7", f"{os.uname().nodename}.notes"])


def test_a_home_that_cannot_be_made_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    own = Pulse(tmp_path / "file")
    own.beat()
    own.end()
    assert pulse.look(tmp_path / "file") == Looked((), ())


def test_the_folder_is_nobody_else_s(tmp_path: Path) -> None:
    Pulse(tmp_path).beat()
    assert (tmp_path / pulse.FOLDER).stat().st_mode & 0o777 == 0o700
