"""Calls that nobody can end: how long they are waited for, and how many of them may hang."""

from __future__ import annotations

import threading

import pytest

from hive.call_within import MAX_LEFT_BEHIND, NoAnswerError, call_within
from tests.support.waiting import wait_for

NAME = "call-of-a-test"


def test_what_the_call_gives_or_raises_is_passed_on() -> None:
    assert call_within(60, lambda: 7, name=NAME) == 7
    with pytest.raises(ZeroDivisionError):
        call_within(60, lambda: 1 // 0, name=NAME)


def test_as_many_hang_as_may_and_the_next_is_refused_at_once_until_they_end() -> None:
    """A metadata service that is silent for a day would cost a thread for each try to connect."""
    released, begun = threading.Event(), []

    def hang() -> None:
        begun.append(threading.current_thread())
        released.wait()

    try:
        for _ in range(MAX_LEFT_BEHIND):
            with pytest.raises(NoAnswerError):
                call_within(0, hang, name=NAME)
        with pytest.raises(NoAnswerError):
            call_within(3600, hang, name=NAME)
        assert call_within(60, lambda: 7, name="call-of-another-name") == 7
    finally:
        released.set()
    wait_for(lambda: not any(thread.name == NAME for thread in threading.enumerate()), "they have ended")
    assert len(begun) == MAX_LEFT_BEHIND
    assert call_within(60, lambda: 7, name=NAME) == 7
