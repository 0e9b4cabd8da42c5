"""What a verification and a collection of garbage say while they work: one JSON object a line, the last one the end.

    {"event":"progress","model":"org/name@<commit>","files_done":3,"files_total":9,"bytes_done":...,"bytes_total":...}
    {"event":"problem","model":"org/name@<commit>","path":"model.gguf","kind":"wrong_digest",...}
    {"event":"removed","kind":"partial","path":"hive/partial/...","bytes":...}
    {"event":"end",...}

Both may take hours over terabytes, so nobody waits for one answer: lines come every few seconds, and empty ones where
there is nothing to say. A stream that ends without `end` or `error` was broken off.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

#: What can be wrong with a file that was once in the store.
ProblemKind = Literal["missing", "dangling_link", "foreign_link", "wrong_size", "wrong_digest", "unreadable"]
#: What a collection removes.
GarbageKind = Literal["partial", "set_aside", "temporary", "incomplete", "blob", "snapshot", "listing", "url_file"]

#: The media type of such an answer.
MEDIA_TYPE: Final = "application/x-ndjson"


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="progress"):
    """How far a verification is. `model` is the one in hand; a content that several files share counts once."""

    model: str
    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="event", tag="problem"):
    """A file that is not as it should be. `model` is `org/name@<commit>`, or a URL's file's id; `expected` and `found`
    are bytes or hex digits, as `kind` says.
    """

    model: str
    path: str
    kind: ProblemKind
    message: str
    expected: str | None = None
    found: str | None = None


class Note(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="note"):
    """What is no mistake, but worth to know: files of the listing that are not here, files without a digest."""

    model: str
    message: str
    paths: tuple[str, ...] = ()


class Refetch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="download"):
    """Wrong files of a model are fetched again, as the download `download_id`; or not, and `message` says why."""

    model: str
    paths: tuple[str, ...]
    download_id: str | None = None
    code: str | None = None
    message: str | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="end"):
    """The end of a verification. `bytes` were read in `seconds`; `downloads` were asked for."""

    models: int
    files: int
    bytes: int
    problems: int
    downloads: tuple[str, ...] = ()
    seconds: float = 0.0


class Removed(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="removed"):
    """Something that was, or with a dry run would be, removed. `path` is relative to the store; sizes are bytes."""

    kind: GarbageKind
    path: str
    bytes: int


class Kept(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="kept"):
    """Garbage that was not removed, and why: somebody uses it after all, or the store refuses."""

    kind: GarbageKind
    path: str
    message: str
    in_use: bool


class Collected(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="end"):
    """The end of a collection: how many things, and how many bytes the disk has back or would have back."""

    dry_run: bool
    removed: int
    bytes: int
    kept: int = 0
    seconds: float = 0.0


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="error"):
    """The other end: it cannot go on. `code` is one of hive.errors."""

    code: str
    message: str
    details: dict[str, Any] = {}


VerificationLine = Progress | Problem | Note | Refetch | Verified | Failed
CollectionLine = Removed | Kept | Collected | Failed
