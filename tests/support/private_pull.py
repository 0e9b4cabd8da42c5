"""`hive pull` where no server runs, as a process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import SyntheticFile
from tests.hub.content import read_all
from tests.support.child import Child
from tests.support.cli import COMMAND_TIMEOUT_S, Result

#: Runs hive as if nothing ever listened at the default address, whatever else this machine runs.
ALONE = (
    sys.executable,
    "-c",
    "import hive.cli.server as s; s.DEFAULT_ADDRESS = '127.0.0.1:1'; from hive.cli import main; main()",
)

#: Above the size from which a file is fetched, and resumed, in parts.
SIZE_BYTES = 40_000_000

CONTENT = SyntheticFile(SIZE_BYTES, seed=7, head=b"GGUF")


def pull(env: dict[str, str], *args: str) -> Result:
    done = subprocess.run(
        [*ALONE, "pull", *args], env=env, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


def start_pull(env: dict[str, str], *args: str) -> Child[str]:
    return Child([*ALONE, "pull", *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digest(path: str) -> str:
    return hashlib.sha256(Path(path.strip()).read_bytes()).hexdigest()


def wait_until_under_way(process: subprocess.Popen[str]) -> None:
    """Read what the pull says until bytes arrive."""
    assert process.stderr is not None
    for line in process.stderr:
        if ": downloading " in line and "%" in line and " 0.0%" not in line:
            return
    pytest.fail("the download does not begin")


EXPECTED = hashlib.sha256(read_all(CONTENT)).hexdigest()
