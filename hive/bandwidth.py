"""FleetLimit: what all workers together may take from the network, in Redis, so that it can be changed while downloads
run.

A setting alone would mean a restart of every worker to make room for a video call. The value in Redis wins; where
there is none, each process goes by its setting.
"""

from __future__ import annotations

from hive.connections import RedisClient
from hive.wire import keys


class FleetLimit:
    """The limit. Blocking calls of one round trip, which raise redis-py's errors."""

    def __init__(self, client: RedisClient, initial: int) -> None:
        """`initial` counts until somebody sets the limit: bytes per second, 0 for none."""
        self._redis = client
        self._initial = initial

    def read(self) -> int | None:
        """Bytes per second, None for no limit."""
        found = self._redis.get(keys.BANDWIDTH_LIMIT)
        return (self._initial if found is None else int(found)) or None

    def write(self, bytes_per_second: int | None) -> None:
        """Set it. What was reserved under the old limit is forgotten, so the new one counts at once."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.set(keys.BANDWIDTH_LIMIT, bytes_per_second or 0)
            pipeline.delete(keys.BANDWIDTH_LINE)
            pipeline.execute()
