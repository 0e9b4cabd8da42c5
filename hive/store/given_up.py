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
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hive.disk_errors import FULL
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


@contextlib.contextmanager
def noting_removal(hive: Path, partials: int, key: str) -> Iterator[None]:
    """The same around the removal of the partial file `key` of the folder behind `partials`; nothing where nobody can
    have read it, since it has no journal. Where the disk is too full for a note, the removal makes the room for it: the
    way out of a full disk must not need any. Raises OSError.
    """
    digest = key.removeprefix("git-")
    if key.startswith("url-") or not _is_there(partials, f"{key}.journal"):
        yield
        return
    try:
        note_given_up(hive, digest)
        is_noted = True
    except OSError as error:
        if error.errno not in FULL:
            raise
        is_noted = False
    yield
    if not is_noted:
        note_given_up(hive, digest)


def given_up(hive: Path, digest: str) -> int:
    """When bytes of this content were given up last, within an hour, as a number that another time has not; 0 where
    none were. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError), open_folder(hive, GIVEN_UP) as notes:
        found = os.stat(digest, dir_fd=notes, follow_symlinks=False)
        return found.st_mtime_ns if _age_s(found) <= NOTE_TTL_S else 0
    return 0


def _is_there(folder: int, name: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return True
    return False


def _age_s(found: os.stat_result) -> float:
    return time.time() - found.st_mtime
