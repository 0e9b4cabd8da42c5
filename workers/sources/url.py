"""A plain http(s) URL as a plan of one file, of which only its server knows the size."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from hive.errors import BadRequest, InvalidModelRef
from hive.store.layout import safe_name
from hive.wire.refs import ModelRef
from workers.sources.plan import Plan, PlannedFile
from workers.transfer import Digest, Location, Source

_SHA256 = re.compile(r"[0-9a-f]{64}")


def resolve(ref: ModelRef, sha256: str | None) -> Plan:
    """The plan for a URL. Its file is named by the last segment of the path, made safe.

    Raises:
        InvalidModelRef: the reference is no URL.
        BadRequest: `sha256` is not 64 hex digits.
    """
    if ref.url is None:
        raise InvalidModelRef
    name = safe_name(unquote(urlsplit(ref.url).path.rpartition("/")[2]))
    digest = Digest("sha256", _checked(sha256)) if sha256 else None
    location = Location(url=ref.url, headers={})
    source = Source(locate=lambda: location, size=None, digest=digest, name=name)
    return Plan(ref=ref, kind="url", files=(PlannedFile(name, None, digest, None, source),), primary=name)


def _checked(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256.lower()):
        raise BadRequest("sha256 must be 64 hex digits.")
    return sha256.lower()
