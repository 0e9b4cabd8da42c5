"""What goes through the queue: the import path of the job and the id of a download, and nothing else.

A job is a ticket: it calls a worker, and the worker takes the download whose turn it is, whichever the ticket names
(downloads/scripts/). Everything that a worker needs is in the record of the download, so a job in Redis never holds a
reference, a path or a token.
"""

from __future__ import annotations

import os
from typing import Final, Literal

import msgspec

#: The only function a worker runs. RQ gets it as a string: the HTTP process never imports the workers.
DOWNLOAD_JOB: Final = "workers.download.run"

#: The lowest limit of the bandwidth, in bytes per second: below, one read of the network takes longer than a stall.
MIN_BYTES_PER_SECOND: Final = 65_536
#: The highest limit of downloads that run at once.
MAX_RUNNING: Final = 100_000

#: Tokens of a model's context, and requests that one worker of a model answers at once.
MIN_CONTEXT, MAX_CONTEXT, MAX_SLOTS = 128, 1 << 20, 256

#: How soon a download gets a worker. `high` takes the place of a running `low` one.
Priority = Literal["low", "normal", "high"]
#: The door by which a request came: hive's own API, a client of the Hub, or one of Ollama.
Origin = Literal["api", "mirror", "ollama"]
#: The place of each in the queue.
RANKS: Final[dict[Priority, int]] = {"high": 0, "normal": 1, "low": 2}
#: A place in the queue is this, times the rank, plus the milliseconds at which the download was made: more than any
#: such moment until the year 2286, and exact in the doubles that Redis sorts by.
RANK_STEP: Final = 10**13
#: One owner's downloads are so far apart in the queue where several owners wait: a round of turns.
TURN_MS: Final = 10_000


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked for, as it lies in the record: the reference (a URL without its query) and the selection."""

    ref: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    update: bool = False
    sha256: str | None = None
    max_bytes_per_second: int | None = None
    name: str | None = None
    #: Whether whoever runs the service asks (who may administer it, or anybody where there are no keys): only then is
    #: the token of the workers' own settings used, and a restricted model taken from the disk without asking the Hub.
    as_operator: bool = True
    #: By which door it came.
    origin: Origin = "api"


def job_id(download_id: str, attempt: int) -> str:
    """The id of the RQ job of one attempt; never used twice, so that a repeated enqueue is seen as one."""
    return f"{download_id}-a{attempt}"


def ticket_id(download_id: str) -> str:
    """The id of a ticket that is put in for one that was lost; never the same twice."""
    return f"{download_id}-t{os.urandom(4).hex()}"
