"""How many connections: pure arithmetic with a clock of the test's."""

from __future__ import annotations

from collections.abc import Callable

from workers.transfer.concurrency import ConnectionCount
from workers.transfer.limits import Limits

MB = 1_000_000
LIMITS = Limits()


def drive(count: ConnectionCount, rate_of: Callable[[int], float], seconds: float, start_s: float = 0.0) -> list[int]:
    """The targets over time, when n connections together move `rate_of(n)` bytes per second."""
    now_s, moved, targets = start_s, 0.0, []
    while now_s < start_s + seconds:
        now_s += 0.05
        moved += rate_of(count.target) * 0.05
        targets.append(count.look(now_s, int(moved)))
    return targets


def test_a_server_that_limits_each_connection_gets_all_of_them() -> None:
    targets = drive(ConnectionCount(LIMITS), lambda n: n * 40 * MB, 8.0)
    assert targets[-1] == LIMITS.connections_max
    assert 4 in targets
    assert targets == sorted(targets)
    assert targets[80] == LIMITS.connections_max


def test_a_line_that_one_connection_fills_gets_no_more() -> None:
    targets = drive(ConnectionCount(LIMITS), lambda n: 900 * MB, 10.0)
    assert set(targets) == {1}


def test_connections_that_do_not_pay_are_taken_back() -> None:
    targets = drive(ConnectionCount(LIMITS), lambda n: min(n, 4) * 20 * MB, 10.0)
    assert max(targets) == 6
    assert targets[-1] == 4


def test_a_settled_count_is_tried_again_after_a_while() -> None:
    count = ConnectionCount(LIMITS)
    drive(count, lambda n: min(n, 4) * 20 * MB, 10.0)
    assert count.target == 4
    targets = drive(count, lambda n: n * 20 * MB, 40.0, start_s=10.0)
    assert targets[-1] == LIMITS.connections_max


def test_too_many_requests_halve_the_count_once_a_second() -> None:
    count = ConnectionCount(LIMITS)
    drive(count, lambda n: n * 40 * MB, 8.0)
    for _ in range(16):
        count.throttled(8.0)
    assert count.target == 8
    count.throttled(9.5)
    assert count.target == 4
    for second in range(11, 30):
        count.throttled(float(second))
    assert count.target == 1


def test_a_connection_that_falls_silent_gets_company() -> None:
    targets = drive(ConnectionCount(LIMITS), lambda n: 0.0 if n == 1 else n * 40 * MB, 10.0)
    assert targets[: int(1.9 / 0.05)] == [1] * int(1.9 / 0.05)
    assert targets[-1] == LIMITS.connections_max


def test_the_time_before_the_first_look_says_nothing_of_the_rate() -> None:
    targets = drive(ConnectionCount(LIMITS), lambda n: 900 * MB, 5.0, start_s=1000.0)
    assert set(targets) == {1}


def test_part_lengths_follow_the_size() -> None:
    mib = 1024 * 1024
    assert LIMITS.part_bytes(None) == LIMITS.part_bytes(100 * mib) == 8 * mib
    assert LIMITS.part_bytes(2048 * mib) == 32 * mib
    assert LIMITS.part_bytes(10**12) == 64 * mib
