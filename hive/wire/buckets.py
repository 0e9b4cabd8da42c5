"""Objects in buckets: `s3://bucket/path/file.gguf`, `gs://bucket/...`, `az://container/...`.

The address is written as a URL: percent-encoded, one spelling for one object, so that it can stand for it as a plain
URL does. What signs for it is nowhere in it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from hive.wire.commands import RefError

#: Schemes of objects: Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.
SCHEMES: Final = ("s3", "gs", "az")
#: How the variables begin that hold what opens buckets, which who fetches needs, and nobody else.
CREDENTIALS: Final = ("AWS_", "GOOGLE_", "AZURE_")
#: Longest name of an object in bytes, which is that of all three.
MAX_KEY_BYTES: Final = 1024
#: What of a name stays as it is, beside letters, digits and "_.-~".
_PLAIN: Final = "/=+@:"

_ADDRESS = re.compile(r"(s3|gs|az)://([^/]*)(?:/(.*))?", re.IGNORECASE | re.DOTALL)
_BUCKET = re.compile(r"[a-z0-9$][a-z0-9._-]{1,220}[a-z0-9]")


class BucketObject(NamedTuple):
    """One object. `key` is its name as the store has it, not encoded."""

    scheme: str
    bucket: str
    key: str


def read_object(text: str) -> str | None:
    """The address of an object in its one spelling; None for any other text.

    Raises:
        RefError: it begins as one, and names no object.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return None
    bucket, path = _bucket(found), found[3] or ""
    if not path or path.endswith("/"):
        raise RefError(
            f"This names a folder of a bucket. Name one object of it: {bucket}/path/file.gguf. hive lists no buckets,"
            " since a listing has no digests."
        )
    return f"{bucket}/{_path(path)}"


def is_object(url: str | None) -> bool:
    """Whether an address that `read_object` gave is meant, and no web address."""
    return url is not None and url.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def bucket_of(url: str) -> str:
    """The bucket of an object, as `s3://bucket`."""
    return "/".join(url.split("/", 3)[:3])


def parts_of(url: str) -> BucketObject:
    """An object's address in parts."""
    scheme, _, bucket, path = url.split("/", 3)
    return BucketObject(scheme.removesuffix(":"), bucket, unquote(path))


def read_allowed(setting: str) -> frozenset[str]:
    """The buckets, and folders in buckets, that a list with commas names, without a slash at the end.

    Raises:
        RefError: it names something else.
    """
    try:
        return frozenset(_entry(entry) for entry in map(str.strip, setting.split(",")) if entry)
    except RefError as error:
        raise RefError(f"HIVE_BUCKETS cannot be used: {error}") from None


def allows(setting: str, url: str) -> bool:
    """Whether the object lies in one of the buckets, or folders in buckets, that the setting names."""
    return any(f"{url}/".startswith(f"{entry}/") for entry in read_allowed(setting))


def not_allowed(url: str) -> str:
    """What to say of an object that is not to be read."""
    bucket = bucket_of(url)
    return f"hive may not read {bucket}. Whoever runs it allows that with HIVE_BUCKETS={bucket}."


def _entry(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise RefError("An entry is no bucket. Write s3://bucket, gs://bucket or az://container.")
    path = (found[3] or "").removesuffix("/")
    return f"{_bucket(found)}/{_path(path)}" if path else _bucket(found)


def _bucket(found: re.Match[str]) -> str:
    if not _BUCKET.fullmatch(found[2]) or ".." in found[2]:
        # What stands there is not shown: people write a key into such an address.
        scheme = found[1].lower()
        kind = "container" if scheme == "az" else "bucket"
        form = f"{scheme}://{kind}/path/file.gguf"
        raise RefError(f"This has not the name of a {kind}. Write {form}, without a key or a port.")
    return f"{found[1].lower()}://{found[2]}"


def _path(text: str) -> str:
    """The name of an object, or of a folder, percent-encoded."""
    if "?" in text or "#" in text:
        raise RefError("The address of an object has no query and no fragment; write %3F and %23 for '?' and '#'.")
    try:
        key = unquote(text, errors="strict")
        too_long = len(key.encode()) > MAX_KEY_BYTES
    except UnicodeError:
        raise RefError("The name of an object must be UTF-8; write a '%' in it as %25.") from None
    if too_long or any(ord(char) < 32 or ord(char) == 127 or char == "\\" for char in key):
        raise RefError(f"The name of an object has at most {MAX_KEY_BYTES} bytes, no control characters and no '\\'.")
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        raise RefError("Empty, '.' and '..' segments are not allowed in the name of an object.")
    return quote(key, safe=_PLAIN)
