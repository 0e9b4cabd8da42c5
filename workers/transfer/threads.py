"""Threads of the engine, where the system may refuse one: a container's limit of pids, systemd's TasksMax."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from hive.disk_errors import system_error

T = TypeVar("T")


def start(thread: Thread) -> None:
    """Start it. Raises ResourcesExhausted where the system gives this process no more threads; it may then not be
    joined.
    """
    starting(thread.start)


def starting(begin: Callable[[], T]) -> T:
    """What a call gives that starts a thread. Raises ResourcesExhausted where the system gives none."""
    try:
        return begin()
    except RuntimeError as error:
        raise system_error(error) or error from None


def join(thread: Thread | None, timeout_s: float | None = None) -> None:
    """Wait for its end, not longer than `timeout_s`; not at all where it was never started."""
    if thread is not None and thread.ident is not None:
        thread.join(timeout_s)
