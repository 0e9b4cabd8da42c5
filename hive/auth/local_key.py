"""The key of this user's own command line: made by `hive up`, so that keys change nothing for who runs it.

It lies in HIVE_HOME, mode 0600, and may do everything: whoever reads it there could make keys anyway. The command line
sends it to a server that has proved the secret key of the same home (hive/wire/proof.py), and to no other.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import stat
import time
from pathlib import Path
from typing import Final

from hive.auth.keys import KEY, KeyFile, digest_of, id_of
from hive.key_file import is_private
from hive.private_file import private_file_beside

#: Its name and owner in the key file.
KEY_NAME: Final = "hive up"
OWNER: Final = "local"
#: Bytes of the file that are read.
_MAX_BYTES: Final = 256


def read_local_key(path: Path) -> str | None:
    """The key; None where there is none, or where others may read it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and is_private(status):
                text = os.read(descriptor, _MAX_BYTES).decode("latin-1").strip()
                return text if KEY.fullmatch(text) else None
        finally:
            os.close(descriptor)
    return None


def ensure_local_key(path: Path, file: KeyFile) -> str | None:
    """The key, made where there is none that the key file knows. None where keys are off.

    Raises:
        KeyFileUnusable: the key file cannot be read or written.
        OSError: the home cannot be written.
    """
    keys = file.read().keys
    if not keys:
        return None
    if (text := read_local_key(path)) is not None:
        found = next((key for key in keys if key.id == id_of(text)), None)
        if found and found.is_alive(time.time()) and hmac.compare_digest(digest_of(text), found.sha256):
            return text
    made = file.add(KEY_NAME, ["admin"], owner=OWNER)
    with private_file_beside(path, f"{made.text}\n".encode()) as temporary:
        os.replace(temporary, path)
    return made.text
