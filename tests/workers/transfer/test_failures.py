"""The failure table, row by row, as far as HTTP can fail."""

from __future__ import annotations

import time
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest

from hive.errors import (
    DiskFull,
    DownloadError,
    DownloadTimeout,
    FileNotFound,
    HubUnavailable,
    LengthUnknown,
    ModelAccessDenied,
    ModelNotFound,
    NotAModel,
    RevisionNotFound,
    SourceChanged,
)
from hive.net.egress import Network
from tests.hub import HubServer, faults
from tests.hub.repo import Repo
from tests.support.content import KIB, MIB
from tests.support.transfer import ONE, QUICK, Heard, big, digest_of, get, holds, source, transfer_threads
from tests.support.waiting import AT_ONCE_S
from workers.transfer import (
    HostPool,
    Limits,
    LocalCooldown,
    Location,
    Served,
    Source,
    bad_path,
    discard,
    journal_path,
)
from workers.transfer.concurrency import ConnectionCount


def lfs(hub: HubServer, size: int = 2 * MIB) -> tuple[Repo, Source]:
    """A model file: the Hub redirects to a signed URL at the CDN."""
    content = big(size)
    repo = hub.create("org/name", {"model.gguf": content})
    url = hub.resolve_url(repo, "model.gguf")
    headers = {"Authorization": f"Bearer {hub.token}"}
    return repo, Source(lambda: Location(url, headers), size, digest_of(content), "model.gguf")


def test_a_200_to_a_range_once_is_resolved_anew(hub: HubServer, tmp_path: Path) -> None:
    _, what = lfs(hub)
    hub.faults.add(faults.no_range(), "*", origin="cdn", count=1, skip=3)
    fetched = get(what, tmp_path / "f", ONE)
    assert fetched.verified
    assert fetched.bytes_refetched == 0
    assert len(hub.hits("/org/name/resolve/*")) == 2


def test_a_200_to_every_range_gives_one_stream_from_the_first_byte(hub: HubServer, tmp_path: Path) -> None:
    _, what = lfs(hub)
    hub.faults.add(faults.no_range(), "*", origin="cdn", skip=3)
    assert get(what, tmp_path / "f", ONE).verified
    assert hub.hits("*", origin="cdn")[-1].status == 200


def test_a_wrong_range_is_discarded_and_resolved_anew(hub: HubServer, tmp_path: Path) -> None:
    _, what = lfs(hub)
    hub.faults.add(faults.wrong_range(shift_bytes=4 * KIB), "*", origin="cdn", count=1, skip=2)
    assert get(what, tmp_path / "f", ONE).verified


def test_a_range_of_another_size_twice_means_that_the_source_changed(hub: HubServer, tmp_path: Path) -> None:
    _, what = lfs(hub)
    hub.faults.add(faults.wrong_range(total_shift_bytes=1), "*", origin="cdn", skip=2)
    with pytest.raises(SourceChanged):
        get(what, tmp_path / "f")


def test_other_ranges_than_asked_for_again_and_again_give_one_stream(hub: HubServer, tmp_path: Path) -> None:
    _, what = lfs(hub)
    hub.faults.add(faults.wrong_range(shift_bytes=4 * KIB), "*", origin="cdn", skip=2)
    assert get(what, tmp_path / "f").verified


def test_content_that_changes_once_is_fetched_from_the_start(hub: HubServer, tmp_path: Path) -> None:
    old, new = big(seed=1), big(seed=2)
    url = hub.plain("f", old)
    hub.faults.add(faults.cut(at_offset=MIB), "/f", count=1)
    rule = hub.faults.add(faults.other_content(new), "/f", skip=4)
    get(source(url, pinned=False), tmp_path / "f", ONE)
    assert rule.struck
    assert holds(tmp_path / "f", new)


def test_content_that_changes_again_and_again_comes_in_one_stream(hub: HubServer, tmp_path: Path) -> None:
    url = hub.plain("f", big(seed=0))
    for seed in range(1, 12):
        hub.faults.add(faults.other_content(big(seed=seed)), "/f", count=1, skip=1)
    get(source(url, pinned=False), tmp_path / "f", ONE)
    assert any(holds(tmp_path / "f", big(seed=seed)) for seed in range(12))
    assert hub.hits("/f")[-1].range is None


def test_another_etag_of_the_cdn_does_not_matter_where_the_digest_is_known(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    url = hub.plain("f", content)
    what = source(url, content)
    hub.faults.add(faults.other_content(content), "/f", skip=3)
    assert get(what, tmp_path / "f", ONE).verified


def test_a_file_that_became_shorter_is_a_changed_source(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    what = source(hub.plain("f", big(KIB)), content)
    with pytest.raises(SourceChanged):
        get(what, tmp_path / "f", ONE)


@pytest.mark.parametrize("break_", [faults.short_body, faults.cut])
def test_a_broken_body_keeps_its_bytes(hub: HubServer, tmp_path: Path, break_: type[faults.Fault]) -> None:
    content = big()
    what = source(hub.plain("f", content), content)
    for percent in range(5, 100, 5):
        hub.faults.add(break_(at_offset=content.size * percent // 100), "/f", count=1)  # type: ignore[call-arg]
    fetched = get(what, tmp_path / "f")
    assert holds(tmp_path / "f", content)
    assert fetched.bytes_refetched == 0
    # The kernel throws away what a reset finds in its buffers; nothing else is sent twice.
    assert hub.bytes_sent("/f") <= content.size + 19 * 64 * KIB


def test_a_cut_connection_resumes_from_the_last_byte(hub: HubServer, tmp_path: Path) -> None:
    content = big(MIB)
    what = source(hub.plain("f", content), content)
    hub.faults.add(faults.short_body(at_offset=700_001), "/f", count=1)
    get(what, tmp_path / "f", replace(ONE, part_min_bytes=MIB, part_max_bytes=MIB))
    assert [hit.range for hit in hub.hits("/f")] == [f"bytes=0-{MIB - 1}", f"bytes=700001-{MIB - 1}"]


def test_a_small_file_resumes_from_the_last_byte_too(hub: HubServer, tmp_path: Path) -> None:
    content = big(MIB)
    what = source(hub.plain("f", content), content)
    hub.faults.add(faults.short_body(at_offset=700_001), "/f", count=1)
    get(what, tmp_path / "f", replace(QUICK, small_file_bytes=16 * MIB))
    assert [hit.range for hit in hub.hits("/f")] == [f"bytes=0-{MIB - 1}", f"bytes=700001-{MIB - 1}"]


def test_a_stream_without_ranges_that_breaks_begins_again(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    url = hub.plain("f", content, ranges=False)
    hub.faults.add(faults.short_body(MIB), "/f", count=1)
    for pinned in (True, False):
        fetched = get(source(url, content, pinned=pinned), tmp_path / "f")
        assert holds(tmp_path / "f", content)
        assert fetched.bytes_refetched == (MIB if pinned else 0)
        discard(tmp_path / "f")


def test_a_stream_without_ranges_that_always_breaks_is_given_up(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.short_body(MIB), "/f")
    with pytest.raises(DownloadError):
        get(source(hub.plain("f", content, ranges=False), pinned=False), tmp_path / "f")
    # In each of seven rounds: the stream, and twice the question whether it can be resumed after all.
    assert len(hub.hits("/f")) <= 7 * 3


def test_a_compressed_answer_is_decoded_where_the_digest_is_known(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.gzip(), "/f")
    assert get(source(hub.plain("f", content), content), tmp_path / "f").verified
    assert holds(tmp_path / "f", content)


def test_a_compressed_answer_without_digest_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.add(faults.gzip(), "/f")
    with pytest.raises(DownloadError, match="compressed"):
        get(source(hub.plain("f", big()), pinned=False), tmp_path / "f")


@pytest.mark.parametrize("pinned", [True, False])
def test_a_body_whose_end_cannot_be_told_needs_a_digest(hub: HubServer, tmp_path: Path, pinned: bool) -> None:
    content = big()
    what = source(hub.plain("f", content, ranges=False), content, pinned=pinned)
    hub.faults.add(faults.until_close(), "/f")
    if pinned:
        assert get(what, tmp_path / "f").verified
        return
    with pytest.raises(LengthUnknown, match="cannot tell whether it is complete"):
        get(what, tmp_path / "f")
    assert len(hub.hits("/f")) == 1


def test_a_body_whose_end_cannot_be_told_is_held_to_its_digest(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    what = Source(lambda: Location(url), None, digest_of(content), "f")
    url = hub.plain("f", content, ranges=False)
    hub.faults.add(faults.until_close(), "/f")
    hub.faults.add(faults.short_body(MIB), "/f", count=1)
    assert get(what, tmp_path / "f").verified


def test_a_body_in_chunks_says_its_end(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.short_body(MIB), "/f", count=1)
    get(source(hub.plain("f", content, ranges=False, length=False), pinned=False), tmp_path / "f")
    assert holds(tmp_path / "f", content)


def test_a_decompression_bomb_stops_at_the_declared_size(hub: HubServer, tmp_path: Path) -> None:
    content = big(64 * KIB)
    url = hub.plain("f", b"\0" * 32 * MIB)
    hub.faults.add(faults.gzip(), "/f")
    what = Source(lambda: Location(url), content.size, digest_of(content), "f")
    with pytest.raises(DownloadError):
        get(what, tmp_path / "f")
    assert bad_path(tmp_path / "f").stat().st_size == content.size


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (401, {}, ModelAccessDenied),
        (403, {"X-Error-Code": "GatedRepo"}, ModelAccessDenied),
        (403, {}, ModelAccessDenied),
        (401, {"X-Error-Code": "RepoNotFound"}, ModelNotFound),
        (404, {"X-Error-Code": "RepoNotFound"}, ModelNotFound),
        (404, {"X-Error-Code": "RevisionNotFound"}, RevisionNotFound),
        (404, {"X-Error-Code": "EntryNotFound"}, FileNotFound),
        (404, {}, FileNotFound),
        (410, {}, FileNotFound),
        (418, {}, DownloadError),
    ],
)
def test_a_refusal_is_final_and_not_repeated(
    hub: HubServer, tmp_path: Path, status: int, headers: dict[str, str], error: type[Exception]
) -> None:
    content = big()
    hub.faults.add(faults.status(status, headers), "/f")
    with pytest.raises(error) as caught:
        get(source(hub.plain("f", content), content), tmp_path / "f")
    assert type(caught.value) is error
    assert len(hub.hits("/f")) == 1


def test_an_expired_link_is_resolved_anew(hub: HubServer, tmp_path: Path) -> None:
    _, what = lfs(hub)
    hub.faults.add(faults.expired_links(), "*", count=1)
    assert get(what, tmp_path / "f", ONE).verified
    assert [hit.status for hit in hub.hits("*", origin="cdn")][:2] == [403, 206]


def test_a_signed_link_that_is_always_refused_fails_with_the_reason_and_without_the_signature(
    hub: HubServer, tmp_path: Path
) -> None:
    _, what = lfs(hub)
    body = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message><Sig>s3cr3t</Sig></Error>"
    hub.faults.add(faults.status(403, body=body), "*", origin="cdn")
    with pytest.raises(DownloadError, match="Request has expired") as caught:
        get(what, tmp_path / "f")
    assert "s3cr3t" not in str(caught.value)
    assert len(hub.hits("*", origin="cdn")) == QUICK.attempts_max


def test_a_link_that_expires_in_the_middle_is_resolved_anew_without_losing_a_byte(
    hub: HubServer, tmp_path: Path
) -> None:
    _, what = lfs(hub)
    hub.faults.add(faults.status(403), "*", origin="cdn", count=1, skip=5)
    fetched = get(what, tmp_path / "f", ONE)
    assert fetched.bytes_refetched == 0
    assert len(hub.hits("/org/name/resolve/*")) == 2


def test_a_location_close_to_its_expiry_is_asked_for_again(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    url = hub.plain("f", content)
    asked: list[float] = []

    def locate() -> Location:
        asked.append(time.time())
        return Location(url, expires_at=time.time() + (60 if len(asked) == 1 else 3600))

    what = Source(locate, content.size, digest_of(content), "f")
    get(what, tmp_path / "f", ONE)
    # The first one was less than five minutes from its end: it served one request at most.
    assert len(asked) == 2


def test_the_redirect_is_followed_once_for_all_parts(hub: HubServer, tmp_path: Path) -> None:
    _, what = lfs(hub)
    get(what, tmp_path / "f")
    assert len(hub.hits("/org/name/resolve/*")) == 1
    assert len(hub.hits("*", origin="cdn")) > 10


@pytest.mark.parametrize("header", [{"Retry-After": "1"}, {"RateLimit": '"resolvers";r=0;t=1'}])
def test_too_many_requests_waits_as_long_as_asked_and_costs_no_attempt(
    hub: HubServer, tmp_path: Path, header: dict[str, str]
) -> None:
    content = big()
    hub.faults.add(faults.status(429, header), "/f", count=1)
    began = time.monotonic()
    heard = Heard()
    get(source(hub.plain("f", content), content), tmp_path / "f", replace(QUICK, attempts_max=1), on_progress=heard)
    assert 0.9 <= time.monotonic() - began < AT_ONCE_S
    assert "retrying" in heard.statuses


def test_the_cool_down_of_a_host_holds_for_other_fetches(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    cooldown = LocalCooldown()
    cooldown.set("127.0.0.1", 0.6)
    began = time.monotonic()
    with HostPool(Network(), cooldown=cooldown) as pool:
        get(source(hub.plain("f", content), content), tmp_path / "f", shared=pool)
    assert time.monotonic() - began >= 0.5
    assert hub.hits("/f")[0].status == 206


def test_a_server_that_never_stops_throttling_ends_in_a_time_out(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.status(429, {"Retry-After": "600"}), "/f")
    heard = Heard()
    with pytest.raises(DownloadTimeout, match="429"):
        get(source(hub.plain("f", content), content), tmp_path / "f", replace(QUICK, give_up_s=0.4), on_progress=heard)
    messages = [snapshot.message for snapshot in heard.snapshots]
    assert "the server answers 429 Too Many Requests; hive waits 10 minutes" in messages
    assert len(hub.hits("/f")) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_that_passes_is_tried_again(hub: HubServer, tmp_path: Path, status: int) -> None:
    content = big()
    hub.faults.add(faults.status(status), "/f", count=4)
    assert get(source(hub.plain("f", content), content), tmp_path / "f").verified


@pytest.mark.parametrize(("status", "halved"), [(429, True), (503, True), (502, False)])
def test_an_overloaded_server_gets_fewer_connections(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, halved: bool
) -> None:
    content = big()
    heard: list[float] = []
    monkeypatch.setattr(ConnectionCount, "throttled", lambda self, now_s: heard.append(now_s))
    hub.faults.add(faults.status(status), "/f", count=1, skip=2)
    get(source(hub.plain("f", content), content), tmp_path / "f")
    assert bool(heard) is halved


@pytest.mark.parametrize("limits", [QUICK, replace(QUICK, small_file_bytes=16 * MIB)], ids=["parts", "one-get"])
def test_six_attempts_without_progress_are_enough(hub: HubServer, tmp_path: Path, limits: Limits) -> None:
    content = big()
    hub.faults.add(faults.status(HTTPStatus.BAD_GATEWAY), "/f")
    with pytest.raises(DownloadError, match="at attempt 6: the server answers 502 Bad Gateway") as caught:
        get(source(hub.plain("f", content), content), tmp_path / "f", limits)
    assert type(caught.value) is DownloadError
    assert len(hub.hits("/f")) == 6
    assert transfer_threads() == []


def test_a_dead_server_is_said_plainly(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    what = source("http://127.0.0.1:9/x?X-Amz-Signature=s3cr3t", content)
    with pytest.raises(DownloadError, match="the server cannot be reached") as caught:
        get(what, tmp_path / "f")
    assert "s3cr3t" not in repr(caught.value)


def test_a_hub_that_is_away_for_a_moment_is_asked_again(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    url = hub.plain("f", content)
    asked: list[int] = []

    def locate() -> Location:
        asked.append(1)
        if len(asked) < 3:
            raise HubUnavailable
        return Location(url)

    assert get(Source(locate, content.size, digest_of(content), "f"), tmp_path / "f").verified


def test_a_stalled_connection_is_replaced(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.stall(at_offset=300_000), "/f", count=1)
    began = time.monotonic()
    limits = replace(QUICK, stall_all_s=4 * AT_ONCE_S, give_up_s=4 * AT_ONCE_S)
    fetched = get(source(hub.plain("f", content), content), tmp_path / "f", limits)
    assert fetched.bytes_refetched == 0
    assert 0.4 < time.monotonic() - began < AT_ONCE_S


def test_a_source_that_trickles_counts_as_stalled(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.trickle(100), "/f", count=1)
    began = time.monotonic()
    assert get(source(hub.plain("f", content), content), tmp_path / "f", replace(ONE, stall_s=0.4)).verified
    assert time.monotonic() - began < AT_ONCE_S


def test_a_source_that_stays_silent_is_given_up_and_the_journal_stays(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.stall(at_offset=MIB), "/f")
    hub.faults.add(faults.stall(0), "/f", skip=8)
    limits = replace(ONE, give_up_s=1.0, stall_s=0.3, attempts_max=1000)
    with pytest.raises(DownloadTimeout):
        get(source(hub.plain("f", content), content), tmp_path / "f", limits)
    assert journal_path(tmp_path / "f").exists()


def test_a_location_is_resolved_anew_when_nothing_moves(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    dead = hub.plain("dead", content)
    good = hub.plain("good", content)
    hub.faults.add(faults.stall(0), "/dead")
    places = iter([dead])
    what = Source(lambda: Location(next(places, good)), content.size, digest_of(content), "f")
    limits = replace(QUICK, stall_s=4 * AT_ONCE_S, stall_all_s=0.5)
    began = time.monotonic()
    assert get(what, tmp_path / "f", limits).verified
    assert time.monotonic() - began < AT_ONCE_S


@pytest.mark.parametrize("small_file_bytes", [0, 16 * MIB], ids=["with threads", "in the caller's"])
@pytest.mark.parametrize("error", [NotAModel, SourceChanged, DiskFull, OSError])
def test_what_is_found_with_the_last_byte_is_not_lost(
    hub: HubServer, tmp_path: Path, error: type[Exception], small_file_bytes: int
) -> None:
    content = big(64 * KIB)
    looks: list[int] = []

    def inspect(served: Served, head: bytes) -> None:
        looks.append(len(head))
        if len(looks) == 1:
            raise error

    what = replace(source(hub.plain("f", content), size=content.size, pinned=False), inspect=inspect)
    limits = replace(QUICK, small_file_bytes=small_file_bytes, read_bytes=MIB, connections_max=1)
    with pytest.raises(error):
        get(what, tmp_path / "f", limits)
    assert len(looks) == 1
