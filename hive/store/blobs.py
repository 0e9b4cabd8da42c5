"""Content-addressed look-up: where in the store the content of a digest lies.

Problem: who asks for a digest names no repository, and the cache is laid out by repository. The easy way, an index,
would have to follow what other tools put there and take away. So each repository is asked for the one name that its
blob would have: a stat each, some ten thousand a second. A file from a plain URL says its digest in its manifest.

The name of a blob is believed as far as whoever put it there is: hive puts none there whose digest it has not seen.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import Final, NamedTuple

from hive.store.dirfd import open_folder, size_of, subfolders
from hive.store.layout import BLOBS, FILES, URL_KEY_CHARS, read_manifest, repo_of
from hive.store.repo_cache import open_repo

#: A SHA-256 as it stands in an address and on the disk.
SHA256: Final = re.compile(r"[0-9a-f]{64}")
#: Places of one content that are named: as many repositories may have it.
MAX_PLACES: Final = 64


class BlobPlace(NamedTuple):
    """Where a content lies: the root, the folders below it, its name; and the path that says whose it is."""

    root: Path
    at: tuple[str, ...]
    path: str
    size: int


def find_blob(hub: Path, hive: Path, sha256: str) -> list[BlobPlace]:
    """Where the content of this digest lies, once for each repository and URL that has it.

    Raises:
        ValueError: it is no SHA-256 in lower case.
        OSError: the store cannot be read.
    """
    if not SHA256.fullmatch(sha256):
        raise ValueError("not a SHA-256")
    found = [*_in_repositories(hub, sha256), *_from_urls(hive, sha256)]
    return found[:MAX_PLACES]


def find_repo_blob(hub: Path, folder: str, name: str) -> BlobPlace | None:
    """Where the blob of this name of one repository lies, or None. Raises OSError where it cannot be looked for."""
    with open_repo(hub, folder) as cache:
        blob = cache.blob(name) if cache is not None else None
    return BlobPlace(hub, blob.at, str(hub / folder / BLOBS / name), blob.size) if blob is not None else None


def open_blob(place: BlobPlace) -> tuple[int, int]:
    """A descriptor of the content, for the caller to close, and its size in bytes. Raises OSError."""
    with open_folder(place.root, *place.at[:-1]) as folder:
        file = os.open(place.at[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        os.close(file)
        raise FileNotFoundError(place.path)
    return file, found.st_size


def close_blob(opened: tuple[int, int]) -> None:
    """Close what `open_blob` gave."""
    os.close(opened[0])


def _in_repositories(hub: Path, sha256: str) -> list[BlobPlace]:
    with open_folder(hub, missing_ok=True) as root:
        folders = [] if root is None else [name for name in subfolders(root) if repo_of(name)]
    places = []
    for folder in folders:
        with contextlib.suppress(OSError):
            if (place := find_repo_blob(hub, folder, sha256)) is not None:
                places.append(place)
    return places


def _from_urls(hive: Path, sha256: str) -> list[BlobPlace]:
    places = []
    with open_folder(hive, FILES, missing_ok=True) as files:
        keys = [] if files is None else [key for key in subfolders(files) if len(key) == URL_KEY_CHARS]
        for key in keys:
            with contextlib.suppress(OSError), open_folder(hive, FILES, key) as folder:
                manifest = read_manifest(folder)
                if manifest is None or manifest.sha256 != sha256 or size_of(folder, manifest.name) != manifest.size:
                    continue
                at = (FILES, key, manifest.name)
                places.append(BlobPlace(hive, at, str(hive.joinpath(*at)), manifest.size))
    return places
