"""Identity of a store: a random name in a file of its own, by which server and workers see that they mean the same.

Problem: where a mount is missing, or a variable is spelt wrongly, a worker brings every model to a folder that nobody
else sees, and says that it is complete. Comparing paths does not help: one store has many paths in many containers. So
the store is named once, by the first server that finds it without a name. Workers never name one: an empty folder is
what a missing mount looks like.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from typing import Final

import msgspec

from hive.errors import StoreMissing
from hive.settings import HIVE_IN_HUB, Settings
from hive.store.dirfd import open_folder, read_file, remove_file, temporary_name, write_file
from hive.store.root_guard import GUARD

#: The file's name, below `hive`, and its longest content in bytes.
STORE_ID: Final = "store-id"
MAX_ID_BYTES: Final = 64

_ID: Final = re.compile(r"[0-9a-f]{32}")


class StoreIdentity(msgspec.Struct, frozen=True):
    """A store's id, None where it has none, and where it is for whoever says so."""

    id: str | None
    path: str


def read_identity(settings: Settings) -> StoreIdentity:
    """The store of these settings. Raises OSError where it cannot be read, StoreMissing where it is away."""
    found: str | None = None
    with open_folder(settings.hive_dir, missing_ok=True) as folder:
        if folder is not None:
            text = (read_file(folder, STORE_ID, MAX_ID_BYTES) or b"").decode("ascii", "replace").strip()
            found = text if _ID.fullmatch(text) else None
    return StoreIdentity(found, str(settings.hive_dir))


def ensure_identity(settings: Settings) -> StoreIdentity:
    """The same, and the store is named where it has no name. Raises OSError where it cannot be written."""
    found = read_identity(settings)
    if found.id is not None:
        return found
    with open_folder(settings.hive_dir, create=True) as folder:
        temporary = temporary_name(STORE_ID)
        write_file(folder, temporary, f"{uuid.uuid4().hex}\n".encode())
        try:
            # Of several servers at once one names it: a link takes no name that is there. Where there are no links the
            # last one does, and the others read that in a moment.
            os.link(temporary, STORE_ID, src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            if read_identity(settings).id is None:  # it is there, and is none
                os.replace(temporary, STORE_ID, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.replace(temporary, STORE_ID, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with contextlib.suppress(OSError):
                remove_file(folder, temporary)
    return read_identity(settings)


def keep_to(settings: Settings, identity: StoreIdentity) -> None:
    """From now on this process uses no other store than this one at these paths; see hive.store.root_guard."""
    if identity.id is not None and identity.id != GUARD.store_id:
        GUARD.watch(settings.hive_dir, STORE_ID, identity.id, settings.hub_dir, HIVE_IN_HUB)


def missing(settings: Settings) -> StoreMissing | None:
    """Why the store of this process is not there any more; None where it is, or none is guarded."""
    try:
        found = read_identity(settings)
        with open_folder(settings.hub_dir, missing_ok=True):
            pass
    except StoreMissing as error:
        return error
    except OSError as error:
        found, reason = StoreIdentity(None, str(settings.hive_dir)), str(error)
    else:
        reason = "its id cannot be read"
    if GUARD.store_id is None or found.id == GUARD.store_id:
        return None
    return StoreMissing(f"The store at {found.path} cannot be reached any more: {reason}.", path=found.path)


def difference(ours: StoreIdentity, servers: StoreIdentity) -> str | None:
    """Why a worker with our store must not work for a server with that one; None where they are the same."""
    if ours.id == servers.id or servers.id is None:
        return None
    what = "has no id" if ours.id is None else "is another one"
    return f"The store of this worker, {ours.path}, {what}; the server's is {servers.path}. Is a mount missing?"
