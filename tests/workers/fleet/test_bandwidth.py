"""The bandwidth's arithmetic, against a real Redis; tests/flow measures it at a server."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hive.downloads.admission import BandwidthLimit
from hive.errors import Cancelled
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import RedisClient, connect
from hive.wire import keys
from tests.hub import HubServer
from tests.support.content import KIB, MIB
from tests.support.transfer import QUICK, Heard, big, get, holds, source, transfer_threads
from tests.support.waiting import AT_ONCE_S, wait_for
from workers.bandwidth import SHARE_S, BandwidthLimiter, Gcra
from workers.fleet import bandwidth as bandwidth_module
from workers.fleet.bandwidth import FleetLimiter
from workers.transfer import Control, Snapshot

MB = 1_000_000


class Counting:
    """A client that counts its calls."""

    def __init__(self, client: RedisClient) -> None:
        self.calls = 0
        self._client = client

    def register_script(self, script: str) -> object:
        registered = self._client.register_script(script)

        def call(**arguments: object) -> object:
            self.calls += 1
            return registered(**arguments)

        return call

    def get(self, key: str) -> object:
        self.calls += 1
        return self._client.get(key)


def test_a_line_gives_each_its_moment() -> None:
    line = Gcra(clock=lambda: 100.0)
    assert line.book(10, 10) == pytest.approx(100 - SHARE_S)
    assert line.book(20, 10) == pytest.approx(101 - SHARE_S)
    assert line.book(1, 10) == pytest.approx(103 - SHARE_S)


def test_what_nobody_used_is_not_saved_up() -> None:
    now = 100.0
    line = Gcra(clock=lambda: now)
    line.book(1, 10)
    now = 1000.0
    assert line.book(1, 10) == pytest.approx(now - SHARE_S)


def test_without_a_limit_nobody_waits_and_redis_is_asked_once_a_second(store: RedisClient) -> None:
    counting = Counting(store)
    bandwidth = BandwidthLimiter(FleetLimiter(counting, 0, "a"))
    began_s = time.monotonic()
    assert [bandwidth(MIB) for _ in range(1000)] == [0.0] * 1000
    assert counting.calls <= 1 + (time.monotonic() - began_s) / bandwidth_module.LOOK_S


def test_shares_follow_each_other_without_a_gap_and_without_overlap(store: RedisClient) -> None:
    """Ten processes take one after the other: each waits until what was granted before has had its time."""
    BandwidthLimit(store, 0).write(MB)
    free_s, starts, answered = [], [], []
    for number in range(10):
        asked_s = time.monotonic()
        starts.append(FleetLimiter(store, 0, str(number)).book(20 * MB)[1])
        answered.append(time.monotonic() - asked_s)
        free_s.append(int(store.get(keys.BANDWIDTH_LINE) or 0) / 1_000_000)
    gaps = [later - earlier for earlier, later in pairwise(free_s)]
    assert gaps == pytest.approx([20.0] * len(gaps), abs=0.00001), "the line"
    # Each is told how long it must wait, and cannot know better when that counts from than it was answered soon.
    for number in range(2, len(starts)):
        gap_s = starts[number] - starts[number - 1]
        assert 20.0 - answered[number - 1] - 0.001 <= gap_s <= 20.0 + answered[number] + 0.001


def test_a_process_with_many_threads_gets_no_more_than_one_with_a_single_one(
    store: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half a second of its share at a time, beside which it does not count how late a thread is woken.
    monkeypatch.setattr(bandwidth_module, "SHARE_S", 0.5)
    BandwidthLimit(store, 0).write(10 * MB)
    accepted = {"crowd": 0, "loner": 0}
    over = threading.Event()

    def work(name: str, bandwidth: BandwidthLimiter) -> None:
        while not over.is_set():
            wait_s = bandwidth(200_000)
            while wait_s and not over.is_set():
                over.wait(wait_s)
                wait_s = bandwidth(0)
            accepted[name] += 200_000

    crowd, loner = (BandwidthLimiter(FleetLimiter(store, 0, name)) for name in accepted)
    threads = [threading.Thread(target=work, args=("crowd", crowd)) for _ in range(6)]
    threads.append(threading.Thread(target=work, args=("loner", loner)))
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: sum(accepted.values()) > 40 * MB, "four seconds' worth of bytes")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    # Not one to six.
    assert accepted["loner"] > 0.5 * accepted["crowd"]


def test_a_process_takes_a_tenth_of_a_second_of_its_own_share_at_a_time(
    store: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bandwidth_module, "TAKER_TTL_S", 600.0)
    BandwidthLimit(store, 0).write(100 * MB)
    counting = Counting(store)
    fleet = FleetLimiter(counting, 0, "a")
    for _ in range(100):
        fleet.book(100_000)
    assert counting.calls == 1, "10 MB are a tenth of a second"
    for name in "bcde":
        FleetLimiter(store, 0, name).book(1)
    counting.calls = 0
    for _ in range(100):
        wait_for(lambda: fleet.book(100_000)[0], "its turn")
    assert counting.calls == 5, "a fifth of that, since there are five"


def check_a_second_is_waited_for(bandwidth: BandwidthLimiter) -> None:
    """Under a limit of 1 MB/s. What the wait is counted from lies between the asking and the answers."""
    asked_s = time.monotonic()
    bandwidth(MB)
    wait_s = bandwidth(MB)
    assert wait_s == pytest.approx(1 - SHARE_S, abs=time.monotonic() - asked_s + 0.001)


def test_the_setting_counts_until_somebody_sets_a_limit(store: RedisClient) -> None:
    assert BandwidthLimit(store, 5 * MB).read() == 5 * MB
    assert BandwidthLimit(store, 0).read() is None
    check_a_second_is_waited_for(BandwidthLimiter(FleetLimiter(store, MB, "a")))
    BandwidthLimit(store, 5 * MB).write(None)
    assert BandwidthLimit(store, 5 * MB).read() is None
    assert BandwidthLimiter(FleetLimiter(store, 1 * MB, "b"))(100 * MB) == 0.0


@pytest.mark.parametrize("limit", [None, 1000 * MB])
def test_who_waits_under_an_old_limit_goes_on_under_the_new_one(
    store: RedisClient, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bandwidth_module, "LOOK_S", 0.0)
    BandwidthLimit(store, 0).write(65_536)
    bandwidth = BandwidthLimiter(FleetLimiter(store, 0, "a"))
    bandwidth(MIB)
    assert bandwidth(MIB) > 10
    assert bandwidth(0) > 10
    BandwidthLimit(store, 0).write(limit)
    assert bandwidth(0) < 0.1


def test_each_thread_waits_for_its_own_bytes(store: RedisClient) -> None:
    BandwidthLimit(store, 0).write(MB)
    bandwidth = BandwidthLimiter(FleetLimiter(store, 0, "a"))
    bandwidth(30 * MB)
    mine_s = bandwidth(MB)
    assert mine_s > 5
    other: list[float] = []
    thread = threading.Thread(target=lambda: other.extend([bandwidth(0), bandwidth(5 * MB)]))
    thread.start()
    thread.join()
    assert other[0] == 0.0, "it has asked for nothing yet"
    assert other[1] > 5, "not before what the process has taken is due; then it asks again"
    assert 0 < bandwidth(0) <= mine_s, "and nobody waits for what came later"


def test_a_download_may_have_a_limit_of_its_own(store: RedisClient) -> None:
    check_a_second_is_waited_for(BandwidthLimiter(FleetLimiter(store, 0, "a"), own_limit=MB))
    BandwidthLimit(store, 0).write(100 * MB)
    assert BandwidthLimiter(FleetLimiter(store, 0, "b"), own_limit=MB)(MB) < 0.1


@pytest.fixture
def doomed() -> Iterator[tuple[EmbeddedRedis, RedisClient]]:
    """A Redis that a test may kill."""
    with (
        tempfile.TemporaryDirectory(prefix="hive-") as home,
        EmbeddedRedis(Path(home)) as server,
        connect(server.url, retries=0, reply_timeout_s=0.2) as client,
    ):
        yield server, client


def test_while_redis_is_away_the_last_share_goes_on(
    doomed: tuple[EmbeddedRedis, RedisClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bandwidth_module, "TAKER_TTL_S", 600.0)
    server, client = doomed
    BandwidthLimit(client, 0).write(10 * MB)
    counting = Counting(client)
    fleet = FleetLimiter(counting, 0, "a")
    fleet.book(MB)
    FleetLimiter(client, 0, "b").book(MB)
    # It knows that they are two as soon as Redis has granted it something after that.
    wait_for(lambda: fleet.share == 5 * MB or not fleet.book(MB), "a share of two")
    server.stop()
    counting.calls = 0
    wait_for(lambda: fleet.book(MB)[0], "what was booked is due")
    began_s = time.monotonic()
    starts = [fleet.book(100 * MB)[1] for _ in range(10)]
    took_s = time.monotonic() - began_s
    assert counting.calls <= 2 + took_s / bandwidth_module.REDIS_RETRY_S, "who is away is not asked for each share"
    gaps = [later - earlier for earlier, later in pairwise(starts[1:])]
    assert gaps == pytest.approx([20.0] * len(gaps)), "10 MB/s for two are 5 MB/s each"


def test_a_redis_that_was_never_there_stops_nobody(tmp_path: Path) -> None:
    with connect(f"unix://{tmp_path}/none.sock", retries=0) as client:
        assert BandwidthLimiter(FleetLimiter(client, 0, "a"))(MB) == 0.0
        check_a_second_is_waited_for(BandwidthLimiter(FleetLimiter(client, MB, "a")))


def test_a_clock_that_was_set_back_does_not_stop_the_line(store: RedisClient) -> None:
    BandwidthLimit(store, 0).write(MB)
    store.set(keys.BANDWIDTH_LINE, str(int((time.time() + 86_400) * 1_000_000)))
    assert BandwidthLimiter(FleetLimiter(store, 0, "a"))(MB) < 0.1


def test_a_fetch_keeps_to_it_and_a_wait_is_no_stall(hub: HubServer, store: RedisClient, tmp_path: Path) -> None:
    """At this rate each read waits for longer than the engine takes for a stall."""
    content = big(192 * KIB)
    limits = replace(
        QUICK, stall_s=3.0, stall_all_s=3.0, give_up_s=3.0, read_bytes=64 * KIB, part_min_bytes=MIB, connections_max=1
    )
    BandwidthLimit(store, 0).write(16 * KIB)
    began = time.monotonic()
    control = Control(BandwidthLimiter(FleetLimiter(store, 0, "a")))
    fetched = get(source(hub.plain("f", content), content), tmp_path / "f", limits, control=control)
    assert holds(tmp_path / "f", content)
    assert time.monotonic() - began > 7
    assert fetched.bytes_refetched == 0


def test_a_cancel_ends_the_wait_for_a_share(hub: HubServer, store: RedisClient, tmp_path: Path) -> None:
    """Each read would wait for half a minute."""
    content = big(4 * MIB)
    BandwidthLimit(store, 0).write(KIB)
    control = Control(BandwidthLimiter(FleetLimiter(store, 0, "a")))
    cancelled_at: list[float] = []

    def cancel(snapshot: Snapshot) -> None:
        if snapshot.bytes_done and not cancelled_at:
            cancelled_at.append(time.monotonic())
            control.cancel()

    with pytest.raises(Cancelled):
        get(source(hub.plain("f", content), content), tmp_path / "f", control=control, on_progress=cancel)
    assert time.monotonic() - cancelled_at[0] < AT_ONCE_S
    assert transfer_threads() == []


def test_who_is_held_back_opens_no_further_connection(hub: HubServer, store: RedisClient, tmp_path: Path) -> None:
    """Each would bring a buffer full of bytes that the limit has not allowed yet. QUICK adds one at every look."""
    content, heard = big(), Heard()
    BandwidthLimit(store, 0).write(2 * MIB)
    bandwidth = BandwidthLimiter(FleetLimiter(store, 0, "a"))
    bandwidth(4 * MIB)  # the line is taken for two seconds: already the first bytes have to wait
    control = Control(bandwidth)
    get(source(hub.plain("f", content), content), tmp_path / "f", control=control, on_progress=heard)
    assert holds(tmp_path / "f", content)
    assert max(snapshot.connections for snapshot in heard.snapshots) <= QUICK.connections_start
    BandwidthLimit(store, 0).write(None)
    free = Heard()
    hub.limit_rate_bytes_per_s = MIB / 4
    get(source(hub.plain("g", content), content), tmp_path / "g", control=control, on_progress=free)
    assert max(snapshot.connections for snapshot in free.snapshots) > QUICK.connections_start
