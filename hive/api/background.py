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
from hive.errors import Conflict, HiveError, RedisUnavailable, StoreMissing
from hive.redis.client import RedisClient, RedisError
from hive.store.store_id import StoreIdentity, ensure_identity, keep_to, read_identity
from hive.webhooks.dispatcher import WebhookDispatcher
from hive.wire import keys

log = logging.getLogger("hive.api.background")

#: Seconds between two looks whether it is time to collect old partial files.
TIDY_CHECK_S: Final = 60.0
#: Seconds between two looks whether the keys of open streams have expired.
STREAM_CHECK_S: Final = 5.0
#: Seconds between two looks whether Redis and the store still have the store's id.
ANNOUNCE_INTERVAL_S: Final = 2.0
#: Seconds for which it counts that a server has said that it has that store.
STORE_SEEN_S: Final = 10


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
        except (OSError, StoreMissing) as error:
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
    """Keep in Redis which store this is, for workers to compare theirs with; and in the store itself.

    While another server says that it has the store that Redis knows, one that has none, or another, names none: an
    empty folder is what a missing mount looks like.
    """
    commands, settings, said = services.commands, services.settings, ""
    while True:
        try:
            found = await asyncio.to_thread(read_identity, settings)
            problem = await commands.run(_objection, commands.client, found)
            if problem is not None and problem != services.store_health.objection:
                log.error("another store than that of the other servers", extra={"fields": {"reason": problem}})
            services.store_health.objection = problem
            services.store_health.compared = True
            if problem is None:
                found = await asyncio.to_thread(ensure_identity, settings)
                await asyncio.to_thread(keep_to, settings, found)
                await commands.run(_announce, commands.client, found)
        except RedisUnavailable:
            pass  # another time
        except (OSError, StoreMissing) as error:
            if said != str(error):  # once for each reason: the readiness says it too
                said = str(error)
                services.store_health.compared = True  # its own look says what is wrong
                log.warning("the store has no id", extra={"fields": {"reason": said}})
        except Exception:
            services.store_health.compared = True
            log.exception("the store's id could not be told; it is tried again")
        await asyncio.sleep(ANNOUNCE_INTERVAL_S)


def _objection(client: RedisClient, found: StoreIdentity) -> str | None:
    """Why a server with this store is not one with those that run. Only what lies at the same path can be a mount that
    is missing; where the paths differ, the workers are told of the latest, and say themselves whether they have it.
    """
    seen, told = client.mget(keys.STORE_SEEN, keys.STORE)
    if seen is None or told is None or seen.decode() == found.id:
        return None
    theirs = msgspec.json.decode(told, type=StoreIdentity)
    if theirs.id != seen.decode() or theirs.path != found.path:
        return None
    what = "has no id" if found.id is None else "is another one"
    return f"The store of this server, {found.path}, {what}; the others have {theirs.path}. Is a mount missing?"


def _announce(client: RedisClient, found: StoreIdentity) -> None:
    """Say which store it is, and that somebody has it now."""
    identity = msgspec.json.encode(found)
    if client.get(keys.STORE) != identity:
        client.set(keys.STORE, identity)
    if found.id is not None:
        client.set(keys.STORE_SEEN, found.id, ex=STORE_SEEN_S)


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
        except (Conflict, RedisUnavailable, StoreMissing):
            continue  # a collection is under way, or Redis or the store is away: another time
        except Exception:
            log.exception("the collection of old partial files failed; it is tried again")
