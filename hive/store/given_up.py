"""Tombstones of bytes that were given up: of which contents the disk held other bytes lately than it holds now.

Problem: a file is handed out while it is fetched. Where its first bytes turn out wrong and come anew, whoever has the
old ones must not get the rest behind them; and the server that handed them out may be gone by then, killed before it
knew. So whoever gives up bytes of a content says so first, beside the content itself: any server of this store sees it,
with or without Redis, and answers a request for the rest with all of the file.

    hive/given-up/<digest>      an empty file; its time is when bytes of this content were given up last
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

from hive.store.dirfd import open_folder, write_file

#: The folder, below `hive`.
GIVEN_UP: Final = "given-up"
#: Seconds for which a note counts, as long as a mark that a server makes (hive/downloads/wrong_digests.py).
NOTE_TTL_S: Final = 3_600


def note_given_up(hive: Path, digest: str) -> None:
    """Note that bytes of this content are given up, before they are. Old notes go. Raises OSError."""
    with open_folder(hive, GIVEN_UP, create=True) as notes:
        write_file(notes, digest, b"")
        for name in os.listdir(notes):
            with contextlib.suppress(OSError):
                if _age_s(os.stat(name, dir_fd=notes, follow_symlinks=False)) > NOTE_TTL_S:
                    os.unlink(name, dir_fd=notes)


def note_removed(hive: Path, partials: int, key: str) -> None:
    """The same before the partial file `key` of the folder behind `partials` is removed; nothing where nobody can have
    read it, since it has no journal. Raises OSError.
    """
    if key.startswith("url-"):
        return
    with contextlib.suppress(FileNotFoundError):
        os.stat(f"{key}.journal", dir_fd=partials, follow_symlinks=False)
        note_given_up(hive, key.removeprefix("git-"))


def given_up(hive: Path, digest: str) -> int:
    """When bytes of this content were given up last, within an hour, as a number that another time has not; 0 where
    none were. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError), open_folder(hive, GIVEN_UP) as notes:
        found = os.stat(digest, dir_fd=notes, follow_symlinks=False)
        return found.st_mtime_ns if _age_s(found) <= NOTE_TTL_S else 0
    return 0


def _age_s(found: os.stat_result) -> float:
    return time.time() - found.st_mtime
