"""Collection of garbage while others are at work: downloads, another tool, another collection, kill -9."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator

import pytest

from hive.downloads.live import in_use
from hive.settings import Settings
from hive.store import gc_repo
from hive.store.catalog import ModelCatalog
from hive.store.gc import InUse
from hive.wire.maintenance import CollectionLine, Kept
from tests.support.gc import DIGEST, ID, age, collect, live, partial, removed, stray_blob
from tests.support.store import WHOLE, put


def test_a_partial_goes_only_under_its_lease(settings: Settings) -> None:
    path = partial(settings, f"{DIGEST}.part")
    small = partial(settings, f"{DIGEST}.{ID}.part")
    asked = []

    @contextlib.contextmanager
    def take(name: str) -> Iterator[bool]:
        asked.append(name)
        yield name != DIGEST

    said = collect(settings, take=take)
    assert removed(said) == [("partial", small.name)]
    assert asked == [DIGEST + f".{ID}", DIGEST]
    [kept] = [line for line in said if isinstance(line, Kept)]
    assert (kept.path, kept.in_use) == (f"hive/partial/{path.name}", True)
    assert path.exists()


def test_a_blob_that_is_linked_between_the_two_looks_is_put_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    blob = stray_blob(settings, "org/name", b"wanted")
    other = stray_blob(settings, "org/name", b"stray")
    age(settings.hub_dir)
    real = gc_repo.linked

    def link(cache: object) -> set[str]:
        assert not blob.exists()
        (snapshot / "late").symlink_to(f"../../blobs/{blob.name}")
        return real(cache)  # type: ignore[arg-type]

    monkeypatch.setattr(gc_repo, "linked", link)
    said = collect(settings)
    assert (snapshot / "late").read_bytes() == b"wanted"
    assert removed(said) == [("blob", other.name)]
    assert [line.in_use for line in said if isinstance(line, Kept)] == [True]


def test_a_blob_is_put_back_when_a_download_began_between_the_two_looks(settings: Settings) -> None:
    blob = stray_blob(settings, "org/name", b"wanted")
    looks = []

    def look() -> InUse:
        looks.append(blob.exists())
        return in_use(settings, [live()] if len(looks) > 1 else [])

    assert removed(collect(settings, look)) == []
    assert looks[:2] == [True, False]
    assert blob.read_bytes() == b"wanted"


def test_a_blob_that_came_back_meanwhile_is_not_replaced(settings: Settings) -> None:
    blob = stray_blob(settings, "org/name", b"old")

    def look() -> InUse:
        if not blob.exists():
            blob.write_bytes(b"fetched again")
            return in_use(settings, [live()])
        return InUse()

    collect(settings, look)
    assert blob.read_bytes() == b"fetched again"
    assert [path.name for path in blob.parent.iterdir()] == [blob.name]


def test_a_blob_under_huggingface_hubs_lock_stays(settings: Settings) -> None:
    blob = stray_blob(settings, "org/name", b"stray")
    lock = settings.hub_dir / ".locks" / "models--org--name" / f"{blob.name}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = collect(settings)
        assert removed(said) == []
        assert blob.exists()
    assert removed(collect(settings)) == [("blob", blob.name)]
    assert lock.exists()


def test_a_collection_that_is_killed_leaves_no_harm(settings: Settings) -> None:
    """In its worst moment: everything is put aside and nothing is removed yet."""
    put(settings, "org/name", WHOLE)
    blobs = [stray_blob(settings, "org/name", b"%d" % number) for number in range(3)]
    age(settings.hub_dir)
    pid = os.fork()
    if pid == 0:

        def look() -> InUse:
            if not any(blob.exists() for blob in blobs):
                os.kill(os.getpid(), 9)
            return InUse()

        collect(settings, look)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert not any(blob.exists() for blob in blobs)
    assert removed(collect(settings)) == []
    assert ModelCatalog(settings).get("org/name").complete
    folder = settings.hub_dir / "models--org--name" / "blobs"
    for left in folder.glob(".*.tmp"):
        age(left)
    assert [kind for kind, _ in removed(collect(settings))] == ["temporary"] * 3
    assert len(list(folder.iterdir())) == len(WHOLE)


def test_two_collections_at_once_remove_each_thing_once(settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    blobs = [stray_blob(settings, "org/name", b"%d" % number) for number in range(200)]
    age(settings.hub_dir)
    said: list[list[CollectionLine]] = []
    threads = [threading.Thread(target=lambda: said.append(collect(settings))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(name for lines in said for _, name in removed(lines)) == sorted(blob.name for blob in blobs)
    assert len(list((settings.hub_dir / "models--org--name" / "blobs").iterdir())) == len(WHOLE)
