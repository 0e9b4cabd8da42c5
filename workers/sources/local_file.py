"""A file of the worker's own machine (`file:///path`) as a plan of one file, and the copy of it into the store.

It is copied and not linked: what the store holds must not change when somebody writes to the original. Whoever may ask
for it may read whatever the worker may read, so it is refused unless the worker's own settings allow it.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from hive.disk_errors import disk_error
from hive.downloads.asked import checked_sha256
from hive.errors import ChecksumMismatch, FileNotFound, InvalidModelRef, UnsafeUrl
from hive.plain_file import open_plain_file
from hive.settings import Settings
from hive.store.dirfd import CONTENT_MODE
from hive.wire.refs import ModelRef
from workers.sources.naming import name_of_url
from workers.sources.plan import Plan, PlannedFile
from workers.transfer import Digest, Fetched, Location, Source, data_path

#: Bytes copied and hashed between two looks whether to go on.
BLOCK_BYTES: Final = 4 << 20

_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def path_of(ref: ModelRef) -> Path:
    """The path of a file: URL."""
    return Path(unquote(urlsplit(ref.url or "").path, errors="surrogateescape"))


def resolve(ref: ModelRef, sha256: str | None, name: str | None, settings: Settings) -> Plan:
    """The plan for a file of this machine.

    Raises:
        UnsafeUrl: the settings do not allow it.
        FileNotFound: there is no plain file of this path that this process may read.
        BadRequest: `sha256` is not 64 hex digits.
    """
    if not ref.is_local_file or ref.url is None:
        raise InvalidModelRef
    if not settings.allow_file_urls:
        raise UnsafeUrl("The worker brings files of its own machine into the store only with HIVE_ALLOW_FILE_URLS.")
    path = path_of(ref)
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFound(f"{path} is no plain file.", path=str(path))
    digest = Digest("sha256", checked_sha256(sha256)) if sha256 else None
    location = Location(url=ref.url, headers={})
    kept = name or name_of_url(ref.url)
    source = Source(locate=lambda: location, size=status.st_size, digest=digest, name=kept)
    file = PlannedFile(kept, status.st_size, digest, None, source)
    return Plan(ref=ref, kind="url", files=(file,), primary=kept, name=name)


def copy_local_file(path: Path, partial: Path, digest: Digest | None, on_bytes: Callable[[int], None]) -> Fetched:
    """Copy a file to its partial, synced. `on_bytes` hears how many bytes are there, and raises where this is to end.

    Raises:
        FileNotFound: it cannot be read any more.
        StoreNotWritable, DiskFull: it cannot be written.
        ChecksumMismatch: it has another digest.
    """
    began_s = time.monotonic()
    target = data_path(partial)
    try:
        source = os.open(path, _READ)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        with (
            os.fdopen(source, "rb", buffering=0) as file,
            os.fdopen(open_plain_file(target, _WRITE, CONTENT_MODE), "wb") as copy,
        ):
            size, found = 0, hashlib.sha256()
            while block := _read(file, path):
                copy.write(block)
                found.update(block)
                size += len(block)
                on_bytes(size)
            copy.flush()
            os.fsync(copy.fileno())
    except OSError as error:
        raise disk_error(error, target) from error
    if digest is not None and found.hexdigest() != digest.hex:
        target.unlink(missing_ok=True)
        raise ChecksumMismatch(f"{path} does not have the digest that was asked for.")
    seconds = time.monotonic() - began_s
    return Fetched(target, size, found.hexdigest(), None, 0, seconds, digest is not None)


def _read(file: io.RawIOBase, path: Path) -> bytes | None:
    """The next block. What the disk of the source refuses is none of the store's."""
    try:
        return file.read(BLOCK_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> FileNotFound:
    return FileNotFound(f"The worker cannot read {path}: {error.strerror}.", path=str(path))
