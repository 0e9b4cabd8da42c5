"""The handle by which a caller steers a running fetch from another thread.

Problem: a connection is blocked in recv() for up to 20 seconds when somebody cancels. The easy way, a flag looked at
between two chunks, makes the person wait as long. So whoever may block registers how to be woken (a socket shutdown, an
event), and `cancel` calls all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hive.errors import Cancelled, HiveError

#: Seconds between two looks for signals. The handler of one that comes just before a wait without an end, or to another
#: thread, would run when that wait is over, and a worker that was told to stop went on until it was killed.
SIGNAL_LOOK_S = 0.5


class Control:
    """Cancel, pause and hold for one fetch or for several that belong together. Every method is safe from any thread.

    `bandwidth(n_bytes)` is called before bytes are accepted. It gives the seconds to wait, and is asked again with 0
    bytes from the same thread until it gives 0 (or None). It may block instead, for a second or so.
    """

    def __init__(self, bandwidth: Callable[[int], float | None] | None = None) -> None:
        self.bandwidth = bandwidth
        self._error: HiveError | None = None
        self._fenced = False
        self._paused = False
        self._held = False
        self._valid_until_s = float("inf")
        self._wakers: dict[int, Callable[[], None]] = {}
        self._next_waker = 0
        self._changed = threading.Condition()
        self._children: list[Control] = []

    def cancel(self, reason: str | HiveError = "", *, fenced: bool = False) -> None:
        """End the fetch: it raises `Cancelled(reason)`, or `reason` itself when that is an error.

        The first call counts. `fenced` says that the files belong to somebody else by now: not one more byte is
        written, the journal's last record included. Without it the journal is brought up to date, so that a later fetch
        resumes.
        """
        with self._changed:
            self._fenced = self._fenced or fenced
            if self._error is None:
                self._error = reason if isinstance(reason, HiveError) else Cancelled(reason or None)
            wakers = list(self._wakers.values())
            self._changed.notify_all()
        for wake in wakers:
            wake()

    def pause(self) -> None:
        """Stop writing and reading until `resume`; connections are given up after half a minute."""
        self._set(paused=True)

    def resume(self) -> None:
        """End a pause."""
        self._set(paused=False)

    def hold(self) -> None:
        """Stop writing while the right to do so is unconfirmed (a lease that could not be renewed)."""
        self._set(held=True)

    def release(self) -> None:
        """End a hold."""
        self._set(held=False)

    def confirm(self, until_s: float) -> None:
        """The right to write holds until this moment (monotonic); past it everything is held until it is confirmed
        again.

        `hold` alone is not enough: a process that was frozen wakes with all its threads at once, and those that write
        may be faster than the one that finds out that the files belong to somebody else by now.
        """
        self._set(until_s=until_s)

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._error is not None

    @property
    def fenced(self) -> bool:
        """Whether writing is forbidden for good."""
        return self._fenced

    @property
    def waiting(self) -> str | None:
        """Why nothing may be written now ("paused", "held"), or None."""
        if self._paused:
            return "paused"
        return "held" if self._is_held() else None

    def check(self) -> None:
        """Raise the error of `cancel`, if it was called."""
        if self._error is not None:
            raise self._error

    def gate(self) -> float:
        """Block while paused or held; gives the seconds waited (0.0 as a rule). Raises the error of `cancel`."""
        if self._error is None and not self._paused and not self._is_held():
            return 0.0
        began = time.monotonic()
        with self._changed:
            while not self._changed.wait_for(
                lambda: self._error is not None or not (self._paused or self._is_held()), SIGNAL_LOOK_S
            ):
                pass
        self.check()
        return time.monotonic() - began

    def sleep(self, seconds: float) -> None:
        """Wait, but not longer than until `cancel`, whose error is raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None, timeout=seconds)
        self.check()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Inside the block, `cancel` calls `wake` (which must not block) once; at once when cancelled already."""
        with self._changed:
            key, self._next_waker = self._next_waker, self._next_waker + 1
            self._wakers[key] = wake
            late = self._error is not None
        if late:
            wake()
        try:
            yield
        finally:
            with self._changed:
                self._wakers.pop(key, None)

    @contextmanager
    def child(self) -> Iterator[Control]:
        """A control that follows this one but can be cancelled alone: for a batch whose members end together."""
        child = Control(self.bandwidth)
        with self._changed:
            child._paused, child._held = self._paused, self._held
            child._valid_until_s = self._valid_until_s
            self._children.append(child)
        with self.waking(lambda: child.cancel(self._error or "", fenced=self._fenced)):
            try:
                yield child
            finally:
                with self._changed:
                    self._children.remove(child)

    def _is_held(self) -> bool:
        return self._held or time.monotonic() >= self._valid_until_s

    def _set(self, *, paused: bool | None = None, held: bool | None = None, until_s: float | None = None) -> None:
        with self._changed:
            self._valid_until_s = self._valid_until_s if until_s is None else until_s
            self._paused = self._paused if paused is None else paused
            self._held = self._held if held is None else held
            children = list(self._children)
            self._changed.notify_all()
        for child in children:
            child._set(paused=paused, held=held, until_s=until_s)
