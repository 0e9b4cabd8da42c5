"""The intent log, as the HTTP process uses it: what is written before a request is answered, and what is brought back.

The disk is touched in threads, and never in the one that talks to Redis: a slow disk must not hold up the streams.
Where the store cannot be written the download goes on without the note; only a wish to purge cannot do without.
"""

from __future__ import annotations

import asyncio
import logging

from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from hive.downloads.intents import Intent, IntentLog, intent_of
from hive.downloads.record import Record
from hive.downloads.restore import CHECK_INTERVAL_S, LOOK_INTERVAL_S, Restorer
from hive.errors import RedisUnavailable, StoreNotWritable
from hive.redis_client import CommandThread
from hive.settings import Settings
from hive.wire import keys

log = logging.getLogger("hive.downloads.intent_sync")


class Books:
    """Notes requests, forgets them at their end, and brings them back when Redis has lost them."""

    def __init__(self, settings: Settings, redis_url: str, commands: CommandThread) -> None:
        self._commands = commands
        self._intents = IntentLog(settings)
        self._restorer = Restorer(settings, redis_url, self._intents)

    async def note(self, entry: Intent) -> None:
        """Write a request that was just made, or what people want of it now."""
        try:
            await run_in_threadpool(self._intents.write, entry)
        except OSError as error:
            log.warning("the intent log cannot be written; going on", extra={"fields": {"reason": str(error)}})

    async def changed(self, record: Record) -> None:
        """Write what a person's change has made of a download."""
        if record.is_terminal:
            await self.ended(record.id)
        elif record.control != "cancel":
            await self.note(intent_of(record))

    async def cancelling(self, record: Record, *, purge: bool) -> None:
        """Write that a person wants the end, before it comes: so it also comes when Redis forgets the wish.

        Raises:
            StoreNotWritable: the partial files are to be removed, and that cannot be written down.
        """
        try:
            await run_in_threadpool(self._intents.write, intent_of(record, cancelled=True, purge=purge))
        except OSError as error:
            if purge:
                raise StoreNotWritable from error
            log.warning("the intent log cannot be written; going on", extra={"fields": {"reason": str(error)}})

    async def ended(self, download_id: str) -> None:
        """Forget a download that has ended; its partial files go where that is wished. What fails is done later."""
        try:
            await run_in_threadpool(self._restorer.close, download_id)
        except (OSError, RedisError) as error:
            log.warning("the intent log keeps what has ended for now", extra={"fields": {"reason": str(error)}})

    async def bring_back(self, *download_ids: str) -> bool:
        """Whether one of these is known to the intent log alone, and has its record again.

        Raises:
            RedisUnavailable: Redis is away.
        """
        try:
            found = [await run_in_threadpool(self._restorer.bring_back, download_id) for download_id in download_ids]
        except RedisError as error:
            raise RedisUnavailable from error
        except OSError as error:
            log.warning("the intent log cannot be read", extra={"fields": {"reason": str(error)}})
            return False
        return any(found)

    async def run(self) -> None:
        """Compare intents and records until cancelled; neither an unreachable Redis nor a disk is a reason to stop."""
        try:
            while True:
                pause_s = LOOK_INTERVAL_S
                try:
                    await self._look()
                except (RedisError, RedisUnavailable) as error:
                    log.debug("Redis is away; the intent log waits", extra={"fields": {"reason": str(error)}})
                except OSError as error:
                    log.warning("the intent log cannot be read", extra={"fields": {"reason": str(error)}})
                    pause_s = CHECK_INTERVAL_S
                except Exception:
                    log.exception("restoring failed; it goes on")
                await asyncio.sleep(pause_s)
        finally:
            self._restorer.stop()

    async def _look(self) -> None:
        mark = await self._commands.run(self._commands.client.get, keys.EPOCH)
        if self._restorer.is_due(mark):
            await run_in_threadpool(self._restorer.look, mark)
