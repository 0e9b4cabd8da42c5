"""Rate limits: `Retry-After`, which servers write as seconds or as a date, and the `RateLimit` headers."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

#: Seconds to wait at least where a server asks for a rest, whatever it says.
LEAST_S: Final = 1.0
#: The draft's header as the Hub sends it: `"resolvers";r=0;t=55`, t being the seconds until the window ends.
_RATE_LIMIT_RESET = re.compile(r"\bt\s*=\s*(\d{1,6})")
#: The standard has whole seconds; some write parts of one. Ten digits are more than anybody waits.
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\d*", re.ASCII)
_RATE_LIMIT_LEFT = re.compile(r"\br\s*=\s*(\d{1,9})")


def parse_retry_after(value: str | None) -> float | None:
    """The seconds from now that the header asks to wait, below 0 for a date that has passed; None without a header, or
    for one that is neither.
    """
    if not value:
        return None
    if found := _SECONDS.fullmatch(value.strip()):
        return float(found[1])
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None


def asked_wait_s(headers: Mapping[str, str], most_s: float) -> float | None:
    """The seconds that an answer asks to wait (Retry-After as seconds or date, or the RateLimit reset), at most
    `most_s`; at least `LEAST_S`, since what costs no attempt would storm a server that says 0 or a date of last year.

    None without.
    """
    seconds = parse_retry_after(headers.get("retry-after"))
    if seconds is None:
        seconds = _rate_limit_reset(headers)
    return None if seconds is None else min(max(seconds, LEAST_S), most_s)


def _rate_limit_reset(headers: Mapping[str, str]) -> float | None:
    standard = headers.get("ratelimit", "")
    left, reset = _RATE_LIMIT_LEFT.search(standard), _RATE_LIMIT_RESET.search(standard)
    if reset and (left is None or left[1] == "0"):
        return float(reset[1])
    older = _SECONDS.fullmatch((headers.get("ratelimit-reset") or headers.get("x-ratelimit-reset") or "").strip())
    return float(older[1]) if older else None
