"""What all workers keep to together is tried on fakeredis and on a real server."""

from __future__ import annotations

import pytest

from hive.redis.client import RedisClient


@pytest.fixture
def store(redis_client: RedisClient) -> RedisClient:
    """Both kinds, for the records are the same on either."""
    return redis_client
