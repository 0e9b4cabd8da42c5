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

from redis.exceptions import RedisError

from hive.redis_client import RedisClient
from hive.wire import keys

#: KEYS: files. ARGV: owner, lease_ms, id, fence. -> 1 when all are ours (again), 0 when one is somebody else's.
_RENEW = """
for _, key in ipairs(KEYS) do
  local owner = redis.call('GET', key)
  if owner and owner ~= ARGV[1] then
    local id, fence = string.match(owner, '^(%S+) (%d+)$')
    if id ~= ARGV[3] or tonumber(fence) > tonumber(ARGV[4]) then return 0 end
  end
end
for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'PX', ARGV[2]) end
return 1
"""

#: KEYS: file. ARGV: owner. -> 1 when it was ours.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class FileLeases:
    """The partial files that one claimed download holds. Safe from several threads; raises redis-py's errors."""

    def __init__(self, client: RedisClient, download_id: str, fence: int, lease_s: float) -> None:
        self._redis = client
        self._owner = f"{download_id} {fence}".encode()
        self._args = [self._owner, int(lease_s * 1000), download_id, fence]
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._renew_script = client.register_script(_RENEW)
        self._release_script = client.register_script(_RELEASE)

    def acquire(self, name: str) -> str | None:
        """None when the file is ours now, else the id of the download that has it."""
        key = keys.file(name)
        if self._renew_script(keys=[key], args=self._args):
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
        with self._lock:
            held = list(self._held)
        return not held or bool(self._renew_script(keys=held, args=self._args))

    def _release(self, key: str) -> None:
        with self._lock:
            self._held.discard(key)
        self._release_script(keys=[key], args=[self._owner])
