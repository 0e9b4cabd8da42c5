"""What tests of the collection of garbage share: old files, what a collection says, what it removed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hive.downloads.live import Live, in_use
from hive.settings import Settings
from hive.store.gc import GarbageCollector, HoldLease, InUse
from hive.wire.maintenance import CollectionLine, Removed
from tests.support.store import sha256

ID = "11111111-2222-4333-8444-555555555555"
OTHER_ID = "21111111-2222-4333-8444-555555555555"
DIGEST = "ab" * 32
#: Older than any retention here, in seconds.
OLD_S = 30 * 86_400


def age(path: Path, seconds: float = OLD_S) -> None:
    """Make a path, and all below it, as old as this."""
    then = time.time() - seconds
    for found in [*path.rglob("*"), path] if path.is_dir() and not path.is_symlink() else [path]:
        os.utime(found, (then, then), follow_symlinks=False)


def collect(
    settings: Settings,
    look: Callable[[], InUse] | None = None,
    take: HoldLease | None = None,
    *,
    partials_only: bool = False,
    **options: object,
) -> list[CollectionLine]:
    """All that a collection says."""
    said: list[CollectionLine] = []
    collector = GarbageCollector(
        settings,
        said.append,
        threading.Event(),
        look or (lambda: in_use(settings, ())),
        take,
        **options,  # type: ignore[arg-type]
    )
    end = collector.run_partials() if partials_only else collector.run()
    assert said[-1] == end
    removed = [line for line in said if isinstance(line, Removed)]
    assert (end.removed, end.bytes) == (len(removed), sum(line.bytes for line in removed))
    return said


def removed(said: list[CollectionLine]) -> list[tuple[str, str]]:
    """Kind and last part of the path of what was removed."""
    return sorted((line.kind, line.path.rpartition("/")[2]) for line in said if isinstance(line, Removed))


def partial(settings: Settings, name: str, content: bytes = b"half", *, seconds: float = OLD_S) -> Path:
    path = settings.hive_dir / "partial" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    age(path, seconds)
    return path


def stray_blob(settings: Settings, repo: str, content: bytes) -> Path:
    """A content that no link leads to."""
    blob = settings.hub_dir / f"models--{repo.replace('/', '--')}" / "blobs" / sha256(content)
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    age(blob)
    return blob


def live(ref: str = "hf:org/name", created_s: float = 0.0) -> Live:
    return Live(ID, ref, int(created_s * 1000))
