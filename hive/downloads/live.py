"""What downloads that have not ended still need on the disk, so that nothing of it is removed.

Two sources, and each knows what the other does not. Redis knows every live download at this moment, in one step, but
not which files it is fetching, and only those of this hive. The intent log on the disk (`intents.py`) names the partial
files, and also speaks for other hives on the same store, and where Redis is away or has lost everything. What either
knows counts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from hive.redis_client import RedisClient
from hive.settings import Settings
from hive.store.dirfd import open_folder, read_file, subfolders
from hive.store.layout import INTENTS, url_key
from hive.wire import keys
from hive.wire.refs import RefError, parse_ref

#: Records read in one round trip.
PAGE: Final = 200
#: Longest file of the intent log that is read, in bytes.
MAX_INTENTS_BYTES: Final = 8 << 20
#: Seconds after which a file of the intent log that nobody has written to does not count any more: it belongs to a hive
#: that is gone, or to a download that was paused and forgotten. Its model can be fetched again.
MAX_INTENTS_AGE_S: Final = 30 * 86_400.0


class Live(NamedTuple):
    """A download that has not ended: its request's reference (a URL without its query), and when it was made."""

    id: str
    ref: str
    created_ms: int = 0


class Needed(NamedTuple):
    """What must stay: everything unlinked in `repos`, the folders `urls` below `files`, the partial files `partials`
    and those that carry one of `ids`; and all partial files written after `unlisted_since_s`, since when a download
    lives whose files nobody has listed.
    """

    ids: frozenset[str] = frozenset()
    repos: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    partials: frozenset[str] = frozenset()
    unlisted_since_s: float = float("inf")


class _Entry(msgspec.Struct):
    """What counts here in the intent log's two kinds of files."""

    class Request(msgspec.Struct):
        ref: str = ""

    request: Request = msgspec.field(default_factory=Request)
    partials: tuple[str, ...] = ()


def read_live(client: RedisClient) -> list[Live]:
    """Every download of this hive that has not ended. Raises redis-py's errors.

    The three sets are read in one transaction: a download that moves from one to another is in one of them.
    """
    with client.pipeline(transaction=True) as pipeline:
        pipeline.zrange(keys.PENDING, 0, -1)
        pipeline.zrange(keys.LEASES, 0, -1)
        pipeline.smembers(keys.PAUSED)
        ids = sorted({member.decode() for members in pipeline.execute() for member in members})
    found: list[Live] = []
    for at in range(0, len(ids), PAGE):
        with client.pipeline(transaction=False) as pipeline:
            for download_id in ids[at : at + PAGE]:
                pipeline.hmget(keys.record(download_id), "request", "created_ms")
            rows = pipeline.execute()
        for download_id, (request, created_ms) in zip(ids[at : at + PAGE], rows, strict=True):
            if request is not None:
                ref = msgspec.json.decode(request, type=_Entry.Request).ref
                found.append(Live(download_id, ref, int(created_ms or 0)))
    return found


def needed(settings: Settings, live: Iterable[Live]) -> Needed:
    """What these downloads need, and all that the intent log knows."""
    refs: dict[str, str] = {}
    partials: set[str] = set()
    for download_id, entry in _intents(settings):
        partials.update(entry.partials)
        refs.setdefault(download_id, "")
        if entry.request.ref:
            refs[download_id] = entry.request.ref
    listed = frozenset(refs)
    unlisted_since_ms = float("inf")
    for download in live:
        refs[download.id] = download.ref
        if download.id not in listed:
            unlisted_since_ms = min(unlisted_since_ms, download.created_ms)
    places = [place_of(ref) for ref in refs.values()]
    return Needed(
        ids=frozenset(refs),
        repos=frozenset(repo for repo, _ in places if repo),
        urls=frozenset(url_key(url) for _, url in places if url),
        partials=frozenset(partials),
        unlisted_since_s=unlisted_since_ms / 1000,
    )


def place_of(ref: str) -> tuple[str | None, str | None]:
    """The repository of a reference, or its URL; two times None where it is none."""
    try:
        found = parse_ref(ref)
    except RefError:
        return None, None
    return found.repo or None, found.url


def _intents(settings: Settings) -> Iterator[tuple[str, _Entry]]:
    """Every file of the intent log, of every hive on this store, with the id of its download."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open_folder(settings.hive_dir, INTENTS) as intents:
        for realm in subfolders(intents):
            with contextlib.suppress(OSError), open_folder(intents, realm) as folder:
                for name in os.listdir(folder):
                    if name.endswith(".json") and (entry := _read(folder, name)) is not None:
                        yield name.partition(".")[0], entry


def _read(folder: int, name: str) -> _Entry | None:
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime <= MAX_INTENTS_AGE_S:
            return msgspec.json.decode(read_file(folder, name, MAX_INTENTS_BYTES) or b"", type=_Entry)
    return None
