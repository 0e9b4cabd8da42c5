"""Deduplication by hard links: content that another repository of the store has already is not fetched again.

Problem: quantisations of one model lie in several repositories, and so do the same encoder or the same projector; the
Hub's cache keeps each repository's files apart, so the same bytes would come once for each. The easy way, a symbolic
link, makes one repository lose its file when the other is deleted. A second name of the same file (a hard link) does
not: both are whole, and the disk holds the bytes once. Nothing is believed because of its name: the bytes are hashed
first, at a tenth of the time that fetching takes, and a file that is not what it is called stays where it is.

Where the filesystem has no hard links, the file is fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hive.store.dirfd import open_folder, size_of, subfolders
from hive.store.layout import BLOBS, repo_of

log = logging.getLogger("workers.reuse")

#: Bytes hashed between two looks whether to go on.
BLOCK_BYTES: Final = 4 << 20


def link_existing(
    hub: Path, folder: str, sha256: str, size: int, check: Callable[[], None], may_have: Callable[[str], bool]
) -> bool:
    """Make the content `sha256` of `size` bytes a blob of the repository in `folder`, where another repository has it.

    `check` is called every few milliseconds, and raises where this is to end; `may_have` says of a repository whether
    its content may be had here: a digest alone, which anybody can name, is no permission. False where it has to be
    fetched.
    """
    try:
        with open_folder(hub) as root:
            for other in subfolders(root):
                repo = repo_of(other)
                if repo is None or other == folder or not _has(root, other, sha256, size) or not may_have(repo):
                    continue
                if _link(root, other, folder, sha256, size, check):
                    log.info("linked", extra={"fields": {"from": repo, "bytes": size}})
                    return True
    except FileNotFoundError:
        return False
    return False


def _has(root: int, other: str, sha256: str, size: int) -> bool:
    with contextlib.suppress(OSError), open_folder(root, other, BLOBS) as blobs:
        return size_of(blobs, sha256) == size
    return False


def _link(root: int, other: str, folder: str, sha256: str, size: int, check: Callable[[], None]) -> bool:
    with contextlib.suppress(OSError), open_folder(root, other, BLOBS) as theirs:
        if size_of(theirs, sha256) != size:
            return False
        file = os.open(sha256, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=theirs)
        try:
            if _sha256(file, check) != sha256:
                log.warning("a file is not what its name says", extra={"fields": {"model": repo_of(other)}})
                return False
            with open_folder(root, folder, BLOBS, create=True) as ours:
                try:
                    os.link(sha256, sha256, src_dir_fd=theirs, dst_dir_fd=ours, follow_symlinks=False)
                except FileExistsError:
                    return False  # somebody put one there just now; it is not for us to judge
                return _keep_if_same(ours, sha256, file)
        finally:
            os.close(file)
    return False


def _keep_if_same(ours: int, name: str, file: int) -> bool:
    """Whether the new name is that of the file which was hashed; another one that took its place is not kept."""
    found, hashed = os.stat(name, dir_fd=ours, follow_symlinks=False), os.fstat(file)
    if (found.st_dev, found.st_ino) == (hashed.st_dev, hashed.st_ino):
        return True
    os.unlink(name, dir_fd=ours)
    return False


def _sha256(file: int, check: Callable[[], None]) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES))
    while count := os.readv(file, [block]):
        check()
        digest.update(block[:count])
    return digest.hexdigest()
