"""The entries of the Hub's listings: made of what the disk has, or the Hub's own without what leads elsewhere."""

from __future__ import annotations

import contextlib
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from hive import errors
from hive.doors.hub_paths import HubPath
from hive.wire.selection import RepoFile

#: Paths that one request may ask for.
MAX_PATHS: Final = 10_000


class _Paths(msgspec.Struct):
    paths: list[str]


def entry(each: RepoFile) -> dict[str, Any]:
    """A file."""
    found: dict[str, Any] = {"type": "file", "oid": each.blob_id, "size": each.size, "path": each.path}
    if each.sha256:
        found["lfs"] = {"oid": each.sha256, "size": each.size, "pointerSize": 134}
    return found


def folder(path: str) -> dict[str, Any]:
    """A folder."""
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}


def parents(path: str) -> list[str]:
    """The folders in which a file lies."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def paths_of(body: bytes) -> set[str]:
    """The paths that the body of a `paths-info` names, JSON or a form. Raises BadRequest for too many."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set(msgspec.json.decode(body, type=_Paths).paths)
    try:
        return set(parse_qs(body.decode("utf-8", "replace"), max_num_fields=MAX_PATHS).get("paths", ()))
    except ValueError:
        raise errors.BadRequest(f"A request may ask for {MAX_PATHS} paths at most.") from None


def without_xet(body: bytes, asked: HubPath) -> bytes:
    """A listing without what sends clients to another store than this one."""
    if asked.verb not in ("tree", "paths-info"):
        return body
    try:
        entries = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise errors.HubUnavailable("What answers at HF_ENDPOINT is not a Hub.") from None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            entry.pop("xetHash", None)
    return msgspec.json.encode(entries)
