"""What an HTTP process does besides answering: every loop that runs for as long as the process lives starts here.

None of them ends by itself. An unreachable Redis is no reason to stop, nor is a mistake in one round: it is logged,
and the next round comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from hive.api import maintenance
from hive.api.services import Services
from hive.auth.key_ring import LOOK_INTERVAL_S as KEY_LOOK_INTERVAL_S
from hive.downloads.reaper import SWEEP_INTERVAL_S
from hive.downloads.restore import CHECK_INTERVAL_S, LOOK_INTERVAL_S
from hive.errors import Conflict, HiveError, RedisUnavailable
from hive.redis_client import RedisError
from hive.store.store_id import ensure_identity
from hive.webhooks.dispatcher import WebhookDispatcher
from hive.wire import keys

log = logging.getLogger("hive.api.background")

#: Seconds between two looks whether it is time to collect old partial files.
TIDY_CHECK_S: Final = 60.0
#: Seconds between two looks whether the keys of open streams have expired.
STREAM_CHECK_S: Final = 5.0
#: Seconds between two looks whether Redis and the store still have the store's id.
ANNOUNCE_INTERVAL_S: Final = 2.0


@contextlib.asynccontextmanager
async def running(services: Services) -> AsyncIterator[None]:
    """Run them for the time of the block; then they are cancelled and waited for."""
    dispatcher = WebhookDispatcher(services.settings, services.commands, services.tracker, services.webhooks)
    loops = (
        services.fanout.run(),
        services.replica.run(),
        dispatcher.run(),
        restore_for_ever(services),
        reap_for_ever(services),
        tidy_for_ever(services),
        announce_store_for_ever(services),
        watch_keys_for_ever(services),
    )
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def restore_for_ever(services: Services) -> None:
    """Compare the intent log with the records, and bring back what Redis has lost."""
    commands = services.commands
    while True:
        pause_s = LOOK_INTERVAL_S
        try:
            await services.downloads.compare(await commands.run(commands.client.get, keys.EPOCH))
        except (RedisError, RedisUnavailable) as error:
            log.debug("Redis is away; the intent log waits", extra={"fields": {"reason": str(error)}})
        except OSError as error:
            log.warning("the intent log cannot be read", extra={"fields": {"reason": str(error)}})
            pause_s = CHECK_INTERVAL_S
        except Exception:
            log.exception("restoring failed; it goes on")
        await asyncio.sleep(pause_s)


async def reap_for_ever(services: Services) -> None:
    """See that every download goes on or ends, whoever died."""
    while True:
        await asyncio.sleep(SWEEP_INTERVAL_S)
        try:
            await services.commands.run(services.reaper.sweep)
        except RedisUnavailable:
            services.reaper.hold_off()
        except Exception:
            log.exception("the reaper failed; it goes on")


async def announce_store_for_ever(services: Services) -> None:
    """Keep in Redis which store this is, for workers to compare theirs with; and in the store itself."""
    commands, said = services.commands, ""
    while True:
        try:
            identity = msgspec.json.encode(await asyncio.to_thread(ensure_identity, services.settings))
            if await commands.run(commands.client.get, keys.STORE) != identity:
                await commands.run(commands.client.set, keys.STORE, identity)
        except RedisUnavailable:
            pass  # another time
        except OSError as error:
            if said != str(error):  # once for each reason: the readiness says it too
                said = str(error)
                log.warning("the store has no id", extra={"fields": {"reason": said}})
        except Exception:
            log.exception("the store's id could not be told; it is tried again")
        await asyncio.sleep(ANNOUNCE_INTERVAL_S)


async def watch_keys_for_ever(services: Services) -> None:
    """Look at the key file, and end streams whose keys are dead: soon after the file changed, and every few seconds for
    those that have expired.
    """
    keys, checked_s = services.keys, 0.0
    while True:
        await asyncio.sleep(KEY_LOOK_INTERVAL_S)
        try:
            changed = await asyncio.to_thread(keys.refresh)
            if keys.on and (changed or time.monotonic() - checked_s >= STREAM_CHECK_S):
                checked_s = time.monotonic()
                await services.end_streams(keys.is_alive)
                await asyncio.to_thread(keys.note_uses)
        except HiveError as error:
            log.debug("the last use of keys is not noted", extra={"fields": {"reason": error.message}})
        except Exception:
            log.exception("the keys could not be looked at; it goes on")


async def tidy_for_ever(services: Services) -> None:
    """Collect old partial files once an hour, in one of the processes."""
    while True:
        await asyncio.sleep(TIDY_CHECK_S)
        try:
            await maintenance.tidy(services)
        except (Conflict, RedisUnavailable):
            continue  # a collection is under way, or Redis is away: another time
        except Exception:
            log.exception("the collection of old partial files failed; it is tried again")
