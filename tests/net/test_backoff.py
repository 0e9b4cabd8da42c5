"""Exponential backoff: bounds, jitter, and the way back."""

from __future__ import annotations

import pytest

from hive.net.backoff import FULL_JITTER, NO_JITTER, Backoff, Jitter

#: Draws: the chance that none of so many reaches the upper or lower tenth is below one in a billion.
MANY = 300


def test_bounds_grow_by_the_factor_and_end_at_the_last() -> None:
    backoff = Backoff(0.5, 3.0, jitter=NO_JITTER)
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    by_four = Backoff(1.0, 1000.0, factor=4.0, jitter=NO_JITTER)
    assert [by_four.next_s() for _ in range(4)] == [1.0, 4.0, 16.0, 64.0]


def test_success_makes_the_next_failure_the_first_one() -> None:
    backoff = Backoff(1.0, 60.0, jitter=NO_JITTER)
    for _ in range(4):
        backoff.next_s()
    backoff.reset()
    assert (backoff.failures, backoff.next_s()) == (0, 1.0)


@pytest.mark.parametrize(
    ("jitter", "least_s", "low", "high"),
    [(FULL_JITTER, 0.0, 0.0, 8.0), (FULL_JITTER, 2.0, 2.0, 8.0), (Jitter(0.5, 1.0), 0.0, 4.0, 8.0)],
)
def test_waits_are_drawn_from_the_whole_of_their_range(jitter: Jitter, least_s: float, low: float, high: float) -> None:
    drawn = [Backoff(8.0, 60.0, jitter=jitter, least_s=least_s).next_s() for _ in range(MANY)]
    assert low <= min(drawn) < low + (high - low) / 10
    assert high - (high - low) / 10 < max(drawn) <= high


def test_the_least_wait_holds_where_the_bound_is_below_it() -> None:
    assert Backoff(0.1, 0.2, least_s=0.3).next_s() == 0.3


def test_a_million_failures_are_waited_for_as_the_last_bound() -> None:
    backoff = Backoff(0.1, 5.0, factor=4.0, jitter=NO_JITTER)
    backoff.failures = 1_000_000
    assert backoff.next_s() == 5.0
