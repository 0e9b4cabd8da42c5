"""Ranges and conditions of RFC 9110: what is sent of a content."""

from __future__ import annotations

import pytest

from hive.doors.ranges import Span, read_span

ETAG = '"abc"'


def span(size: int = 100, **headers: str) -> Span:
    given = {name.replace("_", "-").encode(): text.encode() for name, text in headers.items()}
    return read_span("GET", given, size, ETAG)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes=0-9", (206, 0, 10)),
        ("bytes=90-", (206, 90, 100)),
        ("bytes=90-1000", (206, 90, 100)),
        ("bytes=90-18446744073709551615", (206, 90, 100)),
        ("bytes=-10", (206, 90, 100)),
        ("bytes=-1000", (206, 0, 100)),
        ("BYTES=0-0", (206, 0, 1)),
        ("bytes=100-", (416, 0, 0)),
        ("bytes=-0", (416, 0, 0)),
        # What is no range of bytes, and several at once: the whole.
        ("bytes=9-0", (200, 0, 100)),
        ("bytes=0-1,5-6", (200, 0, 100)),
        ("bytes=" + ",".join(["0-0"] * 5_000), (200, 0, 100)),
        ("bytes=-", (200, 0, 100)),
        ("bytes=a-b", (200, 0, 100)),
        ("bytes=0-" + "9" * 200, (200, 0, 100)),
        ("bytes=٣-", (200, 0, 100)),
        ("lines=0-1", (200, 0, 100)),
        ("", (200, 0, 100)),
    ],
)
def test_a_range_is_bytes_of_the_content_or_nothing(text: str, found: tuple[int, int, int]) -> None:
    assert span(range=text) == found


def test_an_empty_content_has_no_range() -> None:
    assert span(size=0, range="bytes=0-") == (416, 0, 0)
    assert span(size=0, range="bytes=-5") == (416, 0, 0)
    assert span(size=0) == (200, 0, 0)


def test_a_resume_is_of_the_same_content_or_begins_anew() -> None:
    assert span(range="bytes=50-", if_range='"abc"') == (206, 50, 100)
    assert span(range="bytes=50-", if_range='"other"') == (200, 0, 100)
    assert span(range="bytes=50-", if_range='W/"abc"') == (200, 0, 100)
    assert span(range="bytes=50-", if_range="Wed, 21 Oct 2026 07:28:00 GMT") == (200, 0, 100)


def test_who_has_the_content_gets_nothing() -> None:
    assert span(if_none_match='"x", W/"abc"') == (304, 0, 0)
    assert span(if_none_match="*") == (304, 0, 0)
    assert span(if_none_match='"x"') == (200, 0, 100)
    assert span(if_none_match="," * 10_000) == (200, 0, 100)


def test_who_has_another_content_gets_no_part_of_this_one() -> None:
    assert span(if_match='"x"', range="bytes=5-") == (412, 0, 0)
    assert span(if_match='W/"abc"') == (412, 0, 0)
    assert span(if_match='"x", "abc"', range="bytes=5-") == (206, 5, 100)
