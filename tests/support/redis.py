"""What is in Redis, looked at by tests."""

from __future__ import annotations

from hive.redis.client import RedisClient


def secrets_in(store: RedisClient, secret: str) -> list[bytes]:
    """The keys whose values hold this text in clear."""
    return [key for key in store.keys("*") if secret.encode() in (store.dump(key) or b"")]
