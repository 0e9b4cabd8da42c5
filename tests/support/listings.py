"""Listings of repositories for tests of what is picked from them."""

from __future__ import annotations

import hashlib

from hive.wire.selection import RepoFile
from tests.hub import Repo


def listed(*paths: str, size: int = 1000) -> tuple[RepoFile, ...]:
    """Files of these paths, each a little larger than the one before."""
    return tuple(
        RepoFile(path, size + number, hashlib.sha1(path.encode()).hexdigest()) for number, path in enumerate(paths)
    )


def listing(repo: Repo) -> tuple[RepoFile, ...]:
    """What the Hub lists of a repository of the stand-in."""
    return tuple(
        RepoFile(path, entry.size, entry.oid, entry.sha256 if entry.lfs else None)
        for path, entry in sorted(repo.at("main").files.items())
    )


def shards(pattern: str, count: int) -> tuple[str, ...]:
    """Names of a file that is split: `pattern` has {} where `00001-of-00003` belongs."""
    return tuple(pattern.format(f"{number:05d}-of-{count:05d}") for number in range(1, count + 1))
