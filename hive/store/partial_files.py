"""Partial files: what the folders of half-way files hold, by name, and what it takes on the disk.

A partial file and its journal are named by the digest of the content, which says nothing to a person. Which download
wants it is known to the intent log; so whoever lists them brings that along.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from hive.settings import Settings
from hive.store.dirfd import open_folder
from hive.store.filesystem import partial_places
from hive.store.gc_context import InUse, modified_s
from hive.wire.api import PartialFile
from hive.wire.maintenance import GarbageKind

#: Bytes of what a file's status calls a block.
BLOCK_BYTES: Final = 512

_PARTIAL: Final = re.compile(
    r"(?P<key>(?:git-|url-)?[0-9a-f]{40,64})"
    r"(?:\.(?P<id>[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}))?"
    r"(?:\.(?P<bad>(?:[0-9a-f]{8}\.)?bad)|\.(?:part|journal|journal\.new|lock))"
)


class Partial(NamedTuple):
    """The files of one partial, or one file that was set aside."""

    kind: GarbageKind
    key: str
    download_id: str
    names: list[str]

    @property
    def lease(self) -> str:
        """What its worker would hold a lease on."""
        return f"{self.key}.{self.download_id}" if self.download_id else self.key

    def is_used(self, in_use: InUse, modified: float) -> bool:
        """Whether a download that has not ended wants it; `modified`: when it was last written, unix seconds."""
        if self.kind == "set_aside":
            return False
        if self.download_id:
            return self.download_id in in_use.ids
        return self.key in in_use.partials or modified >= in_use.unlisted_since_s


def partials_in(folder: int) -> list[Partial]:
    """The partials by name; within each the journal before the data."""
    found: dict[tuple[str, str, str], Partial] = {}
    for name in sorted(os.listdir(folder)):
        if match := _PARTIAL.fullmatch(name):
            bad, key, download_id = match["bad"] or "", match["key"], match["id"] or ""
            kind: GarbageKind = "set_aside" if bad else "partial"
            found.setdefault((key, download_id, bad), Partial(kind, key, download_id, [])).names.append(name)
    return list(found.values())


def list_partials(settings: Settings, in_use: InUse, wanted_by: Mapping[str, str]) -> list[PartialFile]:
    """All of the store, those that take most first. `wanted_by`: what downloads asked for, by their ids and by the keys
    of their partial files. Raises OSError where the store cannot be read.
    """
    found: list[PartialFile] = []
    for place in partial_places(settings):
        shown = "/".join((place.root.name, *place.names))
        with open_folder(place.root, *place.names, missing_ok=True) as folder:
            found += _listed(folder, shown, in_use, wanted_by) if folder is not None else []
    return sorted(found, key=lambda one: (-one.bytes, one.path))


def _listed(folder: int, shown: str, in_use: InUse, wanted_by: Mapping[str, str]) -> Iterator[PartialFile]:
    for partial in partials_in(folder):
        modified = max(modified_s(folder, name) for name in partial.names)
        if n_bytes := sum(_bytes_on_disk(folder, name) for name in partial.names):
            yield PartialFile(
                path=f"{shown}/{partial.names[-1]}",
                kind="set_aside" if partial.kind == "set_aside" else "partial",
                bytes=n_bytes,
                modified_at=modified,
                in_use=partial.is_used(in_use, modified),
                model_ref=wanted_by.get(partial.download_id) or wanted_by.get(partial.key) or None,
            )


def _bytes_on_disk(folder: int, name: str) -> int:
    """What it takes: a file that is to be large has holes until its bytes have come."""
    with contextlib.suppress(OSError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_blocks * BLOCK_BYTES
    return 0
