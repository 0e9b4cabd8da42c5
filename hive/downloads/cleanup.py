"""After the end of a download: its partial files, where a person wanted them gone, and its files in the intent log.

Problem: partial files are named by their content, not by a download, so that any download resumes what another began.
The easy way, to remove what a cancelled download was fetching, would take the bytes from under another that wants the
same. So a file goes only when no other download that has not ended has it in its plan, and while nobody else holds its
lease. The wish itself stands in the intent log, so that it is fulfilled whoever ends the download and whoever dies on
the way.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Final

from hive.downloads import scripts
from hive.downloads.intents import IntentLog
from hive.redis.client import RedisClient
from hive.redis.lua import Script
from hive.settings import Settings
from hive.store.dirfd import open_folder, remove_file
from hive.store.filesystem import partial_places
from hive.store.given_up import noting_removal
from hive.store.layout import PARTIAL_ENDINGS
from hive.wire import keys

log = logging.getLogger("hive.downloads.cleanup")

#: Milliseconds for which a partial file is kept from others while it is removed.
PURGE_LEASE_MS: Final = 10_000


def close(settings: Settings, client: RedisClient, intents: IntentLog, download_id: str) -> None:
    """Do what is left to do when a download has ended. Safe to repeat. Raises redis-py's errors and OSError."""
    intent = intents.read(download_id)
    if intent is not None and intent.purge:
        last = intents.read_attempt(download_id)
        shared = set(last.partials if last else ()) - intents.partials_of_others(download_id)
        for place in partial_places(settings):
            with open_folder(place.root, *place.names, missing_ok=True) as folder:
                if folder is not None:
                    freed = _remove_own(folder, download_id)
                    freed += sum(_remove_shared(settings, folder, client, name, download_id) for name in sorted(shared))
                    log.info("partial files removed", extra={"fields": {"download_id": download_id, "bytes": freed}})
    intents.remove(download_id)


def _remove_own(folder: int, download_id: str) -> int:
    """Remove the partials of small files, which carry the id, and give the bytes that they took on the disk."""
    return sum(_remove(folder, name) for name in os.listdir(folder) if f".{download_id}." in name)


def _remove_shared(settings: Settings, folder: int, client: RedisClient, name: str, download_id: str) -> int:
    """The same of one that others may use, unless one does. Who was handed some of it may ask for the rest."""
    key = keys.file(name)
    if not Script(client, scripts.TAKE_FILE)(file=key, id=download_id, lease_ms=PURGE_LEASE_MS):
        return 0
    with noting_removal(settings.hive_dir, folder, name):
        freed = sum(_remove(folder, name + ending) for ending in PARTIAL_ENDINGS)
    client.delete(key)
    return freed


def _remove(folder: int, name: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        size = os.stat(name, dir_fd=folder, follow_symlinks=False).st_blocks * 512
        return size if remove_file(folder, name) else 0
    return 0
