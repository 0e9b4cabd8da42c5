"""The minimum rate: what counts as too slow, and for whom."""

from __future__ import annotations

import msgspec
import pytest

from hive.wire.events import Downloading
from tests.support.downloads import downloading
from workers.min_rate import MinimumRate

LEAST, WINDOW_S, LOOK_S = 100_000, 300.0, 2.0


class Scene:
    """A download with a clock of the test's."""

    def __init__(self) -> None:
        self.now_s, self.received, self.done = 0.0, 0.0, 0.0
        self.waiting = True
        self.allowed: int | None = None
        self.status = "downloading"
        self.rate = MinimumRate(
            LEAST, WINDOW_S, others_wait=self.others_wait, allowed=lambda: self.allowed, clock=lambda: self.now_s
        )

    def others_wait(self) -> bool:
        return self.waiting

    def event(self) -> Downloading:
        return msgspec.structs.replace(downloading(int(self.done)), status=self.status)

    def runs(self, seconds: float, received_per_s: float, done_per_s: float | None = None) -> bool:
        """Whether it was found too slow within so many seconds."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += LOOK_S
            self.received += received_per_s * LOOK_S
            self.done += (received_per_s if done_per_s is None else done_per_s) * LOOK_S
            if self.rate.too_slow(self.event(), int(self.received)):
                return True
        return False


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_crawls_while_others_wait_is_too_slow_after_the_window(scene: Scene) -> None:
    assert scene.runs(2 * WINDOW_S, 2048)
    assert WINDOW_S <= scene.now_s <= WINDOW_S + 10 * LOOK_S


def test_what_crawls_alone_is_left_alone_until_somebody_comes(scene: Scene) -> None:
    scene.waiting = False
    assert not scene.runs(10 * WINDOW_S, 2048)
    scene.waiting = True
    assert scene.runs(5 * LOOK_S, 2048)


def test_who_was_seen_once_may_have_found_another_worker(scene: Scene) -> None:
    scene.waiting = False
    assert not scene.runs(WINDOW_S + 10 * LOOK_S, 0)
    scene.waiting = True
    assert not scene.runs(LOOK_S, 0)
    scene.waiting = False
    assert not scene.runs(LOOK_S, 0)


def test_what_is_quick_enough_keeps_its_worker(scene: Scene) -> None:
    assert not scene.runs(10 * WINDOW_S, LEAST * 1.1)


def test_a_slow_minute_among_quick_ones_does_not_count(scene: Scene) -> None:
    for _ in range(10):
        assert not scene.runs(60, 0)
        assert not scene.runs(240, 2 * LEAST)


def test_a_file_that_another_download_brings_counts(scene: Scene) -> None:
    assert not scene.runs(3 * WINDOW_S, 0, 2 * LEAST)


@pytest.mark.parametrize("status", ["verifying", "paused", "resolving"])
def test_what_holds_it_up_here_is_no_slowness(scene: Scene, status: str) -> None:
    scene.status = status
    assert not scene.runs(3 * WINDOW_S, 0)


def test_a_limit_of_our_own_is_no_slowness(scene: Scene) -> None:
    scene.allowed = LEAST
    assert not scene.runs(3 * WINDOW_S, 2048)
    scene.allowed = 100 * LEAST
    assert scene.runs(2 * WINDOW_S, 2048)


def test_zero_switches_it_off() -> None:
    scene = Scene()
    scene.rate = MinimumRate(0, WINDOW_S, others_wait=lambda: True, allowed=lambda: None, clock=lambda: scene.now_s)
    assert not scene.runs(3 * WINDOW_S, 0)
