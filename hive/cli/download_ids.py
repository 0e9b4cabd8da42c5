"""Downloads as people name them: by an id, by its first characters where those are enough, by the reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from hive.cli.errors import USAGE, CliError
from hive.cli.format import plain
from hive.errors import DownloadNotFound
from hive.wire.refs import repo_in

if TYPE_CHECKING:
    from hive.wire.api import Download

#: Characters of an id that lists show: 1 in 4,000,000,000 for two to be alike.
SHORT_ID_CHARS = 8
#: The fewest characters that may stand for an id.
MIN_ID_CHARS = 4
#: How many downloads, newest first, are searched for the start of an id.
MAX_SEARCHED = 10_000
#: Downloads that an error offers to choose from.
MAX_OFFERED = 8

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_START = re.compile(rf"[0-9a-f-]{{{MIN_ID_CHARS},36}}")


class DownloadSource(Protocol):
    """Where downloads are looked up: `Client` is one, `hive.cli.disk.Disk` the other."""

    def downloads(self, status: str | None = None, *, limit: int = ...) -> list[Download]:
        """Those of a status, the newest first."""

    def get(self, download_id: str) -> Download:
        """One of them. Raises DownloadNotFound."""


def is_id(text: str) -> bool:
    """Whether this can be an id or the start of one, and so is no name of a model."""
    return bool(_START.fullmatch(text.lower()))


def find_download(source: DownloadSource, text: str) -> Download:
    """The download whose id is, or starts with, `text`, or the one under way of this reference.

    Raises:
        CliError: there is none, or there are several.
        DownloadNotFound: when there is no download with this whole id.
    """
    start = text.lower()
    if _UUID.fullmatch(start):
        return source.get(start)
    if not is_id(start):
        return _by_ref(source, text)
    found = [download for download in source.downloads(limit=MAX_SEARCHED) if download.id.startswith(start)]
    if not found:
        raise CliError(f"No download's id begins with '{start}'.", "hive ps --all", code=DownloadNotFound.code)
    if len(found) > 1:
        raise CliError(f"'{start}' is the beginning of {len(found)} ids:", *_ids(found), exit_code=USAGE)
    return found[0]


def _by_ref(source: DownloadSource, text: str) -> Download:
    """The download under way that was asked for by this reference; the ended ones are looked at where there is none."""
    for status in ("active", None):
        found = _match(source.downloads(status, limit=MAX_SEARCHED), text)
        if len(found) == 1 or (found and status is None):
            return found[0]  # of those that have ended, the newest
        if found:
            raise CliError(f"There are {len(found)} downloads of '{plain(text[:200])}':", *_ids(found), exit_code=USAGE)
    raise CliError(f"There is no download of '{plain(text[:200])}'.", "hive ps --all", code=DownloadNotFound.code)


def _match(found: Sequence[Download], text: str) -> list[Download]:
    """Those of this reference; where there is none, those of this repository. `hf:` in front may be left out."""
    wanted = text.removeprefix("hf:")
    same = [one for one in found if one.model_ref.removeprefix("hf:") == wanted]
    return same or [one for one in found if repo_of(one.model_ref) == wanted]


def repo_of(name: str) -> str:
    """The repository in a reference or in a model's id."""
    return repo_in(name)


def _ids(found: Sequence[Download]) -> list[str]:
    """Lines to choose from."""
    return [plain(f"{one.id[:SHORT_ID_CHARS]}  {one.model_ref}  {one.status}") for one in found[:MAX_OFFERED]]
