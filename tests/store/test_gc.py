"""Collection of garbage: what nothing refers to goes, and nothing else does."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from huggingface_hub import scan_cache_dir

from hive.downloads.intents import Attempt, Intent, IntentLog
from hive.downloads.live import in_use
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.gc_context import GRACE_S
from hive.store.given_up import given_up
from hive.store.layout import url_key
from hive.wire.jobs import Request
from hive.wire.maintenance import Collected, Removed
from tests.support.gc import DIGEST, ID, OLD_S, OTHER_ID, age, collect, live, partial, removed, stray_blob
from tests.support.store import COMMIT, OTHER, QUANTS, WHOLE, everything_below, put, put_tree, put_url, sha256


def test_a_store_without_garbage_stays_as_it_is(settings: Settings, tmp_path: Path) -> None:
    put(settings, "org/name", WHOLE)
    put_tree(settings, "org/name", WHOLE)
    put(settings, "org/pinned", QUANTS, refs=())
    put_url(settings, "https://host.example/f", b"content")
    age(settings.store_dir)
    before = everything_below(settings.store_dir)
    assert removed(collect(settings)) == []
    assert everything_below(settings.store_dir) == before
    assert not (settings.hub_dir / ".locks").exists()


def test_an_empty_store_has_no_garbage(settings: Settings) -> None:
    [end] = collect(settings)
    assert isinstance(end, Collected)
    assert not settings.store_dir.exists()


def test_a_blob_without_a_link_goes_and_the_others_stay(settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    put(settings, "org/name", {"a": b"of another commit"}, commit=OTHER, refs=())
    stray_blob(settings, "org/name", b"stray")
    age(settings.hub_dir)
    [line, _] = collect(settings)
    path = f"hub/models--org--name/blobs/{sha256(b'stray')}"
    assert line == Removed(kind="blob", path=path, bytes=5)
    assert scan_cache_dir(settings.hub_dir).warnings == []
    assert len(ModelCatalog(settings).list()) == 2
    assert {path.name for path in (settings.hub_dir / "models--org--name" / "blobs").iterdir()} == {
        sha256(content) for content in [*WHOLE.values(), b"of another commit"]
    }


def test_a_dry_run_says_the_same_and_touches_nothing(settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    stray_blob(settings, "org/name", b"stray")
    partial(settings, f"{DIGEST}.part")
    partial(settings, f"{DIGEST}.bad")
    snapshot = put(settings, "org/gone", {"a": b"a"}, refs=())
    (snapshot / "a").resolve().unlink()
    age(settings.store_dir)
    before = everything_below(settings.store_dir)
    would = collect(settings, dry_run=True)
    assert everything_below(settings.store_dir) == before
    assert removed(collect(settings)) == removed(would)
    assert len(removed(would)) == 4
    assert isinstance(would[-1], Collected)
    assert would[-1].dry_run


def test_what_is_young_stays_whatever_was_asked_for(settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    blob = stray_blob(settings, "org/name", b"stray")
    path = partial(settings, f"{DIGEST}.part")
    age(blob, 300)
    age(path, 300)
    assert removed(collect(settings, older_than_s=0)) == []
    age(blob, GRACE_S + 1)
    age(path, GRACE_S + 1)
    assert removed(collect(settings)) == []
    assert removed(collect(settings, older_than_s=0)) == [("blob", blob.name), ("partial", path.name)]


def test_a_link_in_whatever_form_keeps_its_blob(settings: Settings, tmp_path: Path) -> None:
    snapshot = put(settings, "org/name", WHOLE)
    blob = stray_blob(settings, "org/name", b"used in another way")
    (snapshot / "absolute").symlink_to(tmp_path / "elsewhere" / "blobs" / blob.name)
    age(settings.hub_dir)
    assert removed(collect(settings)) == []


def test_the_blobs_of_a_download_under_way_stay_although_nothing_links_to_them_yet(settings: Settings) -> None:
    blob = stray_blob(settings, "org/name", b"published")
    other = stray_blob(settings, "org/other", b"garbage")
    said = collect(settings, lambda: in_use(settings, [live()]))
    assert removed(said) == [("blob", other.name)]
    assert blob.exists()
    assert not (settings.hub_dir / "models--org--other").exists()


def test_the_intent_log_keeps_what_redis_has_forgotten(settings: Settings) -> None:
    """A download of another hive on this store, or of this one after FLUSHALL."""
    entry = Intent(id=ID, dedup_key="a" * 64, ref="hf:org/name", request=Request(ref="hf:org/name"), paused=True)
    intents = IntentLog(settings)
    intents.write(entry)
    intents.write_attempt(ID, Attempt(attempt=1, fence=1, partials=(DIGEST,)))
    blob = stray_blob(settings, "org/name", b"published")
    kept = [partial(settings, f"{DIGEST}.part"), partial(settings, f"{DIGEST}.{ID}.part")]
    gone = partial(settings, f"{'cd' * 32}.part")
    assert removed(collect(settings)) == [("partial", gone.name)]
    assert blob.exists()
    assert all(path.exists() for path in kept)
    intents.remove(ID)
    assert len(removed(collect(settings))) == 3


def test_an_intent_log_that_nobody_has_written_to_for_a_month_does_not_count(settings: Settings) -> None:
    IntentLog(settings).write(Intent(id=ID, dedup_key="a" * 64, ref="hf:org/name", request=Request(ref="hf:org/name")))
    blob = stray_blob(settings, "org/name", b"published")
    age(settings.hive_dir / "downloads", 31 * 86_400)
    assert removed(collect(settings)) == [("blob", blob.name)]


def test_partials_go_by_the_newest_of_their_files(settings: Settings) -> None:
    partial(settings, f"{DIGEST}.part")
    partial(settings, f"{DIGEST}.journal", seconds=3600)
    assert removed(collect(settings)) == []
    partial(settings, f"{DIGEST}.journal")
    partial(settings, f"{DIGEST}.journal.new", b"")
    [line, _] = collect(settings)
    assert isinstance(line, Removed)
    assert (line.kind, line.bytes) == ("partial", 8)
    assert given_up(settings.hive_dir, DIGEST) > 0
    assert list((settings.hive_dir / "partial").iterdir()) == []


def test_partials_of_every_kind_go_and_strangers_stay(settings: Settings) -> None:
    names = [f"{DIGEST}.part", f"git-{'1' * 40}.{ID}.part", f"url-{DIGEST}.journal", f"{DIGEST}.bad"]
    names += [f"{DIGEST}.0a1b2c3d.bad", f".{DIGEST}.part.0123456789abcdef.tmp"]
    strangers = ["README", f"{DIGEST}.part.orig", "x.part", f"{DIGEST}"]
    for name in [*names, *strangers]:
        partial(settings, name)
    assert sorted(name for _, name in removed(collect(settings))) == sorted(names)
    assert {path.name for path in (settings.hive_dir / "partial").iterdir()} == set(strangers)


def test_a_small_partial_stays_as_long_as_its_download_lives(settings: Settings) -> None:
    mine, other = partial(settings, f"{DIGEST}.{ID}.part"), partial(settings, f"{DIGEST}.{OTHER_ID}.part")
    assert removed(collect(settings, lambda: in_use(settings, [live()]))) == [("partial", other.name)]
    assert mine.exists()


def test_what_a_download_may_have_written_that_no_intent_log_lists_stays(settings: Settings) -> None:
    """The store could not be written when it was asked for: its partials are those younger than it."""
    older, younger = partial(settings, f"{DIGEST}.part"), partial(settings, f"{'cd' * 32}.part", seconds=OLD_S - 100)
    created_s = time.time() - OLD_S + 50
    said = collect(settings, lambda: in_use(settings, [live(created_s=created_s)]))
    assert removed(said) == [("partial", older.name)]
    assert younger.exists()


def test_another_tools_half_files_stay_for_a_day_at_least(settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    half = settings.hub_dir / "models--org--name" / "blobs" / f"{DIGEST}.0a1b2c3d.incomplete"
    half.write_bytes(b"half")
    age(half, 80_000)
    assert removed(collect(settings, older_than_s=0)) == []
    age(half, 90_000)
    assert removed(collect(settings, older_than_s=0)) == [("incomplete", half.name)]


def test_a_snapshot_of_which_nothing_is_left_goes(settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    gone = put(settings, "org/name", {"deep/er/a": b"a", "b": b"b"}, commit=OTHER, refs=())
    for path in ("deep/er/a", "b"):
        (gone / path).resolve().unlink()
    put_tree(settings, "org/name", {"b": b"b"}, commit=OTHER)
    empty = settings.hub_dir / "models--org--name" / "snapshots" / ("c" * 40)
    empty.mkdir()
    age(settings.hub_dir)
    assert removed(collect(settings)) == [("snapshot", OTHER), ("snapshot", "c" * 40)]
    assert not gone.exists()
    assert not empty.exists()
    assert scan_cache_dir(settings.hub_dir).warnings == []
    assert [model.revision for model in ModelCatalog(settings).list()] == [COMMIT]


def test_a_broken_snapshot_stays_where_a_ref_names_it_or_anything_is_left(settings: Settings, tmp_path: Path) -> None:
    named = put(settings, "org/named", {"a": b"a"})
    partly = put(settings, "org/partly", {"a": b"a", "b": b"b"}, refs=())
    foreign = put(settings, "org/foreign", {"a": b"a"}, refs=())
    (foreign / "mine").symlink_to(tmp_path / "elsewhere")
    for snapshot in (named, partly, foreign):
        (snapshot / "a").resolve().unlink()
    age(settings.hub_dir)
    assert removed(collect(settings)) == []


def test_a_repository_of_which_nothing_is_left_goes_with_its_folder(settings: Settings) -> None:
    snapshot = put(settings, "org/name", {"a": b"a"}, refs=())
    (snapshot / "a").resolve().unlink()
    own = settings.hive_dir / "trees" / "models--org--name"
    own.mkdir(parents=True)
    (own / f"{COMMIT}.json").write_bytes(b"{}")
    age(settings.store_dir)
    assert removed(collect(settings)) == [("listing", f"{COMMIT}.json"), ("snapshot", COMMIT)]
    assert not (settings.hub_dir / "models--org--name").exists()
    assert not own.exists()


def test_a_urls_file_without_its_manifest_goes(settings: Settings) -> None:
    broken = put_url(settings, "https://host.example/f", b"content")
    short = put_url(settings, "https://host.example/g", b"content", size=9)
    sound = put_url(settings, "https://host.example/h", b"content")
    (broken.parent / "manifest.json").unlink()
    age(settings.hive_dir)
    kept = collect(settings, lambda: in_use(settings, [live("https://host.example/other")]))
    assert removed(kept) == []
    assert removed(collect(settings)) == sorted(("url_file", path.parent.name) for path in (broken, short))
    assert sound.exists()
    assert not broken.parent.exists()


def test_temporary_files_go_wherever_hive_leaves_them(settings: Settings) -> None:
    put(settings, "org/name", WHOLE)
    put_tree(settings, "org/name", WHOLE)
    put_url(settings, "https://host.example/f", b"content")
    repo, name = settings.hub_dir / "models--org--name", ".x.0123456789abcdef.tmp"
    folders = [repo / "refs", repo / "blobs", repo / "snapshots" / COMMIT]
    folders += [settings.hive_dir / "partial", settings.hive_dir / "files" / url_key("https://host.example/f")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"t")
    age(settings.store_dir)
    assert removed(collect(settings)) == [("temporary", name)] * len(folders)
    assert ModelCatalog(settings).get("org/name").refs == ("main",)


@pytest.mark.parametrize("listing", ["names it", "is not there", "does not name it"])
def test_a_file_of_a_repository_that_is_called_like_a_temporary_one_stays(settings: Settings, listing: str) -> None:
    name = "deep/.x.0123456789abcdef.tmp"
    files = {**WHOLE, name: b"of the repository"}
    snapshot = put(settings, "org/name", files)
    if listing != "is not there":
        put_tree(settings, "org/name", files if listing == "names it" else WHOLE)
    age(settings.hub_dir)
    paths = [path for _, path in removed(collect(settings))]
    if listing == "does not name it":
        assert ".x.0123456789abcdef.tmp" in paths
    else:
        assert paths == []
        assert (snapshot / name).read_bytes() == b"of the repository"


def test_nothing_is_removed_through_a_link(settings: Settings, tmp_path: Path) -> None:
    """Links planted in the store lead to files that look like garbage; none of them is touched."""
    outside = tmp_path / "outside"
    for folder in ("blobs", "snapshots", "partial", "files", "models--org--evil/blobs", "trees"):
        (outside / folder).mkdir(parents=True)
        (outside / folder / sha256(b"x")).write_bytes(b"x")
        (outside / folder / f"{DIGEST}.part").write_bytes(b"x")
    put(settings, "org/name", WHOLE)
    (settings.hub_dir / "models--org--evil").symlink_to(outside / "models--org--evil")
    (settings.hub_dir / "models--org--blobs").mkdir()
    (settings.hub_dir / "models--org--blobs" / "blobs").symlink_to(outside / "blobs")
    (settings.hub_dir / "models--org--blobs" / "snapshots").symlink_to(outside / "snapshots")
    settings.hive_dir.mkdir()
    for name in ("partial", "files", "trees"):
        (settings.hive_dir / name).symlink_to(outside / name)
    stray = settings.hub_dir / "models--org--name" / "blobs" / ("ef" * 32)
    stray.symlink_to(outside / "blobs" / sha256(b"x"))
    age(tmp_path)
    before = everything_below(outside)
    collect(settings)
    assert everything_below(outside) == before
    assert not stray.is_symlink()


def test_other_tools_folders_in_the_cache_are_not_looked_at(settings: Settings) -> None:
    blob = settings.hub_dir / "adapters--org--name" / "blobs" / DIGEST
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"data")
    age(settings.hub_dir)
    assert removed(collect(settings)) == []


def test_the_hourly_collection_takes_partials_only(settings: Settings) -> None:
    path = partial(settings, f"{DIGEST}.part")
    stray_blob(settings, "org/name", b"stray")
    assert removed(collect(settings, partials_only=True)) == [("partial", path.name)]


def test_a_broken_intent_log_disturbs_nobody(settings: Settings) -> None:
    folder = settings.hive_dir / "downloads" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / f"{ID}.json").write_bytes(b"{")
    (folder / f"{OTHER_ID}.json").write_bytes(msgspec.json.encode({"request": {"ref": "no ref at all"}}))
    assert in_use(settings, ()).ids == frozenset({OTHER_ID})
