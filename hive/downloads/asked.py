"""What may stand beside a reference: a digest and a name, which are for the file of a plain URL only."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from hive import errors
from hive.store.layout import safe_name
from hive.wire.spec import DownloadSpec

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def checked(spec: DownloadSpec) -> DownloadSpec:
    """What somebody asks for, with its digest in small letters and its name as filesystems take it.

    Raises:
        BadRequest: a digest or a name beside another reference than a URL, or one that is none.
    """
    if spec.sha256 is not None:
        if spec.ref.kind != "url":
            raise errors.BadRequest("'sha256' is for plain URLs; the Hub names the digests of its files itself.")
        spec = spec._replace(sha256=checked_sha256(spec.sha256))
    if spec.name is not None:
        if spec.ref.kind != "url":
            raise errors.BadRequest("'name' is for plain URLs; files of the Hub keep their names.")
        if (safe := safe_name(spec.name)) != unicodedata.normalize("NFC", spec.name):
            raise errors.BadRequest(f"'name' must be a file's name that every system takes, such as {safe}")
        spec = spec._replace(name=safe)
    return spec


def checked_sha256(text: str) -> str:
    """A digest that a person gave, in small letters. Raises BadRequest."""
    if not _SHA256.fullmatch(text):
        raise errors.BadRequest("'sha256' must be 64 hex digits.")
    return text.lower()
