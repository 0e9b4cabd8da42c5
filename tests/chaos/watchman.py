"""The watchman: looks into Redis every second for a download that nobody has, and that nobody will ever have.

A download that has neither ended nor been paused must be running under a lease that has not run out, or wait in the
queue. Between a death and its discovery it is neither; longer than `LIMIT_S` it must not be. While Redis is away
nobody can do anything, so the time does not count.
"""

from __future__ import annotations

import threading
import time

from hive.redis.client import connect
from hive.redis.errors import is_redis_error
from hive.wire import keys
from tests.support.downloads import download_context

#: Seconds for which a live download may have neither lease nor place in the queue.
LIMIT_S = 15.0
#: Seconds between two looks.
LOOK_S = 1.0
#: Live downloads looked at: more than the soak ever has.
MOST = 200


class Watchman:
    """Walks his rounds in a thread of his own; `wrong` is what he found."""

    def __init__(self, redis_url: str) -> None:
        self.wrong: list[str] = []
        self.looks = 0
        self._client = connect(redis_url, reply_timeout_s=LOOK_S, retries=0)
        self._downloads = download_context(self._client, ended_ttl_s=3600, max_queued=1000, lease_s=6)
        self._alone_since: dict[str, float] = {}
        self._told: set[str] = set()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._walk, name="watchman", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Go home."""
        self._enough.set()
        self._thread.join()
        self._client.close()

    def _walk(self) -> None:
        while not self._enough.wait(LOOK_S):
            try:
                alone = self._alone()
            except Exception as error:
                if not is_redis_error(error):
                    self.wrong.append(f"the watchman failed: {error!r}")
                self._alone_since.clear()
                continue
            self.looks += 1
            now_s = time.monotonic()
            self._alone_since = {i: self._alone_since.get(i, now_s) for i in alone}
            for download_id, since_s in self._alone_since.items():
                if now_s - since_s > LIMIT_S and download_id not in self._told:
                    self._told.add(download_id)
                    self.wrong.append(f"{download_id}: nobody has it for {LIMIT_S:.0f} s: {alone[download_id]}")

    def _alone(self) -> dict[str, str]:
        """The live downloads that nobody has, and how they stand."""
        seconds, micros = self._client.time()
        now_ms = seconds * 1000 + micros // 1000
        found = {}
        for record in self._downloads.tracker.page(limit=MOST).records:
            if record.is_terminal or record.state == "paused":
                continue
            lease_ms = self._client.zscore(keys.LEASES, record.id)
            waits = self._client.zscore(keys.PENDING, record.id) is not None
            if not (waits or (record.state == "running" and lease_ms is not None and lease_ms > now_ms)):
                found[record.id] = f"{record.state}, attempt {record.attempt}, lease {lease_ms}, now {now_ms}"
        return found
