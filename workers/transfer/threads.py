"""Threads of the engine, where the system may refuse one: a container's limit of pids, systemd's TasksMax."""

from __future__ import annotations

from threading import Thread

from hive.errors import DownloadError


def start(thread: Thread) -> None:
    """Start it. Raises DownloadError where the system gives this process no more threads; it may then not be joined."""
    try:
        thread.start()
    except RuntimeError:
        raise DownloadError(
            "The system lets this worker start no more threads. Raise its limit of processes (pids, TasksMax), "
            "or run fewer workers."
        ) from None


def join(thread: Thread | None, timeout_s: float | None = None) -> None:
    """Wait for its end, not longer than `timeout_s`; not at all where it was never started."""
    if thread is not None and thread.ident is not None:
        thread.join(timeout_s)
