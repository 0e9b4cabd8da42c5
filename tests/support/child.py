"""A child process whose `with` block never waits for one that its test has given up.

`subprocess.Popen` waits for its child at the end of the block, whatever happened inside: a test that failed, or whose
patience is over, would wait for ever for what it wanted to end.
"""

from __future__ import annotations

import subprocess
from types import TracebackType
from typing import AnyStr


class Child(subprocess.Popen[AnyStr]):
    """A child that is killed where its block is left by an exception."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)
