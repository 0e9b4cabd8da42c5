"""One refusal among parallel requests: fewer connections, and final only when the last one is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hive.errors import DownloadError, FileNotFound, HiveError, ModelAccessDenied, SourceChanged
from tests.hub import HubServer, faults
from tests.hub.messages import Request
from tests.support.content import KIB, MIB
from tests.support.transfer import ONE, QUICK, big, digest_of, get, holds, source
from workers.transfer import Location, Source
from workers.transfer.concurrency import ConnectionCount
from workers.transfer.limits import Limits

#: Connections that the hosts of these tests serve at a time.
MOST = 2
#: Bytes per second of one connection: slow enough that connections overlap.
RATE = 2 * MIB


def beyond(hub: HubServer, most: int = MOST) -> Callable[[Request], bool]:
    """Whether a request comes while the host serves so many already."""
    return lambda _: sum(hit.busy and hit.status in (200, 206) for hit in list(hub.log)) >= most


REFUSALS = {
    "400": faults.status(400, body="too many"),
    "401": faults.status(401),
    "403": faults.status(403),
    "404": faults.status(404),
    "409": faults.status(409),
    "410": faults.status(410),
    "418": faults.status(418),
    "429": faults.status(429),
    "500": faults.status(500),
    "502": faults.status(502),
    "503": faults.status(503),
    "a reset": faults.hang_up(),
    "a body cut at once": faults.cut(0),
    "a whole file": faults.no_range(),
    "a range elsewhere": faults.wrong_range(shift_bytes=4 * KIB),
    "another total": faults.wrong_range(total_shift_bytes=1),
    "a web page": faults.other_content(b"<html>too many connections</html>"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_host_that_serves_two_connections_only_brings_the_file_over_two(
    hub: HubServer, tmp_path: Path, refusal: str
) -> None:
    content = big(3 * MIB)
    hub.limit_rate_bytes_per_s = RATE
    rule = hub.faults.add(REFUSALS[refusal], "/f", when=beyond(hub))
    fetched = get(source(hub.plain("f", content), content), tmp_path / "f")
    assert holds(tmp_path / "f", content)
    assert fetched.bytes_refetched == 0
    assert rule.struck > 0


def beyond_first(most: int) -> Callable[[Request], bool]:
    """Whether a request comes over another connection than the first ones; the server has a thread for each."""
    served: list[threading.Thread] = []

    def is_beyond(_: Request) -> bool:
        served[:] = [thread for thread in served if thread.is_alive()]
        if len(served) < most and threading.current_thread() not in served:
            served.append(threading.current_thread())
        return threading.current_thread() not in served

    return is_beyond


#: A silence that nobody waits out.
LONG_S = 3_600.0
#: Patience as it is, but for the connections beyond the first.
#: Nothing is stolen from a connection that reads, which would close it, and its place at the server with it.
PATIENT = replace(
    QUICK, stall_s=120.0, first_byte_s=300.0, stall_all_s=300.0, spare_first_byte_s=0.3, steal_min_bytes=64 * MIB
)


@pytest.mark.parametrize("most", [2, 3])
@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize(
    "silence", [faults.slow_connect(LONG_S), faults.stall(0, LONG_S)], ids=["no head", "a head and no byte"]
)
def test_a_host_that_leaves_the_other_connections_hanging_costs_a_moment(
    hub: HubServer, tmp_path: Path, silence: faults.Fault, pinned: bool, most: int
) -> None:
    # Some seconds for those that bring bytes: patience is four times the slowest answer, which a busy machine makes
    # long, and counts only as long as another one brings any.
    content = big(12 * MIB)
    hub.limit_rate_bytes_per_s = RATE
    rule = hub.faults.add(silence, "/f", when=beyond_first(most))
    began_s = time.monotonic()
    fetched = get(source(hub.plain("f", content), content, pinned=pinned), tmp_path / "f", PATIENT)
    assert time.monotonic() - began_s < PATIENT.stall_s / 2
    assert holds(tmp_path / "f", content)
    assert fetched.bytes_refetched == 0
    assert rule.struck > 0


def test_a_host_that_answers_slowly_keeps_its_connections(hub: HubServer, tmp_path: Path) -> None:
    # Each answer takes so long that four times as long is more than what a busy machine adds to it.
    content = big(MIB)
    hub.limit_rate_bytes_per_s = RATE
    hub.faults.add(faults.slow_connect(1.0), "/f")
    limits = replace(PATIENT, spare_first_byte_s=1.5)
    get(source(hub.plain("f", content), content), tmp_path / "f", limits)
    assert len({hit.connection_id for hit in hub.hits("/f")}) > 2
    assert len({hit.range for hit in hub.hits("/f")}) == len(hub.hits("/f"))


def test_one_connection_alone_is_waited_for_as_long_as_the_settings_say(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.slow_connect(1.0), "/f", skip=2, count=1)
    limits = replace(ONE, stall_s=20.0, spare_first_byte_s=0.1)
    get(source(hub.plain("f", content), content), tmp_path / "f", limits)
    asked = [hit.range for hit in hub.hits("/f")]
    assert len(asked) == len(set(asked))


def test_a_host_that_serves_two_connections_is_not_pestered(hub: HubServer, tmp_path: Path) -> None:
    content = big(3 * MIB)
    hub.limit_rate_bytes_per_s = RATE / 2
    rule = hub.faults.add(faults.hang_up(), "/f", when=beyond(hub))
    get(source(hub.plain("f", content), content), tmp_path / "f")
    # A connection too many asks twice, then it is left out; before, each asked a hundred times a second.
    assert 0 < rule.struck <= 2 * QUICK.connections_max


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.status(403), ModelAccessDenied),
        (faults.status(404), FileNotFound),
        (faults.status(400, body="no more"), DownloadError),
        (faults.wrong_range(total_shift_bytes=4 * KIB), SourceChanged),
    ],
)
def test_the_refusal_of_the_last_connection_is_final_and_named(
    hub: HubServer, tmp_path: Path, fault: faults.Fault, error: type[HiveError]
) -> None:
    content = big(3 * MIB)
    hub.limit_rate_bytes_per_s = RATE
    hub.faults.add(fault, "/f", skip=6)
    with pytest.raises(error) as caught:
        get(source(hub.plain("f", content), content), tmp_path / "f")
    assert type(caught.value) is error


def test_a_single_connection_that_is_refused_in_the_middle_asks_again(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    hub.faults.add(faults.status(403), "/f", skip=3, count=4)
    fetched = get(source(hub.plain("f", content), content), tmp_path / "f", ONE)
    assert fetched.verified
    assert fetched.bytes_refetched == 0


def test_a_small_file_that_is_refused_in_the_middle_asks_again(hub: HubServer, tmp_path: Path) -> None:
    content = big(MIB)
    hub.faults.add(faults.short_body(at_offset=500_000), "/f", count=1)
    hub.faults.add(faults.status(409), "/f", skip=1, count=2)
    fetched = get(source(hub.plain("f", content), content), tmp_path / "f", replace(QUICK, small_file_bytes=16 * MIB))
    assert fetched.verified
    assert fetched.bytes_refetched == 0


def signed(hub: HubServer) -> Source:
    """A model file of the Hub, which redirects to a signed URL."""
    content = big()
    repo = hub.create("org/name", {"model.gguf": content})
    url = hub.resolve_url(repo, "model.gguf")
    headers = {"Authorization": f"Bearer {hub.token}"}
    return Source(lambda: Location(url, headers), content.size, digest_of(content), "model.gguf")


@pytest.mark.parametrize("refused", [1, 2, 3, 5])
@pytest.mark.parametrize("skip", [0, 4])
@pytest.mark.parametrize("status", [403, 400, 404])
def test_fresh_signed_links_that_are_refused_are_asked_for_again(
    hub: HubServer, tmp_path: Path, refused: int, skip: int, status: int
) -> None:
    what = signed(hub)
    hub.faults.add(faults.status(status), "*", origin="cdn", count=refused, skip=skip)
    assert get(what, tmp_path / "f", ONE).verified
    assert len(hub.hits("/org/name/resolve/*")) >= refused


def test_a_hub_that_refuses_a_new_location_does_not_end_those_that_read(hub: HubServer, tmp_path: Path) -> None:
    what = signed(hub)
    hub.faults.add(faults.status(403), "*", origin="cdn", count=1, skip=4)
    hub.faults.add(faults.status(403), "/org/name/resolve/*", count=2, skip=1)
    assert get(what, tmp_path / "f").verified


def test_a_locate_that_is_denied_for_a_moment_does_not_end_the_file(hub: HubServer, tmp_path: Path) -> None:
    content = big()
    url = hub.plain("f", content)
    asked: list[int] = []

    def locate() -> Location:
        asked.append(1)
        if len(asked) in (2, 3):
            raise ModelAccessDenied
        return Location(url)

    hub.faults.add(faults.status(403), "/f", skip=3, count=1)
    assert get(Source(locate, content.size, digest_of(content), "f"), tmp_path / "f", ONE).verified
    assert len(asked) == 4


def test_what_a_host_refused_is_tried_again_each_time_later() -> None:
    limits = Limits()
    count = ConnectionCount(limits)
    grown_s: list[float] = []
    now_s, moved = 0.0, 0.0
    while now_s < 300:
        now_s += 0.05
        moved += min(count.target, MOST) * 40_000_000 * 0.05
        before = count.target
        if count.look(now_s, int(moved)) > max(before, MOST):
            grown_s.append(now_s)
            count.refused(now_s, MOST)
    gaps = [after - before for before, after in pairwise(grown_s)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= limits.ramp_again_s
    assert gaps[-1] > 3 * gaps[0]
