"""The header `Retry-After`, which servers write as seconds or as a date."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime


def parse_retry_after(value: str | None) -> float | None:
    """The seconds from now that the header asks to wait, below 0 for a date that has passed; None without a header, or
    for one that is neither.
    """
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
