"""Liveness of this machine's workers: a file for each, touched while its loop goes round.

Problem: an orchestrator restarts what hangs, and asks the container itself. The easy ways are both wrong: that the
process exists says nothing of a loop that stands still, and a heartbeat in Redis ends for all workers when Redis is
away, which is no reason to restart any of them. So each worker touches a file of its own in HIVE_HOME whenever its loop
goes round, Redis or no Redis, and whoever asks looks at the files of this host.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final, NamedTuple

#: The folder in HIVE_HOME.
FOLDER: Final = "pulse"
#: Seconds after which a worker that did not touch its file hangs. It does so every 5 s, and waits for a reply of Redis
#: for up to 30.
MAX_SILENCE_S: Final = 60.0


class Pulse:
    """That of one worker process."""

    def __init__(self, home: Path) -> None:
        self._path = home / FOLDER / f"{os.uname().nodename}.{os.getpid()}"

    def beat(self) -> None:
        """The loop has gone round. A home that cannot be written is no reason to stop."""
        with contextlib.suppress(OSError):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.touch(mode=0o600)

    def end(self) -> None:
        """The process ends in order."""
        with contextlib.suppress(OSError):
            self._path.unlink()


class Looked(NamedTuple):
    """Pids of the workers of this host: of all that are there, and of those among them that hang."""

    pids: tuple[int, ...]
    hanging: tuple[int, ...]


def look(home: Path) -> Looked:
    """How this host's workers are. What dead ones left is removed."""
    prefix = f"{os.uname().nodename}."
    pids, hanging = [], []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted((home / FOLDER).iterdir()):
            text = path.name.removeprefix(prefix)
            if text == path.name or not text.isdecimal():
                continue
            with contextlib.suppress(FileNotFoundError):
                if not _is_there(int(text)):
                    path.unlink()
                    continue
                pids.append(int(text))
                if time.time() - path.stat().st_mtime > MAX_SILENCE_S:
                    hanging.append(int(text))
    return Looked(tuple(pids), tuple(hanging))


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
