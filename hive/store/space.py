"""How much room the store's filesystem has, asked so that a filesystem that hangs keeps nobody waiting.

A store on the network can stop answering for minutes, and a call into it cannot be given up. So it is made in a thread,
one at a time: whoever asks while it hangs is told at once that nothing is known.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import NamedTuple

#: Seconds to wait for the filesystem.
ANSWER_TIMEOUT_S = 1.0


class DiskSpace(NamedTuple):
    """Bytes that an ordinary process may still write, and bytes in all."""

    free: int
    total: int


class Disk:
    """Asks for the room of the filesystem that holds `path`, or will hold it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asking: asyncio.Future[DiskSpace | None] | None = None

    async def space(self) -> DiskSpace | None:
        """The room; None where it cannot be told, or not in time."""
        asking = self._asking
        if asking is None or asking.done():
            asking = self._asking = asyncio.ensure_future(asyncio.to_thread(space_of, self._path))
        # Not self._asking below: who comes while this one's answer is on its way has begun another by then.
        done, _ = await asyncio.wait([asking], timeout=ANSWER_TIMEOUT_S)
        return asking.result() if done else None


def space_of(path: Path) -> DiskSpace | None:
    """The room of the filesystem of `path`, or of the nearest folder above it that is there; None where that fails."""
    for folder in (path, *path.parents):
        try:
            usage = shutil.disk_usage(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return DiskSpace(usage.free, usage.total)
    return None
