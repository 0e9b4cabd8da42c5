"""Leases on partial files: one download writes a file at a time, the others wait and show its progress.

Problem: partial files are shared by their content, so that any download can resume what another began; hence two
downloads may want to write the same one at once (one mmproj for two quantisations, one blob in two repositories).
Bytes of a pinned digest may be written twice without harm, but not after the file was renamed to where programs read
it, while the second writer's source may be a bad one. File locks are silently granted on some cluster filesystems.
So: a key in Redis per partial, held by a download, renewed with its own lease.

A later attempt of the same download has it from the earlier one without waiting: it got its fence when that one was
known to be dead, or had lost its lease and with it the right to write.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from redis.exceptions import RedisError

from hive.downloads import scripts
from hive.redis.client import RedisClient
from hive.redis.lua import Script, load
from hive.setting_ranges import MAX_LEASE_S
from hive.wire import keys


class FileLeases:
    """The partial files that one claimed download holds. Safe from several threads; raises redis-py's errors."""

    def __init__(self, client: RedisClient, download_id: str, fence: int, lease_s: float) -> None:
        self._redis = client
        self._owner = f"{download_id} {fence}".encode()
        lease_ms = int(lease_s * 1000)
        self._claim: dict[str, Any] = {
            "owner": self._owner,
            "lease_ms": lease_ms,
            "lease_max_ms": int(MAX_LEASE_S * 1000),
            "id": download_id,
            "fence": fence,
        }
        self._held: set[str] = set()
        self._lock = threading.Lock()
        #: Held while something is renewed or released: what is renewed just now must not come back behind its release.
        self._calls = threading.Lock()
        self._renew_script = Script(client, load("workers.fleet", "renew_files"))
        self._release_script = Script(client, scripts.DELETE_IF_EQUAL)

    def acquire(self, name: str) -> str | None:
        """None when the file is ours now, else the id of the download that has it."""
        key = keys.file(name)
        if self._renew_script(all_keys=[key], **self._claim):
            with self._lock:
                self._held.add(key)
            return None
        owner = self._redis.get(key)
        return owner.decode().split(" ")[0] if owner else ""

    def release(self, name: str) -> None:
        """Give the file up. A Redis that is away forgets it by itself: it is not renewed any more."""
        with contextlib.suppress(RedisError):
            self._release(keys.file(name))

    def release_all(self) -> None:
        """Give up all that is still held; the rest is left to expire as soon as Redis does not answer."""
        with contextlib.suppress(RedisError):
            for key in list(self._held):
                self._release(key)

    def renew(self) -> bool:
        """Keep all that is held. False when one was lost: Redis was away for longer than the lease, and somebody took
        it.
        """
        with self._calls:
            with self._lock:
                held = list(self._held)
            return not held or bool(self._renew_script(all_keys=held, **self._claim))

    def _release(self, key: str) -> None:
        with self._calls:
            with self._lock:
                self._held.discard(key)
            self._release_script(key=key, value=self._owner)
