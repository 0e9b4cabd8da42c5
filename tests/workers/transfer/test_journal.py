"""The journal: what is written is read again, and what is torn is not believed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.transfer.state.journal import Identity, Journal, boot_id, recover
from workers.transfer.state.part_map import Extent

WHO = Identity(1000, "sha256:" + "a" * 64, '"v1"')


def journal(path: Path, extents: list[Extent] | None = None, durable: list[Extent] | None = None) -> Journal:
    return Journal(path, WHO, "boot", extents or [], durable or [])


def test_what_was_recorded_is_recovered(tmp_path: Path) -> None:
    with_lines = journal(tmp_path / "j", [Extent(0, 10, 1)])
    with_lines.append([Extent(10, 20, 2), Extent(100, 110, 3)])
    with_lines.append([Extent(10, 30, 4)])
    with_lines.close()
    found = recover(tmp_path / "j", 1000, "boot")
    assert found is not None
    assert found.identity == WHO
    assert found.extents == [Extent(0, 10, 1), Extent(10, 30, 4), Extent(100, 110, 3)]
    assert found.durable == []


def test_a_sync_vouches_for_what_was_recorded_before_it_began(tmp_path: Path) -> None:
    ours = journal(tmp_path / "j")
    ours.append([Extent(0, 10, 1)])
    mark = ours.mark()
    ours.append([Extent(0, 20, 2)])
    ours.synced(mark)
    ours.append([Extent(20, 30, 3)])
    ours.close()
    same, other = recover(tmp_path / "j", 1000, "boot"), recover(tmp_path / "j", 1000, "other boot")
    assert same is not None
    assert other is not None
    assert same.extents == [Extent(0, 20, 2), Extent(20, 30, 3)]
    assert same.durable == other.extents == [Extent(0, 10, 1)]


def test_a_sync_of_an_older_journal_vouches_for_nothing(tmp_path: Path) -> None:
    ours = journal(tmp_path / "j")
    ours.append([Extent(0, 10, 1)])
    mark = ours.mark()
    ours.compact([Extent(0, 20, 2)], [])
    ours.append([Extent(20, 30, 3)])
    ours.synced(mark)
    ours.close()
    found = recover(tmp_path / "j", 1000, "other boot")
    assert found is not None
    assert found.extents == []


def test_a_new_journal_keeps_what_was_vouched_for(tmp_path: Path) -> None:
    journal(tmp_path / "j", [Extent(0, 10, 1), Extent(50, 60, 2)], [Extent(0, 10, 1)]).close()
    found = recover(tmp_path / "j", 1000, "other boot")
    assert found is not None
    assert found.extents == [Extent(0, 10, 1)]


def test_a_system_without_a_boot_id_believes_synced_lines_only(tmp_path: Path) -> None:
    Journal(tmp_path / "j", WHO, "", [Extent(0, 10, 1), Extent(20, 30, 1)], [Extent(0, 10, 1)]).close()
    found = recover(tmp_path / "j", 1000, "")
    assert found is not None
    assert found.extents == [Extent(0, 10, 1)]


def test_extents_beyond_the_data_file_are_not_believed(tmp_path: Path) -> None:
    journal(tmp_path / "j", [Extent(0, 10, 1), Extent(10, 500, 2), Extent(500, 2000, 3)]).close()
    for data_bytes, known in ((499, 1), (500, 2), (5000, 2)):
        found = recover(tmp_path / "j", data_bytes, "boot")
        assert found is not None
        assert len(found.extents) == known


def test_a_long_list_of_extents_takes_several_lines(tmp_path: Path) -> None:
    who = Identity(10**9, "", "")
    many = [Extent(at * 10, at * 10 + 5, at) for at in range(5000)]
    Journal(tmp_path / "j", who, "boot", many, []).close()
    assert len((tmp_path / "j").read_bytes().splitlines()) > 5
    found = recover(tmp_path / "j", 10**9, "boot")
    assert found is not None
    assert found.extents == many


def test_no_journal_and_a_foreign_file_say_nothing(tmp_path: Path) -> None:
    assert recover(tmp_path / "j", 1000, "boot") is None
    for text in (b"", b"\n", b"hello\n", b"\0" * 4096, b"00000000 {}\n", b"a3 [1]\n"):
        (tmp_path / "j").write_bytes(text)
        assert recover(tmp_path / "j", 1000, "boot") is None


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400), st.binary(max_size=40))
def test_any_damage_leaves_a_prefix_of_the_truth(tmp_path: Path, at: int, noise: bytes) -> None:
    ours = journal(tmp_path / "j")
    truth = [Extent(start, start + 10, start) for start in range(0, 100, 10)]
    for extent in truth:
        ours.append([extent])
    ours.close()
    text = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(text[:at] + noise + text[at + len(noise) :])
    found = recover(tmp_path / "j", 1000, "boot")
    if found is not None:
        assert found.extents == truth[: len(found.extents)]


def test_the_boot_id_is_the_same_twice() -> None:
    assert boot_id() == boot_id()
