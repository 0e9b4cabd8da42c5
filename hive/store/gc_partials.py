"""Garbage collection of partial files: what downloads that ended, or that nobody knows any more, left half-way.

A partial file is shared by its content, so its age says little about whether somebody wants it. It goes only when it is
old, when no download that has not ended names it, and under the lease that its worker would hold.
"""

from __future__ import annotations

import contextlib

from hive.store.dirfd import open_folder, remove_file, size_of
from hive.store.filesystem import partial_places
from hive.store.gc_context import GcContext, InUse, InUseError, modified_s
from hive.store.given_up import noting_removal
from hive.store.partial_files import Partial, partials_in


def collect_partials(gc: GcContext, in_use: InUse) -> None:
    """Remove the old ones. Raises Stopped, and HiveError where a lease cannot be asked for."""
    for place in partial_places(gc.settings):
        shown = "/".join((place.root.name, *place.names))
        with open_folder(place.root, *place.names, missing_ok=True) as folder:
            if folder is not None:
                _collect_in(gc, in_use, folder, shown)


def _collect_in(gc: GcContext, in_use: InUse, folder: int, shown: str) -> None:
    gc.remove_temporaries(folder, shown)
    for partial in partials_in(folder):
        gc.check_stop()
        modified = max((modified_s(folder, name) for name in partial.names), default=0.0)
        if gc.is_old(modified) and not partial.is_used(in_use, modified):
            _remove(gc, folder, partial, shown)


def _remove(gc: GcContext, folder: int, partial: Partial, shown: str) -> None:
    """The journal goes first: bytes without one are fetched again, a journal without bytes is no use."""
    path = f"{shown}/{partial.names[-1]}"
    n_bytes = sum(size_of(folder, name) or 0 for name in partial.names)
    with gc.reporting(partial.kind, path, n_bytes):
        if gc.dry_run:
            return
        with gc.lease(partial.lease) as ours:
            if not ours:
                raise InUseError
            is_shared = partial.kind == "partial" and not partial.download_id
            noting = (
                noting_removal(gc.settings.hive_dir, folder, partial.key) if is_shared else contextlib.nullcontext()
            )
            with noting:
                for name in partial.names:
                    remove_file(folder, name)
