"""Names in Redis: ids of downloads, and of processes, as text; what is no text is none of hive's, and is removed.

Problem: a sorted set of hive's that somebody else has written into may begin with bytes that are no UTF-8. Whoever
decodes them raises, and nobody gets past them: the queue stands. The easy way, to decode them somehow, gives a name
that is not the one in Redis, so that nothing done by this name takes it away.
"""

from __future__ import annotations

from collections.abc import Iterable

from hive.redis.client import RedisClient


def text_names(client: RedisClient, key: str, found: Iterable[bytes], *, is_set: bool = False) -> list[str]:
    """These members of a sorted set (or a set) as text, in their order; those that are none leave it. Raises redis-py's
    errors.
    """
    names: list[str] = []
    strange: list[bytes] = []
    for member in found:
        try:
            names.append(member.decode())
        except UnicodeDecodeError:
            strange.append(member)
    if strange:
        (client.srem if is_set else client.zrem)(key, *strange)
    return names
