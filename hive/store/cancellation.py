"""Cooperative cancellation of a long operation: whoever wanted to know has gone, and the work ends at its next look."""

from __future__ import annotations

import threading


class Stopped(Exception):
    """Whoever wanted to know has gone."""


def check_stop(stop: threading.Event) -> None:
    """Raise Stopped where `stop` is set."""
    if stop.is_set():
        raise Stopped
