"""What an HTTP answer means for a download: usable, try again, wait, or give up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import NamedTuple

from hive.errors import (
    DownloadError,
    FileNotFound,
    HiveError,
    ModelAccessDenied,
    ModelNotFound,
    RevisionNotFound,
)
from hive.net.retry_after import asked_wait_s
from workers.transfer.limits import Limits
from workers.transfer.source import Refusal
from workers.transfer.transport import Busy, Throttled, Transient

#: Bytes of an error's body that are read, and characters of it that a person gets to see.
ERROR_BODY_BYTES = 4096
ERROR_TEXT_CHARS = 300
#: A text of which one in so many characters cannot be read is none.
_GARBLED = 20

#: Seconds. A date is a strong validator only when it is clearly older than the answer: a file may change twice in a
#: second.
DATE_IS_STRONG_S = 60

REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: What stands in Content-Encoding and packs nothing: a store keeps whatever word an upload came with.
_NOT_PACKED = frozenset({"", "identity", "none", "aws-chunked", "utf-8", "utf8", "us-ascii", "binary", "7bit", "8bit"})
#: How a body may be packed that is unpacked here.
_UNPACKED = frozenset({"gzip", "x-gzip", "deflate"})

_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d{1,18})-(\d{1,18})|\*)/(?:(\d{1,18})|\*)", re.IGNORECASE)
_BY_HUB_CODE: dict[str, type[HiveError]] = {
    "GatedRepo": ModelAccessDenied,
    "RepoNotFound": ModelNotFound,
    "RevisionNotFound": RevisionNotFound,
    "EntryNotFound": FileNotFound,
}
_XML_MESSAGE = re.compile(r"<Message>([^<]{1,1000})</Message>")
_PERHAPS_SECRET = re.compile(r"\S*(?://|[?&=%])\S*|\S{32,}")
_TRY_AGAIN = frozenset({421, 423, 425})
#: Statuses from 500 on that another try does not change: not implemented, another version, a network to sign in to.
_NEVER = frozenset({501, 505, 506, 508, 510, 511})


class ContentRange(NamedTuple):
    """`Content-Range` in half-open offsets; None where the header has `*`."""

    start: int | None
    end: int | None
    total: int | None


def content_range(headers: Mapping[str, str]) -> ContentRange | None:
    """The parsed header, or None when there is none that can be read."""
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if found is None:
        return None
    first, last, total = (None if group is None else int(group) for group in found.groups())
    return ContentRange(first, None if last is None else last + 1, total)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Bytes of the body, or None when the server does not say: a length beside chunks says nothing of them."""
    if headers.get("transfer-encoding", "").strip():
        return None
    # Twice the same, as some proxies make it, is one length (RFC 9110, 8.6).
    values = {value.strip() for value in headers.get("content-length", "").split(",")}
    value = values.pop() if len(values) == 1 else ""
    return int(value) if value.isdecimal() and len(value) <= 18 else None


def transfer_coding(headers: Mapping[str, str]) -> str | None:
    """How the bytes are framed or packed on their way, where that is another way than chunks; None else. Nobody asks
    for one (TE), so there is no need to read any.
    """
    coding = headers.get("transfer-encoding", "").strip().lower()
    return None if coding in ("", "chunked", "identity") else coding[:40]


def encoding(headers: Mapping[str, str]) -> str | None:
    """How the body is compressed although identity was asked for; None where it is not."""
    words = (word.strip().lower() for word in headers.get("content-encoding", "").split(","))
    return ", ".join(word for word in words if word not in _NOT_PACKED)[:40] or None


def can_unpack(packed: str) -> bool:
    """Whether a body of this encoding is unpacked here."""
    return packed in _UNPACKED


def strong_validator(headers: Mapping[str, str]) -> str:
    """A strong ETag, or a Last-Modified that is clearly older than the answer; "" without."""
    etag = headers.get("etag", "").strip()
    if etag.startswith('"'):
        return etag
    modified, now = _date(headers.get("last-modified")), _date(headers.get("date"))
    if modified is not None and now is not None and now - modified >= DATE_IS_STRONG_S:
        return headers["last-modified"].strip()
    return ""


def is_passing(status: int) -> bool:
    """Whether this is a server's own trouble, which may pass, or be that of one address of its name."""
    return status >= 500 and status not in _NEVER


def failure(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    limits: Limits,
    *,
    signed: bool,
    explain: Callable[[Refusal], HiveError] | None = None,
) -> Exception:
    """The exception for an answer that is neither a file nor a redirect.

    `signed`: the URL itself was the credential. `explain`: see Source.
    """
    asked_s = asked_wait_s(headers, limits.retry_after_max_s)
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS):
        return Throttled(f"the server answers {_status(status)}", asked_s)
    if status == HTTPStatus.SERVICE_UNAVAILABLE and asked_s is not None:
        return Throttled(f"the server answers {_status(status)}", asked_s)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Busy(f"the server answers {_status(status)}")
    if status in _TRY_AGAIN or is_passing(status):
        return Transient(f"the server answers {_status(status)}")
    if explain is not None:
        code, text = headers.get("x-error-code", ""), headers.get("x-error-message", "")
        return explain(Refusal(status, code, text, _text(body)))
    return _final(status, headers, body, signed)


def _final(status: int, headers: Mapping[str, str], body: bytes, signed: bool) -> HiveError:
    error = _BY_HUB_CODE.get(headers.get("x-error-code", ""))
    if error is not None:
        return error()
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return FileNotFound()
    said = f": {_text(body)}" if _text(body) else "."
    if status == HTTPStatus.UNAUTHORIZED or (status == HTTPStatus.FORBIDDEN and not signed):
        return ModelAccessDenied(f"The server refuses access ({_status(status)}){said}")
    return DownloadError(f"The server answers {_status(status)}{said}")


def _text(body: bytes) -> str:
    """An error's body on one line, without mark-up, and without what may be a URL, a signature or a key; "" of bytes
    that are no text.
    """
    text = body.decode("utf-8", "replace")
    if "\0" in text or text.count("\ufffd") > len(text) // _GARBLED:
        return ""
    in_xml = _XML_MESSAGE.search(text)
    text = re.sub(r"<[^>]{0,200}>", " ", in_xml[1] if in_xml else text)
    text = _PERHAPS_SECRET.sub("", text)
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:ERROR_TEXT_CHARS]


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _date(value: str | None) -> float | None:
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
