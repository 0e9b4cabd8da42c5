"""A budget of time for the tests of the stack: what cannot be over within it is not begun.

Problem: a machine of continuous integration gives half an hour to everything, and is as fast as it is. The easy way, a
smaller set of tests there, is too much for a slow machine and too little for a fast one. So each test says how long it
takes where much else runs, and begins while that much is left; what is left out is named.
"""

from __future__ import annotations

import math
import os
import time
from typing import Final

#: The variable that says when the budget ends, on the monotonic clock.
ENDS_AT: Final = "HIVE_STACK_ENDS_AT"


def remaining_s() -> float:
    """Seconds that are left; infinity where there is no budget."""
    ends_at = os.environ.get(ENDS_AT)
    return float(ends_at) - time.monotonic() if ends_at else math.inf
