"""`hive up` as a process."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.child import Child
from tests.support.cli import COMMAND_TIMEOUT_S, command


class Up(NamedTuple):
    """A running `hive up`."""

    process: subprocess.Popen[str]
    address: str
    ready_line: str
    log: Path

    def children(self) -> dict[str, int]:
        """The pids of its children by what they are."""
        found = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                kinds = {"server": b"\0serve\0", "workers": b"\0workers\0", "redis": b"redis"}
                found[next((kind for kind, word in kinds.items() if word in line), f"? {line!r}")] = int(pid)
        return found


@contextlib.contextmanager
def running_up(env: dict[str, str], log: Path, *args: str, under: Sequence[str] = ()) -> Iterator[Up]:
    """`hive up` on a free port, ready. `under`: a command that runs the rest of its line in its own place."""
    with log.open("w") as err:
        line_of_it = [*under, *command("up", "--port", "0", *args)]
        process = Child(line_of_it, env=env, stdout=subprocess.PIPE, stderr=err, text=True)
    with process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line, log.read_text()
        try:
            yield Up(process, line.split(" at ")[1].split(",")[0], line, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(COMMAND_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
