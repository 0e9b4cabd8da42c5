"""The record of all that arrived, so that a test can say how many bytes were fetched twice, and by whom."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tests.hub.messages import OriginName, Request

#: Seconds that a count waits for replies still on their way: a client has its last byte just before the server has
#: noted that it sent it.
SETTLE_TIMEOUT_S = 2.0

#: Seconds that a test waits for requests, unless it says otherwise.
WAIT_TIMEOUT_S = 60.0

#: Seconds between looks at the bytes sent.
POLL_S = 0.005

#: Most requests kept; more than that is a client in a loop, which should fail loudly.
MAX_HITS = 200_000


@dataclass
class Hit:
    """One request and what was answered."""

    origin: OriginName
    method: str
    path: str
    query: str
    #: Names in lower case.
    headers: Mapping[str, str]
    #: The Range header as it came, or None.
    range: str | None
    connection_id: int
    #: "org/name/path/in/repo" where the request was for a repository's file, else "".
    file: str
    #: 0 until it is answered.
    status: int = 0
    #: Bytes of the body that were handed to the kernel: a client that dies leaves some of them unread.
    bytes_sent: int = 0
    #: Monotonic seconds of the arrival.
    at_s: float = field(default_factory=time.monotonic)
    #: Whether the server is still busy with it (a stall that a test asked for does not count).
    busy: bool = True

    def matches(self, pattern: str) -> bool:
        """Whether the path or the file matches a shell pattern."""
        return fnmatchcase(self.path, pattern) or fnmatchcase(self.file, pattern)


class TooManyHits(Exception):
    """More requests arrived than a test can mean."""


class HitLog:
    """The hits of both origins, in the order of arrival. Safe to use from many threads."""

    def __init__(self) -> None:
        self._hits: list[Hit] = []
        self._changed = threading.Condition()

    @contextmanager
    def record(self, request: Request, connection_id: int) -> Iterator[Hit]:
        """A hit for a request, busy until the block is left. Raises TooManyHits."""
        asked = request.headers.get("range")
        fields = (request.origin, request.method, request.path, request.raw_query, request.headers, asked)
        hit = Hit(*fields, connection_id, request.subject)
        with self._changed:
            if len(self._hits) >= MAX_HITS:
                raise TooManyHits(f"more than {MAX_HITS} requests")
            self._hits.append(hit)
            self._changed.notify_all()
        try:
            yield hit
        finally:
            self.mark(hit, busy=False)

    def mark(self, hit: Hit, *, busy: bool) -> None:
        """Say that the server is busy with a hit, or not."""
        with self._changed:
            hit.busy = busy
            self._changed.notify_all()

    def hits(self, pattern: str = "*", *, origin: OriginName | None = None, method: str | None = None) -> list[Hit]:
        """The hits that match, after those under way have come to rest (at most SETTLE_TIMEOUT_S)."""
        with self._changed:
            self._changed.wait_for(lambda: not any(h.busy and h.matches(pattern) for h in self._hits), SETTLE_TIMEOUT_S)
            matching = [hit for hit in self._hits if hit.matches(pattern)]
        return [h for h in matching if origin in (None, h.origin) and method in (None, h.method)]

    def bytes_sent(self, pattern: str = "*", *, origin: OriginName | None = None) -> int:
        """Bytes of bodies sent in reply to the hits that match."""
        return sum(hit.bytes_sent for hit in self.hits(pattern, origin=origin))

    def wait_for(
        self,
        pattern: str,
        *,
        count: int = 1,
        sent_bytes: int = 0,
        origin: OriginName | None = None,
        timeout_s: float = WAIT_TIMEOUT_S,
    ) -> None:
        """Wait until so many matching requests have arrived and so many bytes of bodies have been sent to them.

        Raises TimeoutError.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                matching = [hit for hit in self._hits if hit.matches(pattern) and origin in (None, hit.origin)]
                if len(matching) >= count and sum(hit.bytes_sent for hit in matching) >= sent_bytes:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no {count} requests and {sent_bytes} bytes for {pattern!r} in {timeout_s} s")
                # Arrivals wake us; bytes do not, for the sake of the senders' speed.
                self._changed.wait(POLL_S)

    def reset(self) -> None:
        """Forget everything."""
        with self._changed:
            self._hits.clear()

    def __iter__(self) -> Iterator[Hit]:
        with self._changed:
            return iter(list(self._hits))

    def __len__(self) -> int:
        return len(self._hits)
