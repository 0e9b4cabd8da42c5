"""What goes through the queue: the import path of the job and the id of the download, and nothing else.

Everything that a worker needs is in the record of the download, so a job in Redis never holds a reference, a path or
a token.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: The only function a worker runs. RQ gets it as a string: the HTTP process never imports the workers.
DOWNLOAD_JOB: Final = "workers.download.run"


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked for, as it lies in the record: the reference (a URL without its query) and the selection."""

    ref: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    update: bool = False
    sha256: str | None = None
    max_bytes_per_second: int | None = None


def job_id(download_id: str, attempt: int) -> str:
    """The id of the RQ job of one attempt; never used twice, so that a repeated enqueue is seen as one."""
    return f"{download_id}-a{attempt}"
