"""Garbage collection of partial files: what downloads that ended, or that nobody knows any more, left half-way.

A partial file is shared by its content, so its age says little about whether somebody wants it. It goes only when it is
old, when no download that has not ended names it, and under the lease that its worker would hold.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

from hive.store.dirfd import open_folder, remove_file, size_of
from hive.store.filesystem import partial_places
from hive.store.gc_context import GcContext, InUse, InUseError, modified_s
from hive.wire.maintenance import GarbageKind

_PARTIAL: Final = re.compile(
    r"(?P<key>(?:git-|url-)?[0-9a-f]{40,64})"
    r"(?:\.(?P<id>[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}))?"
    r"(?:\.(?P<bad>(?:[0-9a-f]{8}\.)?bad)|\.(?:part|journal|journal\.new|lock))"
)


class _Partial(NamedTuple):
    """The files of one partial, or one file that was set aside."""

    kind: GarbageKind
    key: str
    download_id: str
    names: list[str]

    @property
    def lease(self) -> str:
        """What its worker would hold a lease on."""
        return f"{self.key}.{self.download_id}" if self.download_id else self.key


def collect_partials(gc: GcContext, in_use: InUse) -> None:
    """Remove the old ones. Raises Stopped, and HiveError where a lease cannot be asked for."""
    for place in partial_places(gc.settings):
        shown = "/".join((place.root.name, *place.names))
        with open_folder(place.root, *place.names, missing_ok=True) as folder:
            if folder is not None:
                _collect_in(gc, in_use, folder, shown)


def _collect_in(gc: GcContext, in_use: InUse, folder: int, shown: str) -> None:
    gc.remove_temporaries(folder, shown)
    for partial in _partials_in(folder):
        gc.check_stop()
        modified = max((modified_s(folder, name) for name in partial.names), default=0.0)
        if gc.is_old(modified) and not _is_used(in_use, partial, modified):
            _remove(gc, folder, partial, shown)


def _remove(gc: GcContext, folder: int, partial: _Partial, shown: str) -> None:
    """The journal goes first: bytes without one are fetched again, a journal without bytes is no use."""
    path = f"{shown}/{partial.names[-1]}"
    n_bytes = sum(size_of(folder, name) or 0 for name in partial.names)
    with gc.reporting(partial.kind, path, n_bytes):
        if gc.dry_run:
            return
        with gc.lease(partial.lease) as ours:
            if not ours:
                raise InUseError
            for name in partial.names:
                remove_file(folder, name)


def _partials_in(folder: int) -> list[_Partial]:
    """The partials by name; within each the journal before the data."""
    found: dict[tuple[str, str, str], _Partial] = {}
    for name in sorted(os.listdir(folder)):
        if match := _PARTIAL.fullmatch(name):
            bad, key, download_id = match["bad"] or "", match["key"], match["id"] or ""
            kind: GarbageKind = "set_aside" if bad else "partial"
            found.setdefault((key, download_id, bad), _Partial(kind, key, download_id, [])).names.append(name)
    return list(found.values())


def _is_used(in_use: InUse, partial: _Partial, modified: float) -> bool:
    if partial.kind == "set_aside":
        return False
    if partial.download_id:
        return partial.download_id in in_use.ids
    return partial.key in in_use.partials or modified >= in_use.unlisted_since_s
