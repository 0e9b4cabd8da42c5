"""A blocking call that several threads share, each of which may be cancelled: asking where a file is.

Problem: where a file is, its Hub says, and a Hub that hangs is waited for up to its time-outs, by a client that cannot
be woken; whoever cancels, and every other connection of the file, would wait as long. Passing each source a way to be
woken makes all of them know of connections and cancels. So the question is asked in a thread of its own, for all who
want its answer, and a cancel leaves it behind: it ends with its time-outs, and its answer is of no use to anybody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from hive.errors import ResourcesExhausted
from workers.transfer import threads
from workers.transfer.control import SIGNAL_LOOK_S, Control

T = TypeVar("T")


class SharedCall(Generic[T]):
    """A call under way in a thread of its own. Safe from any thread."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._answer: Future[T] = Future()
        self._thread = threading.Thread(target=self._run, name="transfer-locate", daemon=True)

    def begin(self) -> None:
        """Ask; in this thread, where the system gives no other."""
        try:
            threads.start(self._thread)
        except ResourcesExhausted:
            self._run()

    def answer(self, control: Control) -> T:
        """What the call gives, or raises; the error of `control.cancel` as soon as that is called."""
        over = threading.Event()
        self._answer.add_done_callback(lambda _: over.set())
        with control.waking(over.set):
            while not over.wait(SIGNAL_LOOK_S):
                pass
        if not self._answer.done():
            control.check()
        # Not its answer alone: whoever forks afterwards forks without it.
        threads.join(self._thread)
        return self._answer.result()

    def _run(self) -> None:
        try:
            self._answer.set_result(self._ask())
        except BaseException as error:
            self._answer.set_exception(error)
