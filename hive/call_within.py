"""A call that nobody can end, with a time-out: what hangs is left behind in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class NoAnswerError(Exception):
    """The call takes longer than it may."""


def call_within(seconds: float, call: Callable[[], T], *, name: str) -> T:
    """What the call gives, or raises. `name` is that of its thread.

    Raises:
        NoAnswerError: there is no answer in this time.
    """
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
        raise NoAnswerError
    return answer.result()
