"""The roots of garbage collection: what downloads that have not ended still need on the disk.

Two sources, and each knows what the other does not. Redis knows every live download at this moment, in one step, but
not which files it is fetching, and only those of this hive. The intent log on the disk (`intents.py`) names the partial
files, and also speaks for other hives on the same store, and where Redis is away or has lost everything. What either
knows counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from hive.downloads.intents import read_all, realm_of
from hive.downloads.names import text_names
from hive.redis.client import RedisClient
from hive.redis.errors import is_of_another_type, is_redis_error
from hive.settings import Settings
from hive.store.gc_context import InUse
from hive.store.layout import url_key
from hive.wire import keys
from hive.wire.refs import RefError, parse_ref

#: Records read in one round trip.
PAGE: Final = 200
#: Seconds after which a file of the intent log that nobody has written to does not count any more: it belongs to a hive
#: that is gone, or to a download that was paused and forgotten. Its model can be fetched again.
MAX_INTENTS_AGE_S: Final = 30 * 86_400.0


class Live(NamedTuple):
    """A download that has not ended: its request's reference (a URL without its query), and when it was made. A model
    that a worker has in memory, or is about to load, counts as one.
    """

    id: str
    ref: str
    created_ms: int = 0
    #: Where a worker has it in memory: the file.
    path: str = ""


class _Request(msgspec.Struct):
    """What counts here of a record's request."""

    ref: str = ""


def read_live(client: RedisClient) -> list[Live]:
    """Every download of this hive that has not ended. Raises redis-py's errors.

    The three sets are read in one transaction: a download that moves from one to another is in one of them.
    """
    with client.pipeline(transaction=True) as pipeline:
        pipeline.zrange(keys.PENDING, 0, -1)
        pipeline.zrange(keys.LEASES, 0, -1)
        pipeline.smembers(keys.PAUSED)
        pending, leases, paused = pipeline.execute()
    queued, running = text_names(client, keys.PENDING, pending), text_names(client, keys.LEASES, leases)
    ids = sorted({*queued, *running, *text_names(client, keys.PAUSED, paused, is_set=True)})
    found: list[Live] = []
    for at in range(0, len(ids), PAGE):
        with client.pipeline(transaction=False) as pipeline:
            for download_id in ids[at : at + PAGE]:
                pipeline.hmget(keys.record(download_id), "request", "created_ms")
            rows = pipeline.execute(raise_on_error=False)
        for download_id, row in zip(ids[at : at + PAGE], rows, strict=True):
            if isinstance(row, Exception):
                if is_redis_error(row) and not is_of_another_type(row):
                    raise row
                continue  # no record; whoever reads it next sets it aside
            request, created_ms = row
            if request is not None:
                found.append(Live(download_id, _ref_in(request), int(created_ms or 0)))
    return found + _read_loaded(client)


def _read_loaded(client: RedisClient) -> list[Live]:
    """The models in memory. Raises redis-py's errors."""
    ids = [member.decode() for member in client.zrange(keys.LLM_WORKERS, 0, -1)]
    with client.pipeline(transaction=False) as pipeline:
        for worker_id in ids:
            pipeline.hmget(keys.llm_worker(worker_id), "model_ref", "created_ms", "path")
        rows = pipeline.execute() if ids else []
    return [
        Live(worker_id, ref.decode("utf-8", "replace"), int(created_ms or 0), (path or b"").decode("utf-8", "replace"))
        for worker_id, (ref, created_ms, path) in zip(ids, rows, strict=True)
        if ref is not None
    ]


def _ref_in(request: bytes) -> str:
    """The reference in a record's request; "" where that cannot be read."""
    try:
        return msgspec.json.decode(request, type=_Request).ref
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def in_use(settings: Settings, live: Iterable[Live]) -> InUse:
    """What these downloads need, and all that the intent log knows."""
    refs: dict[str, str] = {}
    partials: set[str] = set()
    for entry in read_all(settings, MAX_INTENTS_AGE_S):
        partials.update(entry.partials)
        refs[entry.id] = entry.ref or refs.get(entry.id, "")
    listed = frozenset(refs)
    unlisted_since_ms = float("inf")
    for download in live:
        refs[download.id] = download.ref
        if download.id not in listed:
            unlisted_since_ms = min(unlisted_since_ms, download.created_ms)
    places = [repo_or_url(ref) for ref in refs.values()]
    return InUse(
        ids=frozenset(refs),
        repos=frozenset(repo for repo, _ in places if repo),
        urls=frozenset(url_key(url) for _, url in places if url),
        partials=frozenset(partials),
        unlisted_since_s=unlisted_since_ms / 1000,
    )


def wanted_by(settings: Settings, live: Iterable[Live]) -> dict[str, str]:
    """What downloads asked for, by their ids and by the keys of their partial files, as far as that is known. Raises
    OSError.
    """
    refs: dict[str, str] = {}
    entries = list(read_all(settings, MAX_INTENTS_AGE_S))
    for entry in entries:
        refs[entry.id] = entry.ref or refs.get(entry.id, "")
    refs.update((download.id, download.ref) for download in live)
    # Behind all of them: a download has its reference in one file, and its partial files in another.
    for entry in entries:
        refs.update((partial, refs[entry.id]) for partial in entry.partials if refs[entry.id])
    return refs


def in_use_elsewhere(settings: Settings) -> InUse:
    """What the downloads of other hives on this store need, as the intent log has it. Raises OSError."""
    ours = realm_of(settings)
    entries = [entry for entry in read_all(settings, MAX_INTENTS_AGE_S) if entry.realm != ours]
    places = [repo_or_url(entry.ref) for entry in entries]
    return InUse(
        ids=frozenset(entry.id for entry in entries),
        repos=frozenset(repo for repo, _ in places if repo),
        urls=frozenset(url_key(url) for _, url in places if url),
        partials=frozenset(partial for entry in entries for partial in entry.partials),
    )


def repo_or_url(ref: str) -> tuple[str | None, str | None]:
    """The repository of a reference, or its URL; two times None where it is none."""
    try:
        found = parse_ref(ref)
    except RefError:
        return None, None
    return found.repo or None, found.url
