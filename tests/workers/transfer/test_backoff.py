"""Waiting: how long, how often, and when to stop."""

from __future__ import annotations

import time
from dataclasses import replace
from email.utils import formatdate

import pytest

from hive.errors import DownloadError, DownloadTimeout
from hive.net.retry_after import asked_wait_s
from tests.support.waiting import DEADLINE_S
from workers.transfer.backoff import Attempts
from workers.transfer.http import status
from workers.transfer.http.pool import LocalCooldown
from workers.transfer.limits import Limits
from workers.transfer.stall import StallDetector

LIMITS = Limits()


def test_six_failures_in_a_row_are_the_end_and_the_waits_grow() -> None:
    bounds = [0.1, 0.4, 1.6, 6.4, 25.6]
    longest = [0.0] * 5
    for _ in range(200):
        backoff = Attempts(LIMITS)
        for number in range(5):
            wait_s = backoff.failed("why")
            assert 0 <= wait_s <= bounds[number] + 1e-9
            longest[number] = max(longest[number], wait_s)
        with pytest.raises(DownloadError, match="at attempt 6: why"):
            backoff.failed("why")
    # Full jitter: the bound is reached, or nearly so, by some.
    assert all(most > 0.9 * bound for most, bound in zip(longest, bounds, strict=True))


def test_bytes_that_moved_make_the_count_start_over() -> None:
    backoff = Attempts(LIMITS)
    for _ in range(20):
        backoff.failed("why")
        backoff.reset()
    assert backoff.failures == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0 "}, 1.0),
        ({"retry-after": "0.2"}, 1.0),
        ({"retry-after": "99999999999999999999"}, LIMITS.retry_after_max_s),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 1.0),
        ({"ratelimit": '"api";r=0;t=0'}, 1.0),
        ({"x-ratelimit-reset": "0"}, 1.0),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=499;t=300'}, None),
        ({"ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-reset": "13"}, 13.0),
        ({"retry-after": "3", "ratelimit": '"api";r=0;t=55'}, 3.0),
        ({}, None),
        ({"x-ratelimit-reset": "\xa0" * 9 + "7"}, 7.0),
        ({"ratelimit-reset": "\u0667"}, None),
    ],
)
def test_what_a_server_asks_for_is_understood(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait_s(headers, LIMITS.retry_after_max_s) == seconds


def test_a_date_is_the_time_until_then() -> None:
    asked_s = asked_wait_s({"retry-after": formatdate(time.time() + 30, usegmt=True)}, LIMITS.retry_after_max_s)
    assert asked_s is not None
    assert 28 <= asked_s <= 30


def test_a_trickle_is_no_progress() -> None:
    progress = StallDetector(0.05, replace(LIMITS, min_bytes_per_s=10**9))
    began = time.monotonic()
    while not progress.stalled:
        progress.add(1)
        assert time.monotonic() - began < DEADLINE_S
    with pytest.raises(DownloadTimeout, match="the last word"):
        progress.check("the last word")
    progress.add(10**9)
    assert not progress.stalled
    progress.check(None)


def test_time_that_nobody_is_to_blame_for_does_not_count() -> None:
    began_s = time.monotonic()
    progress = StallDetector(10.0, LIMITS)
    progress.excuse(1000.0)
    assert 0 <= progress.idle_s <= time.monotonic() - began_s


def test_a_shorter_rest_does_not_end_a_longer_one() -> None:
    cooldown = LocalCooldown()
    cooldown.set("a", 60)
    cooldown.set("a", 1)
    assert cooldown.remaining_s("a") > 50
    assert cooldown.remaining_s("b") == 0.0


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"etag": '"x"'}, '"x"'),
        ({"etag": 'W/"x"'}, ""),
        (
            {"last-modified": formatdate(0, usegmt=True), "date": formatdate(1000, usegmt=True)},
            formatdate(0, usegmt=True),
        ),
        ({"last-modified": formatdate(0, usegmt=True), "date": formatdate(10, usegmt=True)}, ""),
        ({"last-modified": formatdate(0, usegmt=True)}, ""),
        ({}, ""),
    ],
)
def test_only_a_strong_validator_counts(headers: dict[str, str], validator: str) -> None:
    assert status.strong_validator(headers) == validator


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("bytes 0-9/10", (0, 10, 10)),
        ("bytes 5-9/*", (5, 10, None)),
        ("bytes */10", (None, None, 10)),
        ("Bytes 0-0/1", (0, 1, 1)),
        ("bytes 0-9", None),
        ("items 0-9/10", None),
        ("bytes -5-9/10", None),
        ("bytes 0-9/10, 20-29/30", None),
        ("", None),
    ],
)
def test_a_content_range_is_parsed_or_refused(value: str, parsed: tuple[int | None, ...] | None) -> None:
    assert status.content_range({"content-range": value}) == parsed
