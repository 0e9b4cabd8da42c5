"""A call that nobody can end, with a time-out: what hangs is left behind in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

T = TypeVar("T")

#: Calls of one name that hang in threads which were left behind; as long as they do, no more are begun.
MAX_LEFT_BEHIND: Final = 16
_left_behind: dict[str, set[threading.Thread]] = {}


class NoAnswerError(Exception):
    """The call takes longer than it may."""


def call_within(seconds: float, call: Callable[[], T], *, name: str) -> T:
    """What the call gives, or raises. `name` is that of its thread.

    Raises:
        NoAnswerError: there is no answer in this time; at once where MAX_LEFT_BEHIND of them hang already.
    """
    hanging = _left_behind.setdefault(name, set())
    hanging.difference_update([thread for thread in tuple(hanging) if not thread.is_alive()])
    if len(hanging) >= MAX_LEFT_BEHIND:
        raise NoAnswerError
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    # Waited for is the thread, not its answer: whoever forks afterwards forks without it.
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer.done():
        hanging.add(thread)
        raise NoAnswerError
    return answer.result()
