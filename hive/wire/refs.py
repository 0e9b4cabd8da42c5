"""Model references: `hf:org/name@revision:QUANT`, one file of a repository, or a plain URL.

    hf:org/name[/path/in/repo][@revision][:QUANT]       org/name and hf.co/org/name are short for hf:org/name
    https://host/path/file.gguf                          any http(s) URL
    https://huggingface.co/org/name/resolve/main/f.gguf  read as hf:org/name/f.gguf@main

A reference is parsed once, here, by an allow-list, and every URL or path is rebuilt from the parts: two parsers that
read one text differently are how a check is passed on one address and the request goes to another.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

import msgspec

#: Longest reference in characters. Signed URLs reach some 2,000.
MAX_REF_CHARS = 4096
#: Longest path of a file inside a repository, in bytes, and of one of its segments (the limit of common filesystems).
MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255
#: What is shown in place of a URL's query.
HIDDEN_QUERY = "?..."
#: The branch that a reference without a revision means.
DEFAULT_REVISION = "main"

#: What a URL that was copied from somewhere may have around it: white space, and marks without a width.
_BLANKS = " \t\r\n\v\f\u00a0\u2028\u2029\u200b\u2060\u3000\ufeff"
_PASTED_URL = re.compile(rf"[{_BLANKS}]*https?:", re.IGNORECASE)
#: What stays as it is in a URL: printable ASCII, the sign of an encoding included.
_PRINTABLE = "".join(map(chr, range(33, 127)))

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+=#-]{0,254}")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\.?|\[[0-9a-f:.]{2,45}\]")
_HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_HUB_VIEWS = frozenset({"resolve", "blob", "tree", "raw"})


class RefError(ValueError):
    """A reference that is not valid; the text says why and how to write it."""


class ModelRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person asked for, in parts. `kind` "hf" has `repo`; `kind` "url" has `url` and nothing else."""

    kind: Literal["hf", "url"] = "hf"
    repo: str = ""
    revision: str | None = None
    path: str | None = None
    quant: str | None = None
    url: str | None = None

    def __str__(self) -> str:
        """The reference as `parse_ref` reads it. A URL is given whole: see `display` for what may be shown."""
        if self.url is not None:
            return self.url
        path = f"/{self.path}" if self.path else ""
        revision = f"@{self.revision}" if self.revision else ""
        quant = f":{self.quant}" if self.quant else ""
        return f"hf:{self.repo}{path}{revision}{quant}"

    @property
    def display(self) -> str:
        """The reference for logs, events and lists. The query of a URL may be a signature, so it is not shown."""
        if self.url is None:
            return str(self)
        return f"{without_query(self)}{HIDDEN_QUERY if urlsplit(self.url).query else ''}"

    @property
    def rev(self) -> str:
        """The revision that is meant, `main` where none is written."""
        return self.revision or DEFAULT_REVISION

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a full commit hash, which never moves."""
        return bool(self.revision and _COMMIT.fullmatch(self.revision))


def parse_ref(text: str) -> ModelRef:
    """Read a reference. Of a URL, blanks around it are cut, and spaces and what is not ASCII percent-encoded.

    Raises:
        RefError: with a sentence that says what is wrong with it and how to write it.
    """
    if _PASTED_URL.match(text):
        text = text.strip(_BLANKS)
    if len(text) > MAX_REF_CHARS:
        raise RefError(f"The model reference has {len(text)} characters; the limit is {MAX_REF_CHARS}.")
    if not text.strip() or any(ord(char) < 32 or ord(char) == 127 or char == "\\" for char in text):
        raise RefError("A model reference is not empty and has no control characters or backslashes.")
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in ("http", "https"):
        return _parse_url(text)
    if colon and scheme.lower() == "hf":
        return _parse_hub(rest.removeprefix("//"))
    if colon and "/" not in scheme:
        raise RefError(f"'{scheme[:40]}:' is not a scheme hive knows. Use hf:org/name, or an http(s) URL.")
    host, _, rest = text.partition("/")
    return _parse_hub(rest if host in _HUB_HOSTS else text)


def without_query(ref: ModelRef) -> ModelRef:
    """The reference without a URL's query, which may be a signature and travels encrypted. See `with_query`."""
    return msgspec.structs.replace(ref, url=urlunsplit(urlsplit(ref.url)._replace(query=""))) if ref.url else ref


def with_query(ref: ModelRef, query: str | None) -> ModelRef:
    """The reference with this query on its URL."""
    return (
        msgspec.structs.replace(ref, url=urlunsplit(urlsplit(ref.url)._replace(query=query)))
        if ref.url and query
        else ref
    )


def dedup_key(
    ref: ModelRef,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    sha256: str | None = None,
    name: str | None = None,
) -> str:
    """What makes two requests the same download: 64 hex digits over the reference and the selection, order aside.

    A digest is part of it: who asks for one must not join a download that checks none. So is a name of one's own.
    """
    same: tuple[object, ...] = (
        ref.kind,
        ref.repo,
        ref.rev if ref.repo else "",
        ref.path,
        ref.quant,
        ref.url,
        sorted(set(include)),
        sorted(set(exclude)),
        sha256,
    )
    # Without a name the key is that of versions which knew none: a download of theirs is still joined.
    return hashlib.sha256(msgspec.json.encode((*same, name) if name else same)).hexdigest()


def check_path(path: str) -> str:
    """A path inside a repository that is safe to put below a folder, unchanged.

    Raises:
        RefError: for absolute paths, `.`, `..` and empty segments, control characters, backslashes, names of `.git`
        and of
            Windows devices, and anything too long.
    """
    problem = path_problem(path)
    if problem:
        raise RefError(f"The path {path[:80]!r} is not allowed: {problem}.")
    return path


def path_problem(path: str) -> str | None:
    """Why a repository path must not be used, or None where it is safe."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if not path or size > MAX_PATH_BYTES:
        return f"it must have 1 to {MAX_PATH_BYTES} bytes"
    if any(ord(char) < 32 or ord(char) == 127 or char == "\\" for char in path):
        return "control characters and backslashes are not allowed"
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            return "empty, '.' and '..' segments are not allowed"
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            return f"a segment is longer than {MAX_SEGMENT_BYTES} bytes"
        if segment.lower() == ".git":
            return "'.git' is not allowed"
        if segment.split(".")[0].rstrip(" ").upper() in _DEVICES or segment[-1] in ". ":
            return f"{segment[:40]!r} is not a portable file name"
    return None


_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))})


def _parse_hub(text: str) -> ModelRef:
    head, at, tail = text.rpartition("@")
    head, tail = (head, tail) if at else (tail, "")
    revision, colon, quant = tail.partition(":") if at else ("", *head.partition(":")[1:])
    head = head if at else head.partition(":")[0]
    if at and not _is_revision(revision):
        raise RefError(f"{revision[:80]!r} is not a revision. Write a branch, tag or commit behind the '@'.")
    if colon and not _QUANT.fullmatch(quant):
        raise RefError(f"{quant[:80]!r} is not a quantisation. Write one such as Q4_K_M behind the ':'.")
    org, _, rest = head.partition("/")
    name, slash, path = rest.partition("/")
    if not (_is_name(org) and _is_name(name)):
        raise RefError(f"{head[:120]!r} names no repository. Write hf:org/name, for example hf:org/model.")
    if slash and (quant or not path):
        raise RefError("Name one file of the repository or a quantisation, not both, and no folder.")
    return ModelRef(
        repo=f"{org}/{name}",
        revision=revision or None,
        path=check_path(path) if path else None,
        quant=quant.upper() or None,
    )


def _is_name(part: str) -> bool:
    """Whether the Hub would accept this as an organisation or a repository's name."""
    return (
        bool(_NAME.fullmatch(part)) and ".." not in part and "--" not in part and not part.endswith((".", "-", ".git"))
    )


def _is_revision(text: str) -> bool:
    return (
        bool(_REVISION.fullmatch(text)) and ".." not in text and "//" not in text and not text.endswith(("/", ".lock"))
    )


def _parse_url(text: str) -> ModelRef:
    # As browsers do with what people paste; a host of other letters is no host below.
    text = quote(text, safe=_PRINTABLE)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise RefError(f"The URL is not valid: {error}.") from None
    host = parts.netloc.rpartition("@")[2]
    host = (host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]).lower()
    if "@" in parts.netloc:
        raise RefError("A URL with a user or password in it is not accepted.")
    if not _HOST.fullmatch(host) or port == 0:
        raise RefError("The URL has no valid host name.")
    scheme = parts.scheme.lower()
    is_default_port = port in (None, {"http": 80, "https": 443}[scheme])
    if host in _HUB_HOSTS and is_default_port:
        return _parse_hub_url(parts)
    netloc = host if is_default_port else f"{host}:{port}"
    return ModelRef(kind="url", url=urlunsplit((scheme, netloc, parts.path or "/", parts.query, "")))


def _parse_hub_url(parts: SplitResult) -> ModelRef:
    """A page or file address of the Hub, as people copy it from the browser, is a Hub reference: verified and
    resumable.
    """
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    if len(segments) < 2 or segments[0] in ("datasets", "spaces"):
        raise RefError("This address of the Hub names no model.")
    text = "/".join(segments[:2])
    if len(segments) > 3 and segments[2] in _HUB_VIEWS:
        path = "/".join(segments[4:])
        text += (f"/{path}" if path and segments[2] != "tree" else "") + f"@{segments[3]}"
    elif len(segments) > 2:
        raise RefError("This address of the Hub names no model or file.")
    return _parse_hub(text)
