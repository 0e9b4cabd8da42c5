"""What all workers keep to together, through Redis: bandwidth, hosts that rest, room on the disk, one writer a file.

`FleetLimits` is what one download keeps to together with all others: the bandwidth, and the rests that hosts asked for.

Over a Redis client of its own, with a short time-out: whoever waits here holds bytes up, and the lease must not wait
behind it.
"""

from __future__ import annotations

from hive.redis.client import connect
from hive.settings import Settings
from workers.bandwidth import BandwidthLimiter
from workers.fleet.bandwidth import FleetLimiter
from workers.fleet.cooldown import RedisCooldown

#: Seconds for one reply of Redis. Late, it counts as away, and the download goes on as it did.
REPLY_TIMEOUT_S = 0.5


class FleetLimits:
    """The bandwidth and the cool-down of one download."""

    def __init__(self, settings: Settings, download_id: str, max_bytes_per_second: int | None) -> None:
        """`max_bytes_per_second`: of this download alone. Connects to nothing yet."""
        assert settings.redis_address is not None
        client = connect(settings.redis_address, reply_timeout_s=REPLY_TIMEOUT_S, retries=0)
        self.cooldown = RedisCooldown(client)
        self.bandwidth = BandwidthLimiter(
            FleetLimiter(client, settings.max_bytes_per_second, download_id), max_bytes_per_second
        )
