"""Which download a work-horse has taken, for its parent.

A job is a ticket, so only the horse knows which download it claimed, and its parent must know when the horse is
killed: to put that one back at once instead of waiting for the lease. A pipe would do, with two ends to close in two
processes; a page of memory that both share needs neither, and holds what was written when the writer is dead.
"""

from __future__ import annotations

import mmap

#: Bytes of a download's id, a UUID in its canonical form.
ID_BYTES = 36


class CurrentDownload:
    """The id, written by the horse and read by its parent."""

    def __init__(self) -> None:
        self._page: mmap.mmap | None = None

    def share(self) -> None:
        """Begin a page of this process' own, which the horses that it forks will share."""
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def write(self, download_id: str) -> None:
        """Say which download is about to be claimed; '' for none. Does nothing in a process without a parent that
        reads.
        """
        if self._page is not None:
            self._page[:ID_BYTES] = download_id.encode("ascii").ljust(ID_BYTES, b"\0")

    def read(self) -> str:
        """The id, '' for none."""
        return "" if self._page is None else self._page[:ID_BYTES].rstrip(b"\0").decode("ascii", "replace")


#: The one of this process.
CURRENT = CurrentDownload()
