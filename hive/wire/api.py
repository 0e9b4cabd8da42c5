"""What the HTTP API answers, as typed records. Times are unix seconds, sizes bytes.

Fields that a newer server adds are ignored, so an older client keeps working.
"""

from __future__ import annotations

from typing import Final, Generic, Literal, TypeVar

import msgspec

from hive.wire.events import Event

T = TypeVar("T")

DownloadStatus = Literal[
    "queued", "resolving", "downloading", "verifying", "paused", "retrying", "complete", "failed", "cancelled"
]
#: The statuses after which nothing follows.
ENDED: Final = frozenset({"complete", "failed", "cancelled"})


class Started(msgspec.Struct, frozen=True):
    """The answer to a request for a model.

    `local_path` is there where the model is on disk; `joined` where it was under way.
    """

    download_id: str
    local_path: str | None = None
    joined: bool = False


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """A download: what was asked for, how it stands, and its latest event (None before the first)."""

    id: str
    object: str = "download"
    model_ref: str
    status: str
    local_path: str | None = None
    priority: str = "normal"
    attempt: int | None = None
    retry_of: str | None = None
    worker: str | None = None
    created_at: float | None = None
    started_at: float | None = None
    updated_at: float | None = None
    ended_at: float | None = None
    duration_seconds: float | None = None
    active_seconds: float = 0.0
    bytes_received: int = 0
    bytes_refetched: int = 0
    average_bytes_per_second: int | None = None
    reason: str | None = None
    progress: Event | None = None


class ModelFile(msgspec.Struct, frozen=True):
    """One file of a model: its path inside the repository and its size in bytes."""

    path: str
    size: int = 0


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model in the store: `path` is the file, or the folder where it is several; `size` is the sum of its files,
    bytes.
    """

    id: str
    object: str = "model"
    created: float = 0
    owned_by: str = ""
    size: int = 0
    files: tuple[ModelFile, ...] = ()
    path: str = ""
    revision: str | None = None
    refs: tuple[str, ...] = ()
    variant: str | None = None


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """A model was deleted; `freed_bytes` is what the disk got back, less than its size where files are shared."""

    id: str
    deleted: bool = True
    freed_bytes: int = 0


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that is alive: where it runs and which download it has in hand."""

    name: str
    host: str = ""
    pid: int = 0
    state: str = ""
    download_id: str | None = None
    started_at: float | None = None
    seen_at: float | None = None
    version: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of itself."""

    status: str
    version: str = ""
    api_version: str = ""


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """What all workers together may take from the network, in bytes per second; None: no limit."""

    bytes_per_second: int | None


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """How many downloads may run at once in the whole fleet; None: no limit."""

    max_running: int | None


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list; `next_cursor` asks for the next one and is None on the last."""

    data: tuple[T, ...] = ()
    next_cursor: str | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What stands under `error` in every error."""

    code: str
    message: str = ""
    details: dict[str, object] = msgspec.field(default_factory=dict)


class ErrorReply(msgspec.Struct, frozen=True):
    """The body of every error."""

    error: ErrorBody
