"""Whether this worker has the server's store; see hive.store.store_id."""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec

from hive.errors import StoreMissing
from hive.redis.client import RedisClient
from hive.redis.errors import is_redis_error
from hive.settings import Settings
from hive.store.store_id import StoreIdentity, difference, keep_to, read_identity
from hive.wire import keys

log = logging.getLogger("workers.fleet.same_store")

#: Seconds for which a worker that starts looks again: a server that starts with it says in that time which store it
#: has now. And between two looks.
PATIENCE_S: Final = 6.0
LOOK_INTERVAL_S: Final = 0.5


def objection(settings: Settings, client: RedisClient) -> str | None:
    """Why this worker must not take downloads; None where it may, or nobody has said which store it is.

    Raises redis-py's errors.
    """
    said = client.get(keys.STORE)
    if said is None:
        return None
    try:
        servers = msgspec.json.decode(said, type=StoreIdentity)
        found = read_identity(settings)
        keep_to(settings, found)
        return difference(found, servers)
    except StoreMissing as error:
        return error.message
    except (msgspec.DecodeError, OSError) as error:
        log.warning("the store's id cannot be read", extra={"fields": {"reason": str(error)}})
        return None


def lasting_objection(settings: Settings, client: RedisClient) -> str | None:
    """The same, where it stays so for some seconds. A Redis that is away objects to nothing: it is asked again."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            found = objection(settings, client)
        except Exception as error:
            if not is_redis_error(error):
                raise
            return None
        if found is None or time.monotonic() >= deadline_s:
            return found
        time.sleep(LOOK_INTERVAL_S)
