"""The quota of one claimed download: whether its owner's bytes of the day have room for what it is to receive.

Problem: whether a quota is spent is known when a model is asked for, and then a thousand downloads may be queued before
the first byte counts. Refusing by size at that moment needs a size, which only the source knows. So a worker asks again
when it has claimed the download, and when the size is known, before a byte is received; what is let in then keeps its
share in the record, so that two downloads that fit alone do not both pass. What a URL without a length brings is asked
for in steps, as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError

from hive.downloads.claims import Claims
from hive.downloads.quota import quota_exceeded
from hive.downloads.record import Claim
from hive.errors import QuotaExceeded
from workers.fleet.patience import until_redis_answers
from workers.transfer import Control, kept_bytes

#: Bytes that are asked for at a time where nobody says how many will come.
STEP_BYTES: Final = 64 << 20
#: What is said of a download that is larger than what is left.
TOO_LARGE = (
    "This download would receive {needed} bytes more, and of this key's {most} bytes of the day {left} are left. The "
    "day ends at midnight, UTC."
)


class QuotaShare:
    """The share of one download. `grow` may be called from any thread; asks nothing where there is no quota."""

    def __init__(
        self, claims: Claims, claim: Claim, most_bytes: int, control: Control, received: Callable[[], int]
    ) -> None:
        """`most_bytes`: of a day, 0 for no limit. `received` gives the bytes of this attempt so far."""
        self._claims, self._claim, self._most = claims, claim, most_bytes
        self._control, self._received = control, received
        self._expected = 0
        self._open = False

    def check(self) -> None:
        """Raise QuotaExceeded where nothing is left of the day."""
        self._ask(0, 0)

    def take(self, files: Iterable[tuple[Path, int | None]]) -> None:
        """These partial files are to be fetched; their sizes, None where their server does not say. Asks for what is
        missing of them. Not looked at where there is no quota.

        Raises:
            QuotaExceeded: that is more than is left.
            HiveError: what `control` was cancelled with.
        """
        if not self._most:
            return
        files = list(files)
        missing = sum(size - min(kept_bytes(partial), size) for partial, size in files if size is not None)
        self._open = any(size is None for _, size in files)
        least = self._received() + missing + self._open
        if missing or self._open:
            self._ask(least + STEP_BYTES * self._open, least)

    def grow(self, done: int, total: int | None) -> None:
        """How far a file is whose size was not known, and the size where it is known now. Cancels the download where
        more comes than is left.
        """
        received = self._received()
        if not self._open or (total is None and received < self._expected):
            return
        try:
            if total is None:
                refused = self._refused(received + STEP_BYTES, received + 1)
            else:
                least = received + total - done
                refused = self._refused(least, least) if total > done else None
        except RedisError:
            return  # asked again with the next word of it
        self._open = total is None
        if refused is not None:
            self._control.cancel(refused)

    def _ask(self, expected: int, least: int) -> None:
        refused = until_redis_answers(lambda: self._refused(expected, least), self._control) if self._most else None
        if refused is not None:
            raise refused

    def _refused(self, expected: int, least: int) -> QuotaExceeded | None:
        """Why this attempt may not receive so many bytes in all, not even `least`; None where it may."""
        fits, n_bytes = self._claims.take_quota(self._claim, expected, least, self._most)
        if fits:
            self._expected = n_bytes if expected else 0
            return None
        if not n_bytes:
            return quota_exceeded()
        needed = least - self._received()
        return quota_exceeded(
            TOO_LARGE.format(needed=needed, left=n_bytes, most=self._most), needed=needed, available=n_bytes
        )
