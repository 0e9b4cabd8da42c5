"""The refusal of a quota: the bytes that an owner's downloads may receive on a day, by UTC.

The bytes are counted, and the quota compared, in the scripts (`scripts.CREATE`, `scripts.QUOTA`).
"""

from __future__ import annotations

import time
from typing import Final

from hive.errors import QuotaExceeded

#: Seconds of a day, over which bytes are counted.
DAY_S: Final = 86_400


def quota_exceeded(message: str | None = None, **details: int) -> QuotaExceeded:
    """The error, with the seconds until the next day begins."""
    return QuotaExceeded(message, retry_after_s=DAY_S - int(time.time()) % DAY_S, **details)
