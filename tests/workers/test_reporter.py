"""The reporter: what it says, how often, and what it does to the transfer when the lease is in doubt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from hive.downloads.context import DownloadContext
from hive.downloads.record import Ack, Claim, Record
from hive.redis.client import RedisClient
from hive.wire import keys
from hive.wire.events import Complete, Downloading
from tests.support.downloads import claim, complete, create, downloading
from tests.support.waiting import DEADLINE_S, wait_for
from workers import reporter
from workers.reporter import Reported, Reporter
from workers.speed import Meter

#: Seconds of the lease that the reporter renews.
LEASE_S = 1.5


class TransferControl:
    """Notes what the reporter asks of the transfer."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.until_s = 0.0
        #: For how long each confirmation counted, from when it came.
        self.confirmed_for_s: list[float] = []

    def cancel(self) -> None:
        self.calls.append("cancel")

    def fence(self) -> None:
        self.calls.append("fence")

    def confirm(self, until_s: float) -> None:
        self.until_s = until_s
        self.confirmed_for_s.append(until_s - time.monotonic())

    def hold(self) -> None:
        self.calls.append("hold")

    def release(self) -> None:
        self.calls.append("release")


class Unreliable:
    """Claims whose Redis can be away."""

    def __init__(self, downloads: DownloadContext) -> None:
        self._downloads = downloads
        self.away = False
        self.published: list[tuple[float, Downloading]] = []
        #: When Redis was asked in vain.
        self.tried_s: list[float] = []

    def _check(self) -> None:
        if self.away:
            self.tried_s.append(time.monotonic())
            raise redis.exceptions.ConnectionError("away")

    def publish(self, claim: Claim, seq: int, event: Downloading, *figures: Any) -> Ack:
        self._check()
        self.published.append((time.monotonic(), event))
        return self._downloads.claims.publish(claim, seq, event, *figures)

    def renew(self, claim: Claim) -> Ack:
        self._check()
        return self._downloads.claims.renew(claim)

    def finish(self, *args: object) -> bool:
        self._check()
        return self._downloads.claims.finish(*args)  # type: ignore[arg-type]


class Scene:
    """A claimed download and its reporter."""

    def __init__(self, downloads: DownloadContext, store: RedisClient, lease_s: float) -> None:
        self.real = downloads
        self.store = store
        self.claims = Unreliable(downloads)
        self.transfer = TransferControl()
        self.id = create(downloads)
        self.claim = claim(downloads, self.id)
        subject = Reported(claims=self.claims, claim=self.claim, attempt=1, lease_s=lease_s)  # type: ignore[arg-type]
        self.reporter = Reporter(subject, self.transfer)

    @property
    def record(self) -> Record:
        record = self.real.tracker.read(self.id)
        assert record is not None
        return record


@pytest.fixture
def scene(downloads: DownloadContext, store: RedisClient) -> Iterator[Scene]:
    made = Scene(downloads, store, lease_s=LEASE_S)
    made.reporter.start()
    yield made
    made.reporter.stop()


def last(scene: Scene) -> Downloading:
    event = scene.record.last_event
    assert isinstance(event, Downloading)
    return event


def test_figures_arrive_added_up(scene: Scene) -> None:
    scene.reporter.plan(bytes_total=1000, files_total=3, files_done=1, bytes_done=100)
    scene.reporter.status("downloading")
    scene.reporter.file("a.gguf", 50, 400)
    scene.reporter.file("b.gguf", 70, 500)
    wait_for(lambda: last(scene).bytes_downloaded == 220)
    event = last(scene)
    assert (event.bytes_total, event.files_done, event.files_total) == (1000, 1, 3)
    assert [file.path for file in event.files] == ["a.gguf", "b.gguf"]
    scene.reporter.file_done("a.gguf", 400, refetched=8)
    wait_for(lambda: last(scene).bytes_downloaded == 570)
    assert (last(scene).files_done, last(scene).bytes_refetched) == (2, 8)


def test_bytes_never_go_back(scene: Scene) -> None:
    scene.reporter.plan(bytes_total=1000, files_total=1, files_done=0, bytes_done=0)
    scene.reporter.file("a", 500, 1000)
    wait_for(lambda: last(scene).bytes_downloaded == 500)
    scene.reporter.file("a", 100, 1000)
    scene.reporter.status("retrying", "once more")
    wait_for(lambda: last(scene).status == "retrying")
    assert last(scene).bytes_downloaded == 500
    assert last(scene).message == "once more"


def test_a_flood_of_reports_becomes_five_events_a_second(scene: Scene) -> None:
    began_s, end_s = time.monotonic(), time.monotonic() + DEADLINE_S
    scene.reporter.plan(bytes_total=10**9, files_total=1, files_done=0, bytes_done=0)
    count = 0
    while len(scene.claims.published) < 6 and time.monotonic() < end_s:
        count += 1
        scene.reporter.file("a", count, 10**9)
    moments_s = [at for at, _ in scene.claims.published]
    assert len(moments_s) == 6
    assert count > 100 * len(moments_s), "a flood"
    # The plan goes out at once, each further event a fifth of a second after the one before at the earliest.
    assert [at - began_s >= number * reporter.MIN_INTERVAL_S for number, at in enumerate(moments_s)] == [True] * 6


def test_a_change_of_status_does_not_wait(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "MIN_INTERVAL_S", 3600.0)
    scene.reporter.status("downloading")
    wait_for(lambda: len(scene.claims.published) == 1)
    scene.reporter.status("verifying")
    wait_for(lambda: len(scene.claims.published) == 2)


def test_the_lease_is_renewed_in_silence(scene: Scene) -> None:
    scene.store.zadd(keys.LEASES, {scene.id: 1})
    wait_for(lambda: scene.real.claims.expired_leases() == [])


def test_a_lost_lease_stops_the_transfer_and_the_reporter_says_no_more(scene: Scene) -> None:
    scene.real.claims.release(scene.record, downloading(), counts=True)
    wait_for(lambda: scene.transfer.calls == ["fence"])
    assert scene.reporter.lost
    assert scene.reporter.finish("complete", complete(), "/x") is False
    assert scene.record.state == "queued"


def test_a_word_of_cancel_stops_the_transfer(scene: Scene) -> None:
    scene.real.tracker.request_control(scene.record, "cancel")
    wait_for(lambda: scene.transfer.calls == ["cancel"])
    assert scene.reporter.cancelled
    assert not scene.reporter.lost


def test_a_wish_for_its_place_stops_the_transfer(scene: Scene) -> None:
    scene.real.tracker.request_control(scene.record, "yield")
    wait_for(lambda: scene.transfer.calls == ["cancel"])
    assert scene.reporter.yielding
    assert not scene.reporter.cancelled


def test_a_mistake_of_ours_stops_the_transfer_as_well(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody renews the lease any more, so the file will be somebody else's."""

    def fail(*_: object) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(scene.claims, "publish", fail)
    scene.reporter.status("verifying")
    wait_for(lambda: scene.transfer.calls == ["fence"])
    assert scene.reporter.lost


def test_an_unconfirmed_lease_holds_the_transfer_until_it_is_confirmed(scene: Scene) -> None:
    scene.claims.away = True
    wait_for(lambda: scene.transfer.calls == ["hold"])
    # Held by the first try after which a whole further one may last beyond the lease, and not by a later one.
    last_s = scene.transfer.until_s - LEASE_S / reporter.RENEWALS_PER_LEASE
    assert [tried_s for tried_s in scene.claims.tried_s[:-1] if tried_s > last_s] == []
    scene.claims.away = False
    wait_for(lambda: scene.transfer.calls == ["hold", "release"])


def test_the_right_to_write_is_confirmed_for_one_lease_from_the_asking(scene: Scene) -> None:
    first_s = scene.transfer.until_s
    wait_for(lambda: scene.transfer.until_s > first_s)
    assert max(scene.transfer.confirmed_for_s) <= LEASE_S
    scene.claims.away = True
    wait_for(lambda: scene.transfer.until_s < time.monotonic())
    assert "release" not in scene.transfer.calls


def test_the_end_waits_for_a_redis_that_is_away(scene: Scene) -> None:
    scene.claims.away = True
    result: list[bool] = []
    thread = threading.Thread(
        target=lambda: result.append(scene.reporter.finish("complete", Complete(local_path="/x"), "/x"))
    )
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    scene.claims.away = False
    thread.join(DEADLINE_S)
    assert result == [True]
    assert scene.record.state == "complete"


def _clock(times: list[float]) -> Callable[[], float]:
    return lambda: times[0]


def test_speed_is_an_average_over_the_window() -> None:
    now = [0.0]
    meter = Meter(_clock(now))
    assert meter.bytes_per_second == 0
    for second in range(20):
        now[0] = float(second)
        meter.update(second * 1000 if second < 10 else 9000 + (second - 9) * 3000)
    assert meter.bytes_per_second == 3000
    assert meter.eta_seconds(3001) == 2
    now[0] = 119.0
    assert meter.bytes_per_second < 200
    meter.update(meter._samples[-1][1])
    now[0] = 200.0
    meter.update(meter._samples[-1][1])
    assert meter.eta_seconds(10) is None
