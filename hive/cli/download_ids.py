"""Ids of downloads as people type them: whole, or the first characters where those are enough."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hive.cli.errors import USAGE, CliError

if TYPE_CHECKING:
    from hive.client import Client
    from hive.wire.api import Download

#: Characters of an id that lists show: 1 in 4,000,000,000 for two to be alike.
SHORT_ID_CHARS = 8
#: The fewest characters that may stand for an id.
MIN_ID_CHARS = 4
#: How many downloads, newest first, are searched for the start of an id.
MAX_SEARCHED = 10_000

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_START = re.compile(rf"[0-9a-f-]{{{MIN_ID_CHARS},36}}")


def is_id(text: str) -> bool:
    """Whether this can be an id or the start of one, and so is no name of a model."""
    return bool(_START.fullmatch(text.lower()))


def find_download(client: Client, text: str) -> Download:
    """The download whose id is, or starts with, `text`.

    Raises:
        CliError: when it is no id, or none or several begin like this.
        DownloadNotFound: when there is no download with this whole id.
    """
    start = text.lower()
    if _UUID.fullmatch(start):
        return client.get(start)
    if not is_id(start):
        raise CliError(
            f"'{text[:40]}' is no id of a download.",
            f"ids are shown by `hive ps --all`; their first {MIN_ID_CHARS} characters are enough",
            exit_code=USAGE,
        )
    found = [download for download in client.downloads(limit=MAX_SEARCHED) if download.id.startswith(start)]
    if not found:
        raise CliError(
            f"No download's id begins with '{start}'.", "`hive ps --all` lists them", code="DOWNLOAD_NOT_FOUND"
        )
    if len(found) > 1:
        ids = ", ".join(download.id for download in found[:5])
        raise CliError(f"'{start}' is the beginning of {len(found)} ids.", f"they are: {ids}", exit_code=USAGE)
    return found[0]
