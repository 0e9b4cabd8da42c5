"""Marks of digests under which wrong bytes were handed out, for all servers (a negative cache in Redis).

Problem: a client that was cut off because its bytes were wrong asks for the rest, and a balancer sends it to another
server than before. That one has hashed other bytes, perhaps right ones by now, and would put them behind the wrong
ones that the client has. So whoever has handed out wrong bytes says so to all before it cuts its clients off.
"""

from __future__ import annotations

from typing import Final

from hive.errors import RedisUnavailable
from hive.redis.client import CommandThread
from hive.wire import keys

#: Seconds for which a digest is marked.
WRONG_TTL_S: Final = 3_600


class WrongDigests:
    """The marks. Its methods belong to the event loop."""

    def __init__(self, commands: CommandThread) -> None:
        self._commands = commands

    async def mark(self, digest: str) -> None:
        """Mark it for an hour. Where Redis does not answer nothing is marked, and `is_marked` says yes meanwhile."""
        try:
            await self._commands.run(self._commands.client.set, keys.wrong_digest(digest), b"1", ex=WRONG_TTL_S)
        except RedisUnavailable:
            return

    async def is_marked(self, digest: str) -> bool:
        """Whether it is; also where Redis does not say: all of a file is right, the rest of one may not be."""
        try:
            return bool(await self._commands.run(self._commands.client.exists, keys.wrong_digest(digest)))
        except RedisUnavailable:
            return True
