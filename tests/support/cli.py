"""Ways to run `hive` as a command, and what it wrote."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

#: Seconds that a command may take before the test fails.
COMMAND_TIMEOUT_S = 120


class Result(NamedTuple):
    """What a command wrote and how it ended."""

    code: int
    out: str
    err: str


Hive = Callable[..., Result]


def command(*args: str) -> list[str]:
    """The command line that runs hive in a process of its own."""
    return [sys.executable, "-P", "-m", "hive.cli", *args]
